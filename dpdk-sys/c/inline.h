/* What the headers of DPDK offer only inline or as macros, given a symbol and an address.
 *
 * Written by hand rather than generated: the list is short, each line is on the hot path or
 * the only way to reach thread-local state, and the compiler that builds DPDK's own
 * applications (with the flags pkg-config names) builds these as well.
 */
#ifndef NETVM_DPDK_INLINE_H
#define NETVM_DPDK_INLINE_H

#include <stddef.h>
#include <stdint.h>

#include <rte_config.h>
#include <rte_bus.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_lcore.h>
#include <rte_malloc.h>
#include <rte_mbuf.h>
#include <rte_memory.h>
#include <rte_mempool.h>
#include <rte_version.h>

/* rte_errno of the calling thread. */
int netvm_rte_errno(void);
void netvm_rte_errno_set(int number);

/* rte_lcore_id() of the calling thread; LCORE_ID_ANY for a thread that DPDK does not know. */
unsigned int netvm_rte_lcore_id(void);

uint16_t netvm_rte_eth_rx_burst(uint16_t port_id, uint16_t queue_id, struct rte_mbuf **rx_pkts, uint16_t nb_pkts);
uint16_t netvm_rte_eth_tx_burst(uint16_t port_id, uint16_t queue_id, struct rte_mbuf **tx_pkts, uint16_t nb_pkts);

/* Frees a frame, all segments of it. */
void netvm_rte_pktmbuf_free(struct rte_mbuf *m);

/* All or nothing; 0 on success. The mbufs are reset as by rte_pktmbuf_reset(). */
int netvm_rte_pktmbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, unsigned int count);

/* memcpy(), out of the sight of the caller's optimiser: one side may be memory that a
 * guest writes at the same time. The areas do not overlap. */
void netvm_copy(void *to, const void *from, size_t len_bytes);

/* Macros that are too involved for the binding generator, as constants of known type. */
static const uint64_t NETVM_MBUF_F_EXTERNAL = RTE_MBUF_F_EXTERNAL;
static const uint64_t NETVM_MBUF_F_INDIRECT = RTE_MBUF_F_INDIRECT;
static const uint64_t NETVM_MBUF_F_RX_RSS_HASH = RTE_MBUF_F_RX_RSS_HASH;
static const uint64_t NETVM_MBUF_F_RX_VLAN = RTE_MBUF_F_RX_VLAN;
static const uint64_t NETVM_MBUF_F_RX_VLAN_STRIPPED = RTE_MBUF_F_RX_VLAN_STRIPPED;
static const uint32_t NETVM_PKTMBUF_POOL_F_PINNED_EXT_BUF = RTE_PKTMBUF_POOL_F_PINNED_EXT_BUF;
static const uint32_t NETVM_MEMPOOL_F_NO_SPREAD = RTE_MEMPOOL_F_NO_SPREAD;
static const uint16_t NETVM_MBUF_PORT_INVALID = RTE_MBUF_PORT_INVALID;
static const uint16_t NETVM_PKTMBUF_HEADROOM = RTE_PKTMBUF_HEADROOM;
static const uint64_t NETVM_ETH_RSS_IP_TCP_UDP = RTE_ETH_RSS_IP | RTE_ETH_RSS_TCP | RTE_ETH_RSS_UDP;
static const uint64_t NETVM_ETH_RX_OFFLOAD_RSS_HASH = RTE_ETH_RX_OFFLOAD_RSS_HASH;
static const uint64_t NETVM_ETH_TX_OFFLOAD_MULTI_SEGS = RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
static const uint64_t NETVM_ETH_TX_OFFLOAD_MBUF_FAST_FREE = RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE;
static const uint32_t NETVM_LCORE_ID_ANY = LCORE_ID_ANY;
static const int NETVM_SOCKET_ID_ANY = SOCKET_ID_ANY;

#endif
