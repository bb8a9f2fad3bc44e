/* SPDX-License-Identifier: Apache-2.0 */
/*
 * work_bell.c - doorbells that wake nobody who is awake.
 *
 * A receiver has one bell word. Model: tests/model/bell.pml.
 *
 *              (C) announce                 (B) first sender
 *   BUSY ------------------------> ASLEEP --------------------> WOKEN
 *    ^                               |                            |
 *    +--- found work, or timeout ----+                            |
 *    +------------ woken, or timeout -----------------------------+
 *
 *   sender:    (A) commit the item    (B) load bell; ASLEEP -> WOKEN by CAS, and the winner rings
 *   receiver:  (C) bell := ASLEEP     (D) look at the queues; nothing: sleep while the bell is ASLEEP
 *
 * All four are seq_cst, so they have one order: either D comes after A and finds the item, or C comes before B and the sender finds
 * ASLEEP. (Operations rather than fences, because the thread sanitizer understands only those; on x86 they cost the same.)
 * Sleeping is on the bell word itself: once a sender has moved it to WOKEN the kernel does not let the receiver sleep, so a ring
 * that comes too early is not lost.
 *
 * Death. A sender that dies between its CAS and the ring leaves WOKEN, which keeps others from ringing: the sleep is bounded
 * (WORK_SLEEP_MS), and recovery rings every WOKEN bell it finds. A receiver that dies leaves ASLEEP or WOKEN: its next life starts with BUSY.
 *
 * Shared queue: a sender looks at the bells of all active members and rings the first that sleeps; when none does, each will look at the
 * shared queue before it sleeps.
 *
 * Other kinds of bells (eventfd, ivshmem, polling) come as further work_bell_ops; the words and the labels stay.
 */
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "seg_counter.h"
#include "work_private.h"

/* The futex is shared between processes that map the same object: no FUTEX_PRIVATE_FLAG. */
static void futex_ring(struct work *work, unsigned slot, _Atomic uint32_t *bell)
{
    (void)work;
    (void)slot;
    syscall(SYS_futex, bell, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static void futex_wait(struct work *work, _Atomic uint32_t *bell, unsigned timeout_ms)
{
    struct timespec timeout = { .tv_sec = timeout_ms / 1000, .tv_nsec = timeout_ms % 1000 * 1000000L };
    (void)work;
    syscall(SYS_futex, bell, FUTEX_WAIT, WORK_ASLEEP, &timeout, NULL, 0); /* any way it ends is a reason to look */
}

const struct work_bell_ops work_bell_futex = { .name = "futex", .ring = futex_ring, .wait = futex_wait };

static _Atomic uint32_t *bell_of(struct work *work, unsigned slot)
{
    struct work_queue *queue = slot < SEG_MEMBERS_MAX ? seg_elem(&work->inboxes, slot) : NULL;
    return queue ? &queue->bell : NULL;
}

/* (B) True when this call has moved the bell and rung it. */
static bool bell_ring_asleep(struct work *work, unsigned slot)
{
    _Atomic uint32_t *bell = bell_of(work, slot);
    uint32_t          asleep = WORK_ASLEEP;
    if (!bell || atomic_load_explicit(bell, memory_order_seq_cst) != WORK_ASLEEP ||
        !atomic_compare_exchange_strong_explicit(bell, &asleep, WORK_WOKEN, memory_order_seq_cst, memory_order_seq_cst))
        return false;
    work->bell_ops->ring(work, slot, bell);
    return true;
}

bool work_bell_notify(struct work *work, unsigned slot)
{
    bool rung = bell_ring_asleep(work, slot);
    seg_count(work->seg, rung ? SEG_COUNTER_doorbells_rung : SEG_COUNTER_doorbells_suppressed, 1);
    return rung;
}

void work_bell_notify_any(struct work *work)
{
    uint64_t active = seg_members_active(work->seg);
    bool     rung = false;
    for (unsigned slot = 0; slot < SEG_MEMBERS_MAX && !rung; slot++)
        rung = (active >> slot & 1) && bell_ring_asleep(work, slot);
    seg_count(work->seg, rung ? SEG_COUNTER_doorbells_rung : SEG_COUNTER_doorbells_suppressed, 1);
}

void work_bell_ring_woken(struct work *work)
{
    for (unsigned slot = 0; slot < SEG_MEMBERS_MAX; slot++) {
        _Atomic uint32_t *bell = bell_of(work, slot);
        if (bell && atomic_load_explicit(bell, memory_order_seq_cst) == WORK_WOKEN)
            work->bell_ops->ring(work, slot, bell);
    }
}

void work_sleep(struct work *work, unsigned max_ms)
{
    int slot = seg_self_slot(work->seg);
    if (slot < 0)
        return;
    struct work_queue *inbox = seg_elem(&work->inboxes, (unsigned)slot);
    _Atomic uint32_t  *bell = &inbox->bell;

    atomic_store_explicit(bell, WORK_ASLEEP, memory_order_seq_cst); /* (C) */
    if (!atomic_load_explicit(&work->kicked, memory_order_seq_cst) && !work_queue_ready(inbox, WORK_INBOX_CELLS) &&
        !work_queue_ready(work->shared, WORK_SHARED_CELLS)) /* (D) */
        work->bell_ops->wait(work, bell, max_ms < WORK_SLEEP_MS ? max_ms : WORK_SLEEP_MS);
    atomic_store_explicit(bell, WORK_BUSY, memory_order_seq_cst);
    atomic_store_explicit(&work->kicked, 0, memory_order_seq_cst);
}

/* Like a sender whose item is `kicked` (A). The dispatcher looks at the reason for the kick after work_sleep() returns. */
void work_kick(struct work *work)
{
    int slot = seg_self_slot(work->seg);
    atomic_store_explicit(&work->kicked, 1, memory_order_seq_cst);
    if (slot >= 0)
        bell_ring_asleep(work, (unsigned)slot);
}
