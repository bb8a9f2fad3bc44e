/* SPDX-License-Identifier: Apache-2.0 */
/*
 * work_shared.h - queues in the segment: one inbox per member, one shared queue, and the doorbell words.
 *
 * Cell word:  round:32 | merged:8 | slot:8 | incarnation:8 (low bits) | state:8 . It changes by CAS on the exact word that was read, and
 * nothing else says who may touch a cell; head and tail are hints that only grow, that lag by one step at most, and that anyone may push on.
 *
 *            reserve                commit                    take
 *   FREE(r) ---------> RESERVED(r) --------> COMMITTED(r) -------------> FREE(r + 1)
 *      ^                    |                   |     ^
 *      |                    | producer does     +-----+ merge: the same item once more (merged + 1)
 *      |                    v not stand
 *      +--- producer is SKIPPED(r) --> SKIPPED(r + 1) ...
 *           proven gone               quarantine: passed over round by round while a fenced producer might still scribble on the payload
 *
 * Position p (64 bits, only grows) lives in cell p % cell_count, in round p / cell_count. Invariants (work_check.c asserts them):
 *   every position below tail has been reserved; every position below head has been taken or skipped; head <= tail + 1;
 *   payload is written by the producer alone, only while the word is RESERVED by it.
 */
#ifndef HEARTH_WORK_SHARED_H
#define HEARTH_WORK_SHARED_H

#include <assert.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum { WORK_INBOX_CELLS = 124, WORK_SHARED_CELLS = 1020 }; /* with the header: 4 KiB and 32 KiB */
enum work_cell_state { WORK_FREE = 0, WORK_RESERVED = 1, WORK_COMMITTED = 2, WORK_SKIPPED = 3 };

/* The payload is atomic because mergers and takers read it before the CAS that tells them whether what they read counts. */
struct work_cell { /* SHARED */
    _Atomic uint64_t word;
    _Atomic uint32_t kind; /* enum work_kind              */
    _Atomic uint32_t from; /* producer's slot             */
    _Atomic uint64_t key;  /* what it is about: a node id */
    _Atomic uint64_t arg;  /* by kind                     */
};
static_assert(sizeof(struct work_cell) == 32, "layout v1");

/* Doorbell word of a receiver: BUSY it looks before it sleeps; ASLEEP ring it; WOKEN somebody has rung or is about to. */
enum work_bell_state { WORK_BUSY = 0, WORK_ASLEEP = 1, WORK_WOKEN = 2 };

struct work_queue { /* SHARED header, followed by the cells; the shared queue has no bell of its own */
    _Alignas(64) _Atomic uint64_t head; /* (a) next position to take                                       */
    uint8_t          zero0[56];
    _Alignas(64) _Atomic uint64_t tail; /* (a) next position to reserve                                    */
    _Atomic uint32_t bell;              /* (a) enum work_bell_state; also the futex word                   */
    _Atomic uint32_t cell_count;        /* (c) for tools: members use the constants above                  */
    uint8_t          zero1[48];
    struct work_cell cell[];
};
static_assert(sizeof(struct work_queue) == 128, "layout v1");
static_assert(offsetof(struct work_queue, tail) == 64 && offsetof(struct work_queue, bell) == 72, "layout v1");
static_assert(sizeof(struct work_queue) + WORK_INBOX_CELLS * sizeof(struct work_cell) == 4096, "layout v1");
static_assert(sizeof(struct work_queue) + WORK_SHARED_CELLS * sizeof(struct work_cell) == 32768, "layout v1");

#endif
