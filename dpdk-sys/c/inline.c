/* Bodies of inline.h: nothing but the call that each name says. */
#include "inline.h"

#include <string.h>

int netvm_rte_errno(void)
{
	return rte_errno;
}

void netvm_rte_errno_set(int number)
{
	rte_errno = number;
}

unsigned int netvm_rte_lcore_id(void)
{
	return rte_lcore_id();
}

uint16_t netvm_rte_eth_rx_burst(uint16_t port_id, uint16_t queue_id, struct rte_mbuf **rx_pkts, uint16_t nb_pkts)
{
	return rte_eth_rx_burst(port_id, queue_id, rx_pkts, nb_pkts);
}

uint16_t netvm_rte_eth_tx_burst(uint16_t port_id, uint16_t queue_id, struct rte_mbuf **tx_pkts, uint16_t nb_pkts)
{
	return rte_eth_tx_burst(port_id, queue_id, tx_pkts, nb_pkts);
}

void netvm_rte_pktmbuf_free(struct rte_mbuf *m)
{
	rte_pktmbuf_free(m);
}

int netvm_rte_pktmbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, unsigned int count)
{
	return rte_pktmbuf_alloc_bulk(pool, mbufs, count);
}

void netvm_copy(void *to, const void *from, size_t len_bytes)
{
	memcpy(to, from, len_bytes);
}
