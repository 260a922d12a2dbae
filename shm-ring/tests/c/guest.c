/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * A guest in C: attaches to endpoint 0, gives every packet back with the verdict "next", and leaves after a
 * number of packets. With a region, it observes: it copies what it is shown, says what the copy holds in a counter of
 * its own, and gives the reference back.
 *
 * guest FILE PACKETS [REGION]
 */
#define _POSIX_C_SOURCE 200809L

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "netvm.h"

#define NONCE UINT64_C(0x5eed)
#define BURST 32

static int fail(const char *what, int code)
{
    fprintf(stderr, "guest: %s (%d)\n", what, code);
    return 1;
}

static int forward(struct netvm_endpoint *endpoint, struct netvm_ring there, struct netvm_ring back,
                   uint64_t packets)
{
    struct netvm_consumer take = netvm_consumer(there);
    struct netvm_producer give = netvm_producer(back);
    struct netvm_desc burst[BURST];
    uint64_t done = 0;
    while (done < packets) {
        netvm_beat(endpoint);
        int32_t count = netvm_take(&take, burst, BURST);
        if (count < 0)
            return fail("the host's produced breaks the rules", count);
        if (count == 0) {
            sched_yield();
            continue;
        }
        int32_t room = netvm_room(&give, (uint32_t)count);
        if (room < count)
            return fail("no room for what was lent", room);
        for (int32_t i = 0; i < count; i++) {
            if (burst[i].code != NETVM_KIND_PACKET)
                return fail("lent something else than a packet", burst[i].code);
            burst[i].code = NETVM_VERDICT_NEXT;
            burst[i].aux = burst[i].buffer_index + 1;
            if (!netvm_stage(&give, burst[i]))
                return fail("stage refused although there was room", i);
        }
        netvm_publish(&give);
        netvm_release(&take);
        netvm_count(&endpoint->own->counters[NETVM_COUNTER_RECEIVED], (uint64_t)count);
        done += (uint64_t)count;
    }
    return 0;
}

/* Counter 8: sum of the bytes of all copies. Counter 9: references that had ended. */
static int observe(struct netvm_endpoint *endpoint, const struct netvm_control_header *header,
                   struct netvm_ring there, struct netvm_ring back, const struct netvm_references *references,
                   const void *region, uint64_t packets)
{
    struct netvm_consumer take = netvm_consumer(there);
    struct netvm_producer give = netvm_producer(back);
    uint8_t copy[2048];
    for (uint64_t done = 0; done < packets;) {
        struct netvm_desc desc = {0};
        netvm_beat(endpoint);
        int32_t count = netvm_take(&take, &desc, 1);
        if (count < 0)
            return fail("the host's produced breaks the rules", count);
        if (count == 0) {
            sched_yield();
            continue;
        }
        int32_t bytes = netvm_view_copy(references, region, header, desc, copy, sizeof(copy));
        if (bytes == NETVM_E_LAYOUT)
            return fail("shown what is no part of the region", bytes);
        uint64_t sum = 0;
        for (int32_t i = 0; i < bytes; i++)
            sum += copy[i];
        netvm_count(&endpoint->own->counters[NETVM_COUNTER_APP], sum);
        netvm_count(&endpoint->own->counters[NETVM_COUNTER_APP + 1], bytes == NETVM_E_EXPIRED);
        desc.code = NETVM_RELEASE;
        if (netvm_room(&give, 1) < 1 || !netvm_stage(&give, desc))
            return fail("no room for what was shown", 0);
        netvm_publish(&give);
        netvm_release(&take);
        done++;
    }
    return 0;
}

static void *map(const char *path, int writable, size_t *bytes)
{
    struct stat status;
    int fd = open(path, writable ? O_RDWR : O_RDONLY);
    if (fd < 0 || fstat(fd, &status) != 0)
        return MAP_FAILED;
    *bytes = (size_t)status.st_size;
    return mmap(NULL, *bytes, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
}

int main(int argc, char **argv)
{
    struct netvm_control_header header;
    struct netvm_endpoint endpoint;
    struct netvm_ring rings[2];
    struct netvm_references references = {0};
    const void *region = NULL;
    size_t bytes, region_bytes;
    uint32_t epoch;
    int answer, code;

    if (argc != 3 && argc != 4)
        return fail("usage: guest FILE PACKETS [REGION]", argc);
    void *base = map(argv[1], 1, &bytes);
    if (base == MAP_FAILED)
        return fail("cannot map the control area", 0);
    if (argc == 4 && (region = map(argv[3], 0, &region_bytes)) == MAP_FAILED)
        return fail("cannot map the region", 0);

    if ((code = netvm_control_copy(base, bytes, &header)) != 0)
        return fail("control area refused", code);
    if ((code = netvm_endpoint_copy(base, &header, 0, &endpoint)) != 0)
        return fail("endpoint refused", code);
    for (uint32_t i = 0; i < 2; i++) {
        struct netvm_ring_entry entry;
        if ((code = netvm_ring_copy(base, &header, endpoint.facts.first_ring + i, &entry)) != 0)
            return fail("ring entry refused", code);
        if ((code = netvm_ring_locate(base, &header, &entry, &rings[entry.direction == NETVM_GUEST_TO_HOST])) != 0)
            return fail("ring refused", code);
        if (entry.direction == NETVM_HOST_TO_GUEST &&
            (code = netvm_references_locate(base, &header, &entry, &references)) != 0)
            return fail("references refused", code);
    }

    netvm_ask(&endpoint, NONCE, header.features_offered & NETVM_FEATURES_KNOWN);
    while ((answer = netvm_answered(&endpoint, NONCE, &epoch)) == 0)
        sched_yield();
    if (answer < 0)
        return fail("attach refused", (int)atomic_load(&endpoint.host->refusal));
    netvm_ring_reset(&rings[0], NETVM_HOST_TO_GUEST);
    netvm_ring_reset(&rings[1], NETVM_GUEST_TO_HOST);
    netvm_confirm(&endpoint, epoch);
    if (!netvm_current(&endpoint, epoch))
        return fail("epoch withdrawn", (int)epoch);
    uint64_t packets = strtoull(argv[2], NULL, 10);
    code = region ? observe(&endpoint, &header, rings[0], rings[1], &references, region, packets)
                  : forward(&endpoint, rings[0], rings[1], packets);
    if (code == 0) {
        /* The host has nothing more to lend; what it might have lent meanwhile would be taken here. */
        netvm_drain(&endpoint, epoch);
        while (!netvm_drained(&endpoint))
            sched_yield();
    }
    netvm_leave(&endpoint, epoch);
    return code;
}
