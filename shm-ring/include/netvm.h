/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The memory that a netvm switch shares with its guests; layout version 1.
 *
 * All that a network function or a poll-mode driver in C needs. C11, little-endian, no library but memcpy.
 *
 * A control area belongs to one VM or process:
 *
 *   0                      netvm_control_header                  host section: written by the host only
 *   endpoint_table_offset  netvm_endpoint_entry x endpoint_count
 *   ring_table_offset      netvm_ring_entry x ring_count
 *   target_table_offset    netvm_target_entry x target_count
 *   ...                    counters and descriptors of the host, words of references
 *   guest_section_offset   netvm_guest_words x endpoint_count    guest section: written by the guest only
 *   ...                    counters and descriptors of the guest
 *
 * A region is the packet memory of one domain: netvm_region_header, then buffer i at
 * buffers_offset + i * buffer_stride_bytes. Buffers are named by index, never by byte offset.
 *
 * How to use it, one thread for each endpoint:
 *
 *   1. netvm_control_copy, then netvm_endpoint_copy, netvm_ring_copy, netvm_ring_locate for its rings. These
 *      copy once and check; keep the copies.
 *   2. netvm_ask with a fresh nonce; poll netvm_answered; set up producers and consumers; netvm_confirm.
 *   3. netvm_take from host_to_guest; work on the packet in place; netvm_room, netvm_stage and netvm_publish
 *      into guest_to_host; netvm_release; netvm_beat. Each buffer goes back exactly once, with the index and
 *      the generation that it came with.
 *   4. When netvm_current is false, or a function returns NETVM_E_PEER: stop, touch no buffer, go to 2.
 *   5. netvm_leave when no buffer is touched any more.
 *
 * An observer (access 1) maps the region read-only and is brought references instead of packets: netvm_take, then
 * netvm_view_copy, which says whether the copy is of use, then the descriptor back as it came, with the code
 * NETVM_RELEASE. The host ends a reference without waiting; it is given back all the same, once.
 *
 * Header and entries of tables may be longer than the structs here: a later minor version adds fields at their ends.
 * The functions below step over them.
 */
#ifndef NETVM_H
#define NETVM_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the layout is little-endian"
#endif
#if ATOMIC_INT_LOCK_FREE != 2 || ATOMIC_LLONG_LOCK_FREE != 2
#error "32-bit and 64-bit atomics must be free of locks: a lock would not be shared with the host"
#endif

#define NETVM_CONTROL_MAGIC UINT64_C(0x4c54434d5654454e) /* "NETVMCTL" */
#define NETVM_REGION_MAGIC UINT64_C(0x4e47524d5654454e)  /* "NETVMRGN" */
#define NETVM_VERSION_MAJOR 1u
#define NETVM_VERSION_MINOR 0u
#define NETVM_PAGE_BYTES 4096u
#define NETVM_COUNTER_LINE_BYTES 128u
#define NETVM_CACHE_LINE_BYTES 64u
#define NETVM_DESC_BYTES 16u
#define NETVM_RING_SLOTS_MIN 8u
#define NETVM_RING_SLOTS_MAX 32768u
#define NETVM_REFERENCES_MAX 32768u
#define NETVM_HEADROOM_BYTES 128u
#define NETVM_NAME_BYTES 28u
#define NETVM_FEATURES_KNOWN UINT64_C(0)

/* netvm_ring_entry.direction */
#define NETVM_HOST_TO_GUEST 1u
#define NETVM_GUEST_TO_HOST 2u

/* netvm_target_entry.kind */
#define NETVM_TARGET_SERVICE 1u
#define NETVM_TARGET_PORT 2u

/* netvm_desc.code from the host */
#define NETVM_KIND_PACKET 0x01u
#define NETVM_KIND_EMPTY 0x02u
#define NETVM_REFERENCE 0x03u /* nothing is lent: see References below */

/* netvm_desc.code to the host */
#define NETVM_VERDICT_NEXT 0x11u
#define NETVM_VERDICT_TO_SERVICE 0x12u
#define NETVM_VERDICT_TO_PORT 0x13u
#define NETVM_VERDICT_DROP 0x14u
#define NETVM_VERDICT_RETURN_EMPTY 0x15u
#define NETVM_RELEASE 0x16u /* gives a reference back; no verdict */

/* netvm_desc.flags; reserved, refused in version 1 */
#define NETVM_FLAG_MORE 0x01u
#define NETVM_FLAGS_KNOWN 0x00u

/* netvm_host_words.phase, for display */
#define NETVM_PHASE_DETACHED 0u
#define NETVM_PHASE_PUBLISHED 1u
#define NETVM_PHASE_ATTACHED 2u
#define NETVM_PHASE_REFUSED 3u
#define NETVM_PHASE_QUARANTINED 4u
#define NETVM_PHASE_DRAINING 5u /* after netvm_drain: nothing more comes */

/* netvm_host_words.refusal */
#define NETVM_REFUSAL_VERSION 1u
#define NETVM_REFUSAL_FEATURES 2u
#define NETVM_REFUSAL_TOO_OFTEN 3u
#define NETVM_REFUSAL_QUARANTINED 4u
#define NETVM_REFUSAL_UNPROVEN 5u

/* netvm_guest_words.counters, for display */
#define NETVM_COUNTER_RECEIVED 0u
#define NETVM_COUNTER_SENT 1u
#define NETVM_COUNTER_DROPPED 2u
#define NETVM_COUNTER_MADE 3u
#define NETVM_COUNTER_EMPTY_POLLS 4u
#define NETVM_COUNTER_APP 8u

/* What functions return instead of a count or an epoch. */
#define NETVM_E_PEER (-1)      /* the host's counter breaks the rules of the ring: attach anew */
#define NETVM_E_MAGIC (-2)     /* no control area */
#define NETVM_E_VERSION (-3)   /* another major version: see version_major of the copy */
#define NETVM_E_LAYOUT (-4)    /* sizes, places or codes that version 1 does not have */
#define NETVM_E_REFUSED (-5)   /* the host said no: see refusal in its words */
#define NETVM_E_EXPIRED (-6)   /* the reference has ended: what was copied is of no use */

/* Head of a control area. */
struct netvm_control_header {
    uint64_t magic;
    uint16_t version_major;
    uint16_t version_minor;
    uint32_t header_bytes;
    uint64_t control_bytes;
    uint64_t features_offered;
    uint64_t guest_section_offset;
    uint64_t region_bytes;
    uint64_t region_cookie;
    uint64_t buffers_offset;
    uint32_t buffer_stride_bytes;
    uint32_t buffer_count;
    uint16_t headroom_bytes;
    uint16_t access; /* 0: region read-write, 1: read-only */
    uint32_t endpoint_table_offset;
    uint32_t ring_table_offset;
    uint32_t target_table_offset;
    uint16_t endpoint_count;
    uint16_t endpoint_entry_bytes;
    uint16_t ring_count;
    uint16_t ring_entry_bytes;
    uint16_t target_count;
    uint16_t target_entry_bytes;
    uint32_t guest_words_bytes;
    uint8_t reserved[24];
};

/* What never changes about an endpoint. */
struct netvm_endpoint_facts {
    uint16_t endpoint_id;
    uint16_t service_id;
    uint16_t first_ring;
    uint16_t ring_count;
    uint32_t quota_buffers;
    uint32_t credit_buffers;
    uint64_t guest_words_offset;
    uint8_t service_name[NETVM_NAME_BYTES];
    uint32_t reserved0;
};

/* The host's side of a handshake; answered_nonce is written last. */
struct netvm_host_words {
    _Atomic uint32_t epoch;
    _Atomic uint32_t phase;
    _Atomic uint64_t answered_nonce;
    _Atomic uint32_t refusal;
    _Atomic uint32_t reserved[13];
};

struct netvm_endpoint_entry {
    struct netvm_endpoint_facts facts;
    struct netvm_host_words words;
};

struct netvm_ring_entry {
    uint8_t direction;
    uint8_t class_; /* traffic class, 0 */
    uint16_t endpoint;
    uint16_t lcore;
    uint16_t reserved0;
    uint32_t slots;
    uint32_t doorbell_id;
    uint64_t produced_offset;
    uint64_t consumed_offset;
    uint64_t descriptors_offset;
    uint64_t metadata_offset;
    uint64_t references_offset; /* of an observer, towards the guest: a 32-bit word for each reference */
    uint32_t reference_count;   /* at most NETVM_REFERENCES_MAX */
    uint32_t reserved1;
};

struct netvm_target_entry {
    uint8_t kind;
    uint8_t reserved;
    uint16_t id;
    uint8_t name[NETVM_NAME_BYTES];
};

/* What the guest says of one endpoint. */
struct netvm_guest_words {
    _Atomic uint64_t attach_nonce; /* written after version and features */
    _Atomic uint32_t version;      /* major << 16 | minor */
    _Atomic uint32_t confirmed_epoch;
    _Atomic uint64_t features_accepted;
    _Atomic uint32_t detached_epoch;
    _Atomic uint32_t reaped_epoch;
    _Atomic uint64_t heartbeat;
    _Atomic uint32_t draining_epoch;
    _Atomic uint32_t reserved0[5];
    _Atomic uint64_t counters[16];
    _Atomic uint32_t reserved1[80];
};

/* One counter of a ring, alone on 128 bytes. Counters run freely and wrap at 2^32. */
struct netvm_counter_line {
    _Alignas(128) _Atomic uint32_t value;
    _Atomic uint32_t want_wakeup; /* reserved */
    _Atomic uint32_t reserved[30];
};

struct netvm_slot {
    _Alignas(16) _Atomic uint64_t word0;
    _Atomic uint64_t word1;
};

struct netvm_region_header {
    uint64_t magic;
    uint16_t version_major;
    uint16_t version_minor;
    uint32_t reserved0;
    uint64_t cookie;
    uint64_t region_bytes;
    uint8_t reserved1[32];
};

_Static_assert(sizeof(struct netvm_control_header) == 128, "layout");
_Static_assert(sizeof(struct netvm_endpoint_facts) == 56, "layout");
_Static_assert(sizeof(struct netvm_host_words) == 72, "layout");
_Static_assert(sizeof(struct netvm_endpoint_entry) == 128, "layout");
_Static_assert(sizeof(struct netvm_ring_entry) == 64, "layout");
_Static_assert(sizeof(struct netvm_target_entry) == 32, "layout");
_Static_assert(sizeof(struct netvm_guest_words) == 512, "layout");
_Static_assert(sizeof(struct netvm_counter_line) == NETVM_COUNTER_LINE_BYTES, "layout");
_Static_assert(sizeof(struct netvm_slot) == NETVM_DESC_BYTES, "layout");
_Static_assert(sizeof(struct netvm_region_header) == 64, "layout");

/* A descriptor, unpacked.
 *
 *   word 0   bits  0..32  buffer index          word 1   bits  0..16  generation
 *            bits 32..48  data offset, bytes             bits 16..24  kind or verdict
 *            bits 48..64  data length, bytes             bits 24..32  flags
 *                                                        bits 32..64  mark, or target of a verdict;
 *                                                                     of a reference: ingress port, slot
 */
struct netvm_desc {
    uint32_t buffer_index;
    uint16_t data_offset_bytes; /* from the start of the buffer */
    uint16_t data_len_bytes;
    uint16_t generation;
    uint8_t code;
    uint8_t flags;
    uint32_t aux;
};

static inline uint64_t netvm_desc_word0(struct netvm_desc desc)
{
    return (uint64_t)desc.buffer_index | (uint64_t)desc.data_offset_bytes << 32 |
           (uint64_t)desc.data_len_bytes << 48;
}

static inline uint64_t netvm_desc_word1(struct netvm_desc desc)
{
    return (uint64_t)desc.generation | (uint64_t)desc.code << 16 | (uint64_t)desc.flags << 24 |
           (uint64_t)desc.aux << 32;
}

static inline struct netvm_desc netvm_desc_unpack(uint64_t word0, uint64_t word1)
{
    struct netvm_desc desc = {
        .buffer_index = (uint32_t)word0,
        .data_offset_bytes = (uint16_t)(word0 >> 32),
        .data_len_bytes = (uint16_t)(word0 >> 48),
        .generation = (uint16_t)word1,
        .code = (uint8_t)(word1 >> 16),
        .flags = (uint8_t)(word1 >> 24),
        .aux = (uint32_t)(word1 >> 32),
    };
    return desc;
}

/* Finding things ------------------------------------------------------------------------------------------ */

/* Copies `words` 64-bit words out of shared memory, each read once. */
static inline void netvm_copy_words(uint64_t *to, const void *from, size_t words)
{
    const _Atomic uint64_t *shared = (const _Atomic uint64_t *)from;
    for (size_t i = 0; i < words; i++)
        to[i] = atomic_load_explicit(&shared[i], memory_order_relaxed);
}

/* Whether `bytes` at `offset` lie within start..end, aligned. Written so that nothing wraps. */
static inline int netvm_inside(uint64_t offset, uint64_t bytes, uint64_t align, uint64_t start, uint64_t end)
{
    return offset % align == 0 && start <= offset && offset <= end && bytes <= end - offset;
}

/* Whether a struct is no shorter than it was first, in whole words; it may have grown at its end since. */
static inline int netvm_long_enough(uint64_t found, uint64_t first)
{
    return found >= first && found % 8 == 0;
}

/* Copies and checks the header of a control area mapped at `base`, which is aligned to a page. 0 or NETVM_E_*. */
static inline int netvm_control_copy(const void *base, uint64_t mapped_bytes, struct netvm_control_header *header)
{
    uint64_t words[sizeof(*header) / 8];
    if (mapped_bytes < sizeof(*header))
        return NETVM_E_LAYOUT;
    /* Acquire: header and tables are visible once the magic is; the host writes it last. */
    uint64_t magic = atomic_load_explicit((const _Atomic uint64_t *)base, memory_order_acquire);
    if (magic != NETVM_CONTROL_MAGIC)
        return NETVM_E_MAGIC;
    netvm_copy_words(words, base, sizeof(*header) / 8);
    memcpy(header, words, sizeof(*header));
    if (header->version_major != NETVM_VERSION_MAJOR)
        return NETVM_E_VERSION;
    uint64_t section = header->guest_section_offset;
    uint64_t header_end = header->header_bytes;
    int fits = netvm_long_enough(header->header_bytes, sizeof(*header)) &&
               netvm_long_enough(header->endpoint_entry_bytes, sizeof(struct netvm_endpoint_entry)) &&
               netvm_long_enough(header->ring_entry_bytes, sizeof(struct netvm_ring_entry)) &&
               netvm_long_enough(header->target_entry_bytes, sizeof(struct netvm_target_entry)) &&
               netvm_long_enough(header->guest_words_bytes, sizeof(struct netvm_guest_words)) &&
               header->control_bytes <= mapped_bytes && section <= header->control_bytes &&
               section % NETVM_PAGE_BYTES == 0 && header->access <= 1 &&
               netvm_inside(header->endpoint_table_offset,
                            (uint64_t)header->endpoint_count * header->endpoint_entry_bytes, 8, header_end,
                            section) &&
               netvm_inside(header->ring_table_offset,
                            (uint64_t)header->ring_count * header->ring_entry_bytes, 8, header_end, section) &&
               netvm_inside(header->target_table_offset,
                            (uint64_t)header->target_count * header->target_entry_bytes, 8, header_end,
                            section) &&
               /* u32 x u32 fits 64 bits */
               header->buffers_offset >= NETVM_PAGE_BYTES && header->buffers_offset <= header->region_bytes &&
               (uint64_t)header->buffer_count * header->buffer_stride_bytes <=
                   header->region_bytes - header->buffers_offset;
    return fits ? 0 : NETVM_E_LAYOUT;
}

/* One endpoint: a copy of its facts, and where the words of both sides are. */
struct netvm_endpoint {
    struct netvm_endpoint_facts facts;
    const struct netvm_host_words *host;
    struct netvm_guest_words *own;
};

/* Copies and checks an endpoint of the table. 0 or NETVM_E_LAYOUT. */
static inline int netvm_endpoint_copy(void *base, const struct netvm_control_header *header, uint16_t position,
                                      struct netvm_endpoint *endpoint)
{
    struct netvm_endpoint_facts *facts = &endpoint->facts;
    uint64_t words[sizeof(*facts) / 8];
    if (position >= header->endpoint_count)
        return NETVM_E_LAYOUT;
    struct netvm_endpoint_entry *entry =
        (struct netvm_endpoint_entry *)(void *)((char *)base + header->endpoint_table_offset +
                                                (size_t)position * header->endpoint_entry_bytes);
    netvm_copy_words(words, entry, sizeof(*facts) / 8);
    memcpy(facts, words, sizeof(*facts));
    if ((uint32_t)facts->first_ring + facts->ring_count > header->ring_count ||
        !netvm_inside(facts->guest_words_offset, header->guest_words_bytes, NETVM_CACHE_LINE_BYTES,
                      header->guest_section_offset, header->control_bytes))
        return NETVM_E_LAYOUT;
    endpoint->host = &entry->words;
    endpoint->own = (struct netvm_guest_words *)(void *)((char *)base + facts->guest_words_offset);
    return 0;
}

/* The shared parts of one ring. */
struct netvm_ring {
    struct netvm_counter_line *produced;
    struct netvm_counter_line *consumed;
    struct netvm_slot *slots;
    uint32_t slot_count;
};

/* Copies a ring's entry of the table: facts.first_ring onwards for an endpoint. 0 or NETVM_E_LAYOUT. */
static inline int netvm_ring_copy(const void *base, const struct netvm_control_header *header, uint32_t position,
                                  struct netvm_ring_entry *entry)
{
    uint64_t words[sizeof(*entry) / 8];
    if (position >= header->ring_count)
        return NETVM_E_LAYOUT;
    const char *table = (const char *)base + header->ring_table_offset;
    netvm_copy_words(words, table + (size_t)position * header->ring_entry_bytes, sizeof(*entry) / 8);
    memcpy(entry, words, sizeof(*entry));
    return 0;
}

/* Finds the parts of a ring by the copy of its entry: each in the section of its writer. 0 or NETVM_E_LAYOUT. */
static inline int netvm_ring_locate(void *base, const struct netvm_control_header *header,
                                    const struct netvm_ring_entry *entry, struct netvm_ring *ring)
{
    uint64_t split = header->guest_section_offset, end = header->control_bytes;
    uint64_t host_start = header->header_bytes, line = NETVM_COUNTER_LINE_BYTES;
    int towards_guest = entry->direction == NETVM_HOST_TO_GUEST;
    if (!towards_guest && entry->direction != NETVM_GUEST_TO_HOST)
        return NETVM_E_LAYOUT;
    if (entry->class_ != 0 || entry->slots < NETVM_RING_SLOTS_MIN || entry->slots > NETVM_RING_SLOTS_MAX ||
        (entry->slots & (entry->slots - 1)) != 0)
        return NETVM_E_LAYOUT;
    uint64_t p_start = towards_guest ? host_start : split, p_end = towards_guest ? split : end;
    uint64_t c_start = towards_guest ? split : host_start, c_end = towards_guest ? end : split;
    if (!netvm_inside(entry->produced_offset, line, line, p_start, p_end) ||
        !netvm_inside(entry->consumed_offset, line, line, c_start, c_end) ||
        !netvm_inside(entry->descriptors_offset, (uint64_t)entry->slots * NETVM_DESC_BYTES,
                      NETVM_CACHE_LINE_BYTES, p_start, p_end))
        return NETVM_E_LAYOUT;
    ring->produced = (struct netvm_counter_line *)(void *)((char *)base + entry->produced_offset);
    ring->consumed = (struct netvm_counter_line *)(void *)((char *)base + entry->consumed_offset);
    ring->slots = (struct netvm_slot *)(void *)((char *)base + entry->descriptors_offset);
    ring->slot_count = entry->slots;
    return 0;
}

/* The words of an observer's references in one ring towards it. */
struct netvm_references {
    const _Atomic uint32_t *words;
    uint32_t count;
};

/* Finds them by the copy of the ring's entry. 0 or NETVM_E_LAYOUT. */
static inline int netvm_references_locate(const void *base, const struct netvm_control_header *header,
                                          const struct netvm_ring_entry *entry,
                                          struct netvm_references *references)
{
    references->count = entry->reference_count;
    references->words = (const _Atomic uint32_t *)base;
    if (references->count == 0)
        return 0;
    if (entry->direction != NETVM_HOST_TO_GUEST || references->count > NETVM_REFERENCES_MAX ||
        !netvm_inside(entry->references_offset, (uint64_t)references->count * 4, NETVM_CACHE_LINE_BYTES,
                      header->header_bytes, header->guest_section_offset))
        return NETVM_E_LAYOUT;
    references->words =
        (const _Atomic uint32_t *)(const void *)((const char *)base + entry->references_offset);
    return 0;
}

/* Handshake ----------------------------------------------------------------------------------------------- */

/* Asks for an attach. `nonce` is fresh: random, not zero, never used before on this endpoint. */
static inline void netvm_ask(const struct netvm_endpoint *endpoint, uint64_t nonce, uint64_t features_accepted)
{
    struct netvm_guest_words *own = endpoint->own;
    uint32_t version = NETVM_VERSION_MAJOR << 16 | NETVM_VERSION_MINOR;
    atomic_store_explicit(&own->version, version, memory_order_relaxed);
    atomic_store_explicit(&own->features_accepted, features_accepted, memory_order_relaxed);
    /* Release: version and features are visible once the nonce is. */
    atomic_store_explicit(&own->attach_nonce, nonce, memory_order_release);
}

/* 0: not answered yet. 1: *epoch is to be confirmed. NETVM_E_REFUSED: no, or already withdrawn again. */
static inline int netvm_answered(const struct netvm_endpoint *endpoint, uint64_t nonce, uint32_t *epoch)
{
    const struct netvm_host_words *host = endpoint->host;
    /* Acquire: the rest of the answer and the reset rings are visible once the nonce is. */
    if (atomic_load_explicit(&host->answered_nonce, memory_order_acquire) != nonce)
        return 0;
    *epoch = atomic_load_explicit(&host->epoch, memory_order_relaxed);
    uint32_t refusal = atomic_load_explicit(&host->refusal, memory_order_relaxed);
    return refusal == 0 && *epoch != 0 ? 1 : NETVM_E_REFUSED;
}

/* Whether the host still serves the epoch that was confirmed. */
static inline int netvm_current(const struct netvm_endpoint *endpoint, uint32_t epoch)
{
    return atomic_load_explicit(&endpoint->host->epoch, memory_order_relaxed) == epoch;
}

/* Zeroes the guest's own counter of a ring: each ring of the endpoint, before netvm_confirm. */
static inline void netvm_ring_reset(const struct netvm_ring *ring, uint8_t direction)
{
    struct netvm_counter_line *own = direction == NETVM_HOST_TO_GUEST ? ring->consumed : ring->produced;
    atomic_store_explicit(&own->value, 0, memory_order_relaxed);
    atomic_store_explicit(&own->want_wakeup, 0, memory_order_relaxed);
}

/* Takes up the epoch; packets flow from here on. */
static inline void netvm_confirm(const struct netvm_endpoint *endpoint, uint32_t epoch)
{
    /* Release: the zeroed counters are visible once the confirmation is. */
    atomic_store_explicit(&endpoint->own->confirmed_epoch, epoch, memory_order_release);
}

/* About to end the epoch: asks the host to feed nothing more. Go on taking and giving back until netvm_drained says
 * so and the rings are empty after that, or for some hundred milliseconds at most; then netvm_leave. */
static inline void netvm_drain(const struct netvm_endpoint *endpoint, uint32_t epoch)
{
    atomic_store_explicit(&endpoint->own->draining_epoch, epoch, memory_order_relaxed);
}

/* Whether the host has stopped feeding: what the rings hold after this is all there is. */
static inline int netvm_drained(const struct netvm_endpoint *endpoint)
{
    /* Acquire: the last descriptors are visible once the phase is. */
    return atomic_load_explicit(&endpoint->host->phase, memory_order_acquire) == NETVM_PHASE_DRAINING;
}

/* Ends the epoch: this NF touches no buffer of it any more. */
static inline void netvm_leave(const struct netvm_endpoint *endpoint, uint32_t epoch)
{
    /* Release: what was given back before is visible. */
    atomic_store_explicit(&endpoint->own->detached_epoch, epoch, memory_order_release);
}

/* Counts on in a word with one writer, for display. */
static inline void netvm_count(_Atomic uint64_t *word, uint64_t count)
{
    uint64_t value = atomic_load_explicit(word, memory_order_relaxed);
    atomic_store_explicit(word, value + count, memory_order_relaxed);
}

/* Moves the heartbeat on. Without it the host stops feeding. */
static inline void netvm_beat(const struct netvm_endpoint *endpoint)
{
    netvm_count(&endpoint->own->heartbeat, 1);
}

/* Rings --------------------------------------------------------------------------------------------------- */

/* The side that puts descriptors in. */
struct netvm_producer {
    struct netvm_ring ring;
    uint32_t staged;
    uint32_t consumed_seen;
};

static inline struct netvm_producer netvm_producer(struct netvm_ring ring)
{
    struct netvm_producer producer = {.ring = ring};
    return producer;
}

/* How many descriptors can be staged now, or NETVM_E_PEER. */
static inline int32_t netvm_room(struct netvm_producer *producer, uint32_t wanted)
{
    uint32_t slot_count = producer->ring.slot_count;
    uint32_t cached = slot_count - (producer->staged - producer->consumed_seen);
    if (cached >= wanted)
        return (int32_t)cached;
    /* Acquire: the peer has read the slots it counts as consumed before they are overwritten. */
    uint32_t consumed = atomic_load_explicit(&producer->ring.consumed->value, memory_order_acquire);
    uint32_t unread = producer->staged - consumed;
    if (unread > slot_count)
        return NETVM_E_PEER;
    producer->consumed_seen = consumed;
    return (int32_t)(slot_count - unread);
}

/* Writes one descriptor, invisible before netvm_publish. 0 if there is no room by the last netvm_room. */
static inline int netvm_stage(struct netvm_producer *producer, struct netvm_desc desc)
{
    if (producer->staged - producer->consumed_seen >= producer->ring.slot_count)
        return 0;
    struct netvm_slot *slot = &producer->ring.slots[producer->staged & (producer->ring.slot_count - 1)];
    atomic_store_explicit(&slot->word0, netvm_desc_word0(desc), memory_order_relaxed);
    atomic_store_explicit(&slot->word1, netvm_desc_word1(desc), memory_order_relaxed);
    producer->staged++;
    return 1;
}

/* Shows all staged descriptors to the host. */
static inline void netvm_publish(struct netvm_producer *producer)
{
    /* Release: the descriptors, and the packet bytes, are visible before the count. */
    atomic_store_explicit(&producer->ring.produced->value, producer->staged, memory_order_release);
}

/* The side that takes descriptors out. */
struct netvm_consumer {
    struct netvm_ring ring;
    uint32_t taken;
    uint32_t produced_seen;
};

static inline struct netvm_consumer netvm_consumer(struct netvm_ring ring)
{
    struct netvm_consumer consumer = {.ring = ring};
    return consumer;
}

/* Copies up to `at_most` descriptors into `burst`; returns how many, or NETVM_E_PEER. */
static inline int32_t netvm_take(struct netvm_consumer *consumer, struct netvm_desc *burst, uint32_t at_most)
{
    uint32_t slot_count = consumer->ring.slot_count;
    uint32_t known = consumer->produced_seen - consumer->taken;
    if (known < at_most) {
        /* Acquire: the descriptors behind this count are visible once the count is. */
        uint32_t produced = atomic_load_explicit(&consumer->ring.produced->value, memory_order_acquire);
        known = produced - consumer->taken;
        if (known > slot_count)
            return NETVM_E_PEER;
        consumer->produced_seen = produced;
    }
    uint32_t count = known < at_most ? known : at_most;
    for (uint32_t i = 0; i < count; i++) {
        const struct netvm_slot *slot = &consumer->ring.slots[consumer->taken & (slot_count - 1)];
        uint64_t word0 = atomic_load_explicit(&slot->word0, memory_order_relaxed);
        uint64_t word1 = atomic_load_explicit(&slot->word1, memory_order_relaxed);
        burst[i] = netvm_desc_unpack(word0, word1);
        consumer->taken++;
    }
    return (int32_t)count;
}

/* Gives the taken slots, not the buffers, back to the host. */
static inline void netvm_release(struct netvm_consumer *consumer)
{
    /* Release: the slots have been read before the host may overwrite them. */
    atomic_store_explicit(&consumer->ring.consumed->value, consumer->taken, memory_order_release);
}

/* References ---------------------------------------------------------------------------------------------- */

/* Whether the reference held until now: ask after the bytes were copied. */
static inline int netvm_view_holds(const struct netvm_references *references, struct netvm_desc desc)
{
    uint32_t slot = desc.aux >> 16;
    if (slot >= references->count)
        return 0;
    /* Acquire: the bytes that were copied were read before the word is. */
    atomic_thread_fence(memory_order_acquire);
    return atomic_load_explicit(&references->words[slot], memory_order_relaxed) == desc.generation;
}

/* Copies the packet of a reference, or its first `room` bytes. Returns how many, NETVM_E_EXPIRED, or NETVM_E_LAYOUT for
 * a descriptor that names no part of the region. The packet may be changed by its chain while it is copied. */
static inline int32_t netvm_view_copy(const struct netvm_references *references, const void *region,
                                      const struct netvm_control_header *header, struct netvm_desc desc,
                                      uint8_t *copy, uint32_t room)
{
    if (desc.code != NETVM_REFERENCE || desc.flags != 0 || desc.buffer_index >= header->buffer_count ||
        (uint32_t)desc.data_offset_bytes + desc.data_len_bytes > header->buffer_stride_bytes)
        return NETVM_E_LAYOUT;
    if (!netvm_view_holds(references, desc))
        return NETVM_E_EXPIRED;
    const _Atomic uint8_t *data =
        (const _Atomic uint8_t *)(const void *)((const char *)region + header->buffers_offset +
                                                (size_t)desc.buffer_index * header->buffer_stride_bytes +
                                                desc.data_offset_bytes);
    uint32_t bytes = desc.data_len_bytes < room ? desc.data_len_bytes : room;
    for (uint32_t i = 0; i < bytes; i++)
        copy[i] = atomic_load_explicit(&data[i], memory_order_relaxed);
    return netvm_view_holds(references, desc) ? (int32_t)bytes : NETVM_E_EXPIRED;
}

#endif
