/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * DPDK's rte_hash as a flow table, for comparison with `bench/src/flow_lane.rs`, which does the same work: bulks
 * of 32 packets are looked up by keys of 40 bytes, 90 % of which are there, in shuffled order, and each packet
 * found is counted in its flow's line. All memory is on hugepages.
 *
 * Of what rte_hash offers, this is the fastest that was measured: the CRC hash inlined and given to the bulk lookup,
 * which was compared with hashing inside; data pointers instead of positions; no comparison of keys of our own; no
 * locks, no extendable buckets.
 *
 * usage: flow-hash CPU FLOWS
 * Prints "ready LOAD", then for each line with a number of milliseconds on stdin: cycles of the time stamp counter
 * a packet, packets, and the share of them that was found.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sched.h>
#include <unistd.h>
#include <rte_cycles.h>
#include <rte_eal.h>
#include <rte_hash.h>
#include <rte_hash_crc.h>
#include <rte_malloc.h>
#include <rte_prefetch.h>

#define BURST 32
#define KEY_WORDS 5
#define KEY_BYTES (8 * KEY_WORDS)
#define WARM_UP_MS 20

struct packet {
	uint64_t key[KEY_WORDS];
	uint16_t bytes;
	uint8_t direction;
};

struct flow {
	uint64_t packets, bytes;
	uint32_t last_seen_ms;
} __rte_aligned(64);

static struct rte_hash *table;
static struct flow *flows;
static struct packet *packets;
static size_t packet_count, at;
static uint64_t random_state = 1;

/* SplitMix64. */
static uint64_t random_word(void)
{
	uint64_t x = random_state += 0x9e3779b97f4a7c15;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
	x = (x ^ x >> 27) * 0x94d049bb133111eb;
	return x ^ x >> 31;
}

static inline uint64_t now_of(uint64_t cycle)
{
	return cycle >> 21;
}

static inline uint32_t look_up(uint32_t now_ms)
{
	const struct packet *burst = packets + at;
	const void *keys[BURST];
	hash_sig_t hashes[BURST];
	void *found[BURST];
	uint64_t hits = 0;
	for (int i = 0; i < BURST; i++) {
		keys[i] = burst[i].key;
		hashes[i] = rte_hash_crc(burst[i].key, KEY_BYTES, 0);
	}
	rte_hash_lookup_with_hash_bulk_data(table, keys, hashes, BURST, &hits, found);
	for (uint64_t left = hits; left != 0; left &= left - 1)
		rte_prefetch0(found[__builtin_ctzll(left)]);
	for (uint64_t left = hits; left != 0; left &= left - 1) {
		int i = __builtin_ctzll(left);
		struct flow *flow = found[i];
		flow->packets++;
		flow->bytes += burst[i].bytes;
		flow->last_seen_ms = now_ms;
	}
	at += BURST;
	if (at == packet_count)
		at = 0;
	return __builtin_popcountll(hits);
}

/* Looks up for so many cycles. */
static void run(uint64_t cycles, uint64_t *spent, uint64_t *looked_up, uint64_t *hits)
{
	uint64_t from = rte_rdtsc(), now = from;
	*looked_up = *hits = 0;
	while (now - from < cycles) {
		for (int i = 0; i < 16; i++)
			*hits += look_up((uint32_t)now_of(now));
		*looked_up += 16 * BURST;
		now = rte_rdtsc();
	}
	*spent = now - from;
}

static void *zeroed(size_t bytes)
{
	void *memory = rte_zmalloc(NULL, bytes, 64);
	if (memory == NULL) {
		fprintf(stderr, "flow-hash: no memory for %zu bytes\n", bytes);
		exit(1);
	}
	return memory;
}

/* Keys as the other program makes them: half of the flows are IPv4. */
static void make_key(uint64_t *key)
{
	uint64_t words[KEY_WORDS];
	for (int i = 0; i < KEY_WORDS; i++)
		words[i] = random_word();
	if (words[4] & 1) {
		words[0] = words[2] = 0;
		words[1] >>= 32;
		words[3] >>= 32;
	}
	memcpy(key, words, KEY_BYTES);
}

static void make_packets(size_t flow_count)
{
	size_t misses = flow_count / 9;
	packet_count = (flow_count + misses) / BURST * BURST;
	packets = zeroed((flow_count + misses) * sizeof *packets);
	for (size_t i = 0; i < flow_count + misses; i++) {
		make_key(packets[i].key);
		packets[i].bytes = 64 + random_word() % 1400;
		packets[i].direction = random_word() & 1;
	}
	for (size_t i = 0; i < flow_count; i++)
		if (rte_hash_add_key_data(table, packets[i].key, flows + i) != 0) {
			fprintf(stderr, "flow-hash: flow %zu has no room\n", i);
			exit(1);
		}
	for (size_t i = flow_count + misses - 1; i > 0; i--) {
		size_t other = random_word() % (i + 1);
		struct packet packet = packets[i];
		packets[i] = packets[other];
		packets[other] = packet;
	}
}

int main(int argc, char **argv)
{
	if (argc != 3) {
		fprintf(stderr, "usage: flow-hash CPU FLOWS\n");
		return 2;
	}
	size_t flow_count = strtoul(argv[2], NULL, 10);
	char *eal[] = { "flow-hash", "--in-memory", "--no-pci", "--no-telemetry", "--log-level=3", "-l", argv[1] };
	if (rte_eal_init(sizeof eal / sizeof *eal, eal) < 0)
		return 1;
	/* A load of four fifths at most. */
	struct rte_hash_parameters parameters = {
		.name = "flows",
		.entries = (uint32_t)(flow_count * 5 / 4),
		.key_len = KEY_BYTES,
		.hash_func = rte_hash_crc,
	};
	table = rte_hash_create(&parameters);
	if (table == NULL) {
		fprintf(stderr, "flow-hash: rte_hash_create gave nothing\n");
		return 1;
	}
	flows = zeroed(flow_count * sizeof *flows);
	make_packets(flow_count);
	printf("ready %.3f\n", (double)flow_count / rte_align32pow2(parameters.entries));
	fflush(stdout);
	char line[32];
	while (fgets(line, sizeof line, stdin) != NULL) {
		uint64_t ms_cycles = rte_get_tsc_hz() / 1000, spent, looked_up, hits;
		run(WARM_UP_MS * ms_cycles, &spent, &looked_up, &hits);
		run(strtoul(line, NULL, 10) * ms_cycles, &spent, &looked_up, &hits);
		printf("%.3f %llu %.4f\n", (double)spent / looked_up, (unsigned long long)looked_up,
		       (double)hits / looked_up);
		fflush(stdout);
	}
	return 0;
}
