/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The raw limit: a bare single-producer single-consumer ring of 16-byte descriptors between two cores, one
 * way, nothing checked. The producer writes the first cache line of each packet, the consumer reads and
 * writes it (swaps the MAC addresses), as a forwarding NF does.
 *
 * With -DRTE_RING the same work goes through DPDK's rte_ring (SP/SC, 16-byte elements): the bare ring is a
 * valid yardstick only while it is at least as fast.
 *
 * usage: raw-ring PRODUCER_CPU CONSUMER_CPU RING_SLOTS BUFFERS STRIDE_BYTES BURST WINDOW_MS
 * Prints one number: packets that the consumer took per second.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#ifdef RTE_RING
#include <rte_ring.h>
#include <rte_ring_elem.h>
#endif

struct desc {
	uint64_t word0, word1;
} __attribute__((aligned(16)));

/* Each word that changes has two cache lines to itself; what follows it is only read. */
static struct {
	_Alignas(128) _Atomic uint32_t produced;
	_Alignas(128) _Atomic uint32_t consumed;
	_Alignas(128) _Atomic int stop;
	_Alignas(128) _Atomic uint64_t packets_taken;
} shared;
static _Alignas(128) struct desc *slots;
static uint8_t *buffers;
static uint32_t slot_count_asked, buffer_count, burst_asked, window_ms;
static size_t stride;
static int producer_cpu, consumer_cpu;
#ifdef RTE_RING
static struct rte_ring *ring;
#endif

static void pin(int cpu)
{
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (pthread_setaffinity_np(pthread_self(), sizeof set, &set) != 0) {
		fprintf(stderr, "raw-ring: cannot run on CPU %d\n", cpu);
		exit(1);
	}
}

static inline void write_packet(uint32_t index)
{
	uint64_t *line = (uint64_t *)(buffers + (size_t)index * stride + 128);
	line[0] = index;
	line[1] = ~(uint64_t)index;
}

static inline void swap_macs(uint32_t index)
{
	uint8_t *data = buffers + (size_t)index * stride + 128;
	uint8_t mac[6];
	memcpy(mac, data, 6);
	memcpy(data, data + 6, 6);
	memcpy(data + 6, mac, 6);
}

#ifndef RTE_RING
/* The ring as at most two straight pieces. */
static inline void copy_in(const struct desc *from, uint32_t at, uint32_t count, uint32_t slot_count)
{
	uint32_t first = at & (slot_count - 1), straight = slot_count - first;
	if (count <= straight) {
		for (uint32_t i = 0; i < count; i++)
			slots[first + i] = from[i];
		return;
	}
	memcpy(slots + first, from, straight * sizeof *from);
	memcpy(slots, from + straight, (count - straight) * sizeof *from);
}

static inline void copy_out(struct desc *to, uint32_t at, uint32_t count, uint32_t slot_count)
{
	uint32_t first = at & (slot_count - 1), straight = slot_count - first;
	if (count <= straight) {
		for (uint32_t i = 0; i < count; i++)
			to[i] = slots[first + i];
		return;
	}
	memcpy(to, slots + first, straight * sizeof *to);
	memcpy(to + straight, slots, (count - straight) * sizeof *to);
}
#endif

static void *produce(void *unused)
{
	(void)unused;
	pin(producer_cpu);
	const uint32_t burst = burst_asked, slot_count = slot_count_asked;
	uint32_t own = 0, seen = 0, next = 0;
	struct desc out[64];
	while (!atomic_load_explicit(&shared.stop, memory_order_relaxed)) {
#ifdef RTE_RING
		if (rte_ring_free_count(ring) < burst)
			continue;
		for (uint32_t i = 0; i < burst; i++) {
			write_packet(next);
			out[i] = (struct desc){ next | (uint64_t)128 << 32 | (uint64_t)64 << 48, 1 };
			next = next + 1 == buffer_count ? 0 : next + 1;
		}
		rte_ring_sp_enqueue_bulk_elem(ring, out, sizeof out[0], burst, NULL);
		(void)own;
		(void)seen;
		(void)slot_count;
#else
		if (slot_count - (own - seen) < burst) {
			seen = atomic_load_explicit(&shared.consumed, memory_order_acquire);
			if (slot_count - (own - seen) < burst)
				continue;
		}
		for (uint32_t i = 0; i < burst; i++) {
			write_packet(next);
			out[i] = (struct desc){ next | (uint64_t)128 << 32 | (uint64_t)64 << 48, 1 };
			next = next + 1 == buffer_count ? 0 : next + 1;
		}
		copy_in(out, own, burst, slot_count);
		own += burst;
		atomic_store_explicit(&shared.produced, own, memory_order_release);
#endif
	}
	return NULL;
}

static void *consume(void *unused)
{
	(void)unused;
	pin(consumer_cpu);
	const uint32_t burst = burst_asked, slot_count = slot_count_asked;
	uint64_t taken = 0;
	uint32_t own = 0, seen = 0;
	struct desc in[64];
	while (!atomic_load_explicit(&shared.stop, memory_order_relaxed)) {
#ifdef RTE_RING
		uint32_t count = rte_ring_sc_dequeue_burst_elem(ring, in, sizeof in[0], burst, NULL);
		(void)own;
		(void)seen;
		(void)slot_count;
#else
		if (seen - own < burst)
			seen = atomic_load_explicit(&shared.produced, memory_order_acquire);
		uint32_t count = seen - own < burst ? seen - own : burst;
		if (count == 0)
			continue;
		copy_out(in, own, count, slot_count);
		own += count;
		atomic_store_explicit(&shared.consumed, own, memory_order_release);
#endif
		for (uint32_t i = 0; i < count; i++)
			swap_macs((uint32_t)in[i].word0);
		taken += count;
		atomic_store_explicit(&shared.packets_taken, taken, memory_order_relaxed);
	}
	return NULL;
}

static void *shared_memory(size_t bytes)
{
	const size_t huge = (size_t)2 << 20;
	size_t rounded = (bytes + huge - 1) / huge * huge;
	void *at = mmap(NULL, rounded, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	if (at == MAP_FAILED)
		at = mmap(NULL, rounded, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (at == MAP_FAILED) {
		fprintf(stderr, "raw-ring: no memory: %s\n", strerror(errno));
		exit(1);
	}
	memset(at, 0, rounded);
	return at;
}

int main(int argc, char **argv)
{
	if (argc != 8) {
		fprintf(stderr, "usage: raw-ring PRODUCER_CPU CONSUMER_CPU RING_SLOTS BUFFERS STRIDE_BYTES BURST WINDOW_MS\n");
		return 2;
	}
	producer_cpu = atoi(argv[1]);
	consumer_cpu = atoi(argv[2]);
	slot_count_asked = (uint32_t)atoi(argv[3]);
	buffer_count = (uint32_t)atoi(argv[4]);
	stride = (size_t)atoi(argv[5]);
	burst_asked = (uint32_t)atoi(argv[6]);
	window_ms = (uint32_t)atoi(argv[7]);
	/* A buffer must not be written again while its descriptor waits. */
	if (slot_count_asked == 0 || (slot_count_asked & (slot_count_asked - 1)) != 0 || burst_asked == 0 || burst_asked > 64 ||
	    burst_asked > slot_count_asked || buffer_count < slot_count_asked + 2 * burst_asked) {
		fprintf(stderr, "raw-ring: ring slots a power of two, burst at most 64, buffers at least slots + 2 bursts\n");
		return 2;
	}
	slots = shared_memory(slot_count_asked * sizeof *slots);
	buffers = shared_memory((size_t)buffer_count * stride + 4096);
#ifdef RTE_RING
	ring = aligned_alloc(128, ((size_t)rte_ring_get_memsize_elem(sizeof(struct desc), slot_count_asked * 2) + 127) / 128 * 128);
	if (ring == NULL || rte_ring_init(ring, "raw", slot_count_asked, RING_F_SP_ENQ | RING_F_SC_DEQ) != 0)
		return 1;
#endif
	pthread_t producer, consumer;
	if (pthread_create(&consumer, NULL, consume, NULL) != 0 || pthread_create(&producer, NULL, produce, NULL) != 0)
		return 1;
	const struct timespec warm_up = { 0, 100 * 1000 * 1000 };
	nanosleep(&warm_up, NULL);
	struct timespec from, to;
	const struct timespec window = { window_ms / 1000, (long)(window_ms % 1000) * 1000 * 1000 };
	clock_gettime(CLOCK_MONOTONIC, &from);
	uint64_t before = atomic_load(&shared.packets_taken);
	nanosleep(&window, NULL);
	uint64_t after = atomic_load(&shared.packets_taken);
	clock_gettime(CLOCK_MONOTONIC, &to);
	atomic_store(&shared.stop, 1);
	pthread_join(producer, NULL);
	pthread_join(consumer, NULL);
	double seconds = (double)(to.tv_sec - from.tv_sec) + (double)(to.tv_nsec - from.tv_nsec) / 1e9;
	printf("%.0f\n", (double)(after - before) / seconds);
	return 0;
}
