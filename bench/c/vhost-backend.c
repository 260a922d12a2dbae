/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * DPDK's own vhost-user backend (librte_vhost), driven as `bench` drives the product's: polled on one CPU,
 * mbufs from a pool with a cache, taken and given back within what is timed.
 *
 * usage: vhost-backend SOCKET CPU tx|rx FRAME_BYTES FEATURES
 * tx: takes what the guest sends. rx: sends to the guest. FEATURES: the bits on offer, hexadecimal.
 * Prints "ready BITS" once a driver is there, with what it took. Then, for each number of milliseconds on
 * standard input, polls for that long and prints: median cycles per packet over full bursts of 32; packets
 * per second; number of full bursts.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <rte_cycles.h>
#include <rte_eal.h>
#include <rte_mbuf.h>
#include <rte_vhost.h>

#define BURST 32
/* Cycles of a burst are counted in steps of 8, up to 2048 cycles a packet. */
#define STEP 8
#define STEPS (2048 * BURST / STEP)

static _Atomic int device = -1;
static uint32_t bursts[STEPS];

static int new_device(int vid)
{
	for (uint16_t queue = 0; queue < rte_vhost_get_vring_num(vid); queue++)
		rte_vhost_enable_guest_notification(vid, queue, 0);
	device = vid;
	return 0;
}

static void destroy_device(int vid)
{
	(void)vid;
	device = -1;
}

static void die(const char *what)
{
	fprintf(stderr, "vhost-backend: %s failed\n", what);
	exit(1);
}

/* One burst; how many packets. */
static uint16_t receive(int vid, struct rte_mempool *pool)
{
	struct rte_mbuf *frames[BURST];
	uint16_t count = rte_vhost_dequeue_burst(vid, 1, pool, frames, BURST);
	if (count > 0)
		rte_pktmbuf_free_bulk(frames, count);
	return count;
}

static uint16_t transmit(int vid, struct rte_mempool *pool, uint16_t frame_bytes)
{
	struct rte_mbuf *frames[BURST];
	if (rte_pktmbuf_alloc_bulk(pool, frames, BURST) != 0)
		die("rte_pktmbuf_alloc_bulk");
	for (int at = 0; at < BURST; at++)
		frames[at]->data_len = frames[at]->pkt_len = frame_bytes;
	uint16_t count = rte_vhost_enqueue_burst(vid, 0, frames, BURST);
	rte_pktmbuf_free_bulk(frames, BURST);
	return count;
}

static void window(int vid, struct rte_mempool *pool, int sends, uint16_t frame_bytes, uint64_t ms)
{
	uint64_t packets = 0, full = 0, start = rte_rdtsc(), now = start;
	uint64_t end = start + rte_get_tsc_hz() / 1000 * ms;
	memset(bursts, 0, sizeof bursts);
	while (now < end && vid >= 0 && device == vid) {
		uint64_t before = now;
		uint16_t count = sends ? transmit(vid, pool, frame_bytes) : receive(vid, pool);
		now = rte_rdtsc();
		packets += count;
		if (count == BURST) {
			uint64_t step = (now - before) / STEP;
			bursts[step < STEPS ? step : STEPS - 1]++;
			full++;
		}
	}
	uint64_t seen = 0, step = 0;
	while (step < STEPS - 1 && (seen += bursts[step]) * 2 < full)
		step++;
	printf("%.3f %.0f %lu\n", (step + 0.5) * STEP / BURST,
	       (double)packets * rte_get_tsc_hz() / (now - start), full);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	if (argc != 6) {
		fprintf(stderr, "usage: %s SOCKET CPU tx|rx FRAME_BYTES FEATURES\n", argv[0]);
		return 2;
	}
	char *eal[] = { argv[0], "--in-memory", "--no-pci", "--no-telemetry", "--iova-mode=va", "-m", "64",
			"--log-level=error", "-l", argv[2] };
	if (rte_eal_init(sizeof eal / sizeof *eal, eal) < 0)
		die("rte_eal_init");
	const char *path = argv[1];
	int sends = strcmp(argv[3], "rx") == 0;
	uint16_t frame_bytes = atoi(argv[4]);
	struct rte_mempool *pool =
		rte_pktmbuf_pool_create("frames", 8191, 256, 0, RTE_MBUF_DEFAULT_BUF_SIZE, SOCKET_ID_ANY);
	if (pool == NULL)
		die("rte_pktmbuf_pool_create");
	static const struct rte_vhost_device_ops ops = { .new_device = new_device,
							 .destroy_device = destroy_device };
	if (rte_vhost_driver_register(path, 0) != 0)
		die("rte_vhost_driver_register");
	/* Not rte_vhost_driver_set_features, which turns its network device off. */
	if (rte_vhost_driver_disable_features(path, ~strtoull(argv[5], NULL, 16)) != 0)
		die("rte_vhost_driver_disable_features");
	if (rte_vhost_driver_callback_register(path, &ops) != 0)
		die("rte_vhost_driver_callback_register");
	if (rte_vhost_driver_start(path) != 0)
		die("rte_vhost_driver_start");
	while (device < 0)
		usleep(1000);
	uint64_t taken = 0;
	rte_vhost_get_negotiated_features(device, &taken);
	printf("ready %lx\n", taken);
	fflush(stdout);
	char line[32];
	while (fgets(line, sizeof line, stdin) != NULL)
		window(device, pool, sends, frame_bytes, strtoull(line, NULL, 10));
	return 0;
}
