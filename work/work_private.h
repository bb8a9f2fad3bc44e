/* SPDX-License-Identifier: Apache-2.0 */
/* work_private.h - the handle over the queues and what the files of this folder share; nobody else includes it. */
#ifndef HEARTH_WORK_PRIVATE_H
#define HEARTH_WORK_PRIVATE_H

#include "work.h"

struct work_bell_ops;

/* Private twin of the queues: where they are in this mapping, and what only this process needs to know. */
struct work {
    struct seg                 *seg;
    struct seg_array            inboxes;
    struct work_queue          *shared;
    const struct work_bell_ops *bell_ops;
    _Atomic uint32_t            kicked;      /* work_kick(): the next sleep returns at once             */
    uint64_t                    blocked_at;  /* dispatcher: head position last seen RESERVED, plus one   */
    uint64_t                    blocked_ns;  /* and since when                                           */
    void (*reserved)(void *arg); /* tests: called between reserving and committing a cell, to die or to be late there */
    void *reserved_arg;
};

/* The cell word. */
static inline uint64_t work_word(uint32_t round, unsigned merged, unsigned slot, uint32_t incarnation, enum work_cell_state state)
{
    return (uint64_t)round << 32 | (uint64_t)(merged & 0xff) << 24 | (uint64_t)(slot & 0xff) << 16 | (incarnation & 0xff) << 8 | state;
}
static inline uint32_t work_word_round(uint64_t w) { return (uint32_t)(w >> 32); }
static inline unsigned work_word_merged(uint64_t w) { return (unsigned)(w >> 24 & 0xff); }
static inline unsigned work_word_slot(uint64_t w) { return (unsigned)(w >> 16 & 0xff); }
static inline unsigned work_word_incarnation(uint64_t w) { return (unsigned)(w >> 8 & 0xff); }
static inline unsigned work_word_state(uint64_t w) { return (unsigned)(w & 0xff); }

/* Rounds wrap: how far `a` is ahead of `b`. */
static inline int32_t work_round_ahead(uint32_t a, uint32_t b) { return (int32_t)(a - b); }

/* Queue `index` of a segment: 0..SEG_MEMBERS_MAX-1 the inboxes, SEG_MEMBERS_MAX the shared queue. NULL beyond or when the section is
 * absent or of another shape. *cells: how many cells it has (never read from the segment). */
enum { WORK_QUEUES = SEG_MEMBERS_MAX + 1 };
struct work_queue *work_queue_at(const struct seg *seg, unsigned index, uint32_t *cells);

/* What is known of the producer named in a cell word. */
enum work_producer {
    WORK_PRODUCER_STANDS, /* may commit any moment                                            */
    WORK_PRODUCER_FENCED, /* its commit must fail; its process may still write the payload    */
    WORK_PRODUCER_GONE,   /* its process is gone, or the slot has begun another life          */
};
/* ask_kernel: find out whether a member that is not fenced has died (one fcntl); otherwise only its state word is read. */
enum work_producer work_producer_look(const struct seg *seg, uint64_t word, bool ask_kernel);

/* The step all others are made of: pass over the SKIPPED cell at `position`. See work_queue.c. */
void work_cell_skip(const struct seg *seg, struct work_queue *queue, uint32_t cells, uint64_t position, uint64_t word);
/* Takes from any queue; `blocked` (may be NULL) receives the word of a RESERVED cell at the head when the answer is 0. */
int work_queue_take(const struct seg *seg, struct work_queue *queue, uint32_t cells, struct work_item *item, uint64_t *blocked);
/* Is there anything for a taker to do? (D) of the sleep protocol: seq_cst loads. */
bool work_queue_ready(struct work_queue *queue, uint32_t cells);

/* Doorbells: how a receiver sleeps and is woken. Today one kind; eventfd and ivshmem add theirs. */
struct work_bell_ops {
    const char *name;
    void (*ring)(struct work *work, unsigned slot, _Atomic uint32_t *bell);       /* wakes whoever waits; must not block      */
    void (*wait)(struct work *work, _Atomic uint32_t *bell, unsigned timeout_ms); /* while *bell is ASLEEP; may return early  */
};
extern const struct work_bell_ops work_bell_futex;

/* Sender's half (B): rings the receiver if it sleeps and nobody else does it. True when this call rang. Counts. */
bool work_bell_notify(struct work *work, unsigned slot);
/* One sleeper among the active members. */
void work_bell_notify_any(struct work *work);
/* Recovery: whoever was to ring may have died. */
void work_bell_ring_woken(struct work *work);

uint64_t work_clock_ns(void);

#endif
