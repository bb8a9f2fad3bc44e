/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lock_mgr.c - the process's handle over the locks, the publish lock, recovery and check of one inode's words.
 *
 * The publish lock is a spin lock whose word names its holder. What happens if the holder dies inside: the inode's version stays odd and the word
 * stays set; the next one that wants it finds the holder dead and has it settled (recovery makes the version even and drops what was half swapped).
 */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "lock_app_internal.h"

int lock_mgr_open(struct seg *seg, struct work *work, const struct lock_config *config, struct lock_mgr **out)
{
    struct lock_mgr *mgr = calloc(1, sizeof *mgr);
    if (!mgr)
        return -ENOMEM;
    mgr->seg = seg;
    mgr->work = work;
    mgr->config = *config;
    if (!mgr->config.recall_timeout_ms)
        mgr->config.recall_timeout_ms = 30000;
    mgr->self_slot = (unsigned)seg_self_slot(seg);
    mgr->self_bit = seg_self_bit(seg);
    mgr->spin = sysconf(_SC_NPROCESSORS_ONLN) > 1 ? 100 : 0;
    int rc = lock_app_open(mgr);
    if (rc) {
        free(mgr);
        return rc;
    }
    *out = mgr;
    return 0;
}

void lock_mgr_close(struct lock_mgr *mgr)
{
    if (mgr)
        lock_app_close(mgr);
    free(mgr);
}

void lock_publish_enter(struct lock_mgr *mgr, struct lock_shared *words)
{
    seg_who self = seg_self(mgr->seg);
    lock_rank_push(LOCK_RANK_INODE_PUBLISH);
    for (unsigned tries = 1;; tries++) {
        uint64_t seen = 0;
        if (atomic_compare_exchange_weak_explicit(&words->publish, &seen, self, memory_order_acquire, memory_order_relaxed))
            return; /* pairs with the release in lock_publish_exit */
        if (!seen)
            continue;
        if (tries % 64)
            lock_cpu_relax();
        else
            sched_yield();
        if (tries % 4096 == 0 && seen != self) {
            lock_rank_pop(LOCK_RANK_INODE_PUBLISH); /* not held: settling takes locks below it */
            lock_settle_if_dead(mgr, seg_who_slot(seen), seg_who_incarnation(seen));
            lock_rank_push(LOCK_RANK_INODE_PUBLISH);
        }
    }
}

void lock_publish_exit(struct lock_mgr *mgr, struct lock_shared *words)
{
    uint64_t self = seg_self(mgr->seg);
    /* A holder that was fenced meanwhile has lost it to recovery: its store must not free somebody else's. */
    atomic_compare_exchange_strong_explicit(&words->publish, &self, 0, memory_order_release, memory_order_relaxed);
    lock_rank_pop(LOCK_RANK_INODE_PUBLISH);
}

/* What other members owe to the dead owner stays: they answer it in their own time, and the next owner waits for that before it sends a recall of its own
 * (lock_recall_all). Cleared here, an answer already on its way would count for the next recall. */
static bool owner_recover(struct lock_shared *words, unsigned slot)
{
    uint64_t owner = atomic_load_explicit(&words->owner, memory_order_acquire); /* pairs with W1, W3 and the release */
    return owner && lock_word_slot(owner) == slot && atomic_compare_exchange_strong(&words->owner, &owner, 0);
}

bool lock_recover(struct lock_mgr *mgr, const struct lock_ref *ref, unsigned slot)
{
    struct lock_shared *words = ref->words;
    uint64_t            bit = 1ull << slot;

    atomic_fetch_and_explicit(&words->touched, ~bit, memory_order_seq_cst);
    atomic_fetch_and_explicit(&words->interest, ~bit, memory_order_seq_cst);
    atomic_fetch_and_explicit(&words->starving, ~bit, memory_order_relaxed);
    atomic_fetch_and_explicit(&words->waiters, ~bit, memory_order_relaxed);
    uint64_t owed = atomic_fetch_and_explicit(&words->owed, ~bit, memory_order_seq_cst);
    uint64_t publish = atomic_load_explicit(&words->publish, memory_order_relaxed);
    if (publish && seg_who_slot(publish) == slot)
        atomic_compare_exchange_strong(&words->publish, &publish, 0);
    bool was_owner = owner_recover(words, slot);
    if (was_owner || (owed & bit) || publish)
        lock_wake(mgr, ref);
    return was_owner;
}

int lock_check(const struct seg *seg, const struct lock_shared *words, bool quiet, char *err, size_t err_size)
{
    uint64_t active = seg_members_active(seg);
    uint64_t owner = atomic_load(&words->owner);
    uint64_t publish = atomic_load(&words->publish);
    uint64_t bits = atomic_load(&words->interest);

    if (!lock_word_is_sane(owner)) {
        snprintf(err, err_size, "write lock word %#llx makes no sense", (unsigned long long)owner);
        return -EUCLEAN;
    }
    if (owner && (quiet || !seg_who_stands(seg, lock_word_who(owner)))) {
        snprintf(err, err_size, "write lock held by slot %u, incarnation %u, which is not at work", lock_word_slot(owner),
                 lock_word_incarnation(owner));
        return -EUCLEAN;
    }
    if (publish && (quiet || !seg_who_stands(seg, publish))) {
        snprintf(err, err_size, "publish lock held by slot %u, which is not at work", seg_who_slot(publish));
        return -EUCLEAN;
    }
    if (bits & ~active) {
        snprintf(err, err_size, "interest bits %#llx of members that are not active", (unsigned long long)(bits & ~active));
        return -EUCLEAN;
    }
    if (quiet && atomic_load(&words->owed)) {
        snprintf(err, err_size, "acknowledgements %#llx owed though nobody is at work", (unsigned long long)atomic_load(&words->owed));
        return -EUCLEAN;
    }
    return 0;
}
