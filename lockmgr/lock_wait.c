/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lock_wait.c - sleeping until something about an inode changes, and waking those who sleep.
 *
 * One event word per inode serves everybody: writers that want the lock, the owner that waits for acknowledgements, readers that wait for a writer,
 * those who wait for a page claim. Order of steps (labels pair):
 *   waiter:  (S1) set own bit in waiters   (S2) read event   (S3) read the condition   (S4) futex wait while event is unchanged
 *   waker:   (K1) change the condition     (K2) take waiters (exchange 0)   (K3) event += 1   (K4) futex wake all
 * S1 before S3 and K1 before K2 are seq_cst: either the waiter sees the changed condition, or the waker sees the bit, and then the event moves after S2,
 * so that S4 returns at once. A waker that dies between K2 and K4 costs its waiters one LOCK_POLL_MS.
 *
 * Waking all is right here: readers, writers and the owner wait for different conditions on one word, and members are few.
 */
#include <linux/futex.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "lock_internal.h"

uint64_t lock_now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

uint32_t lock_wait_prepare(struct lock_mgr *mgr, struct lock_shared *words)
{
    atomic_fetch_or_explicit(&words->waiters, mgr->self_bit, memory_order_seq_cst); /* S1 */
    atomic_thread_fence(memory_order_seq_cst); /* S1 before S3, whatever order the condition is loaded with; pairs with the fence in lock_wake */
    return atomic_load_explicit(&words->event, memory_order_seq_cst);               /* S2 */
}

void lock_wait_sleep(struct lock_mgr *mgr, struct lock_shared *words, uint32_t event, unsigned ms)
{
    for (unsigned i = 0; i < mgr->spin; i++) {
        if (atomic_load_explicit(&words->event, memory_order_acquire) != event)
            return;
        lock_cpu_relax();
    }
    struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    syscall(SYS_futex, &words->event, FUTEX_WAIT, event, &ts, NULL, 0); /* S4 */
}

static void wake_this_kernel(struct lock_shared *words)
{
    atomic_fetch_add_explicit(&words->event, 1, memory_order_seq_cst); /* K3 */
    syscall(SYS_futex, &words->event, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

/* Members of other kernels do not sleep on our futex: they are told through their inbox. */
static void wake_other_kernels(struct lock_mgr *mgr, uint64_t id, uint64_t bits)
{
    while (bits) {
        unsigned slot = (unsigned)__builtin_ctzll(bits);
        bits &= bits - 1;
        const struct seg_member *member = seg_member(mgr->seg, slot);
        if (member && (member->flags & SEG_MEMBER_OTHER_KERNEL)) {
            struct work_item item = {.kind = WORK_LOCK_EVENT, .key = id};
            work_post(mgr->work, slot, &item, true); /* full: its waiters poll */
        }
    }
}

void lock_wake(struct lock_mgr *mgr, const struct lock_ref *ref)
{
    atomic_thread_fence(memory_order_seq_cst); /* K1 before K2 */
    if (!atomic_load_explicit(&ref->words->waiters, memory_order_relaxed))
        return;
    uint64_t bits = atomic_exchange_explicit(&ref->words->waiters, 0, memory_order_seq_cst); /* K2 */
    if (!bits)
        return;
    wake_this_kernel(ref->words);
    wake_other_kernels(mgr, ref->id, bits & ~mgr->self_bit);
}

void lock_notify(struct lock_mgr *mgr, const struct lock_ref *ref)
{
    lock_wake(mgr, ref);
}

void lock_event(struct lock_mgr *mgr, uint64_t id)
{
    struct lock_shared *words = mgr->config.resolve ? mgr->config.resolve(mgr->config.resolve_arg, id) : NULL;
    if (words)
        wake_this_kernel(words);
}

int lock_wait_for(struct lock_mgr *mgr, const struct lock_ref *ref, bool (*ready)(void *), void *arg, unsigned timeout_ms,
                  bool (*stop)(void *), void *stop_arg)
{
    uint64_t start = lock_now_ms();
    for (;;) {
        uint32_t event = lock_wait_prepare(mgr, ref->words);
        if (ready(arg)) /* S3 */
            return 0;
        if (stop && stop(stop_arg))
            return -EINTR;
        if (!seg_self_stands(mgr->seg))
            return -EIO;
        if (timeout_ms && lock_now_ms() - start >= timeout_ms)
            return -ETIMEDOUT;
        lock_wait_sleep(mgr, ref->words, event, LOCK_POLL_MS);
    }
}

/* The fence comes first and here: the callback may hand the work on and return before it is done. */
void lock_settle(struct lock_mgr *mgr, seg_who who)
{
    unsigned slot = seg_who_slot(who);
    if (slot >= SEG_MEMBERS_MAX || slot == mgr->self_slot)
        return;
    if (seg_member_fence(mgr->seg, slot, seg_who_incarnation(who)))
        seg_count(mgr->seg, SEG_COUNTER_fences, 1);
    if (mgr->config.dead)
        mgr->config.dead(mgr->config.dead_arg, who);
}

bool lock_settle_if_dead(struct lock_mgr *mgr, unsigned slot, uint32_t incarnation)
{
    if (slot >= SEG_MEMBERS_MAX || slot == mgr->self_slot)
        return false;
    seg_who who = seg_who_make(slot, incarnation);
    if (seg_who_stands(mgr->seg, who) && !seg_member_is_dead(mgr->seg, slot))
        return false;
    if (mgr->config.dead)
        mgr->config.dead(mgr->config.dead_arg, who);
    return true;
}
