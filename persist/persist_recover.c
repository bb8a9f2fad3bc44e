/* SPDX-License-Identifier: Apache-2.0 */
/*
 * persist_recover.c - one procedure for every death.
 *
 *   fence      ACTIVE or JOINING -> FENCED, by CAS on that incarnation: from here on nothing that it does counts
 *   proven?    its liveness lock is free: the process is gone. If not, it is settled as far as it can be while it may still scribble (below)
 *   epochs     its threads read nothing any more
 *   work       its cells in all queues, its inbox, doorbells that it was to ring
 *   cache      intents, claims, bits, pins, pool elements, chains, and with each inode its lock words
 *   locks      of its applications, which have ceased to count when it was fenced; whoever waited for them gets them
 *   park       FENCED -> PARKED: the slot may be joined again
 *
 * Every step is idempotent and the state says FENCED until the last, so whoever runs this may die anywhere and another starts over. The recovery lock
 * serialises: one at a time in the whole segment, and joins wait too.
 *
 * Fenced but alive (stopped, or stuck in a system call): see persist_quarantine.c. The watch settles the rest when the process is gone.
 *
 * Who calls. The watch thread; session open and close; and, through lock_config.dead, any thread that finds itself waiting for a dead member. Such a thread holds
 * inode locks, or spins for a publish lock, and the recovery lock comes before those in lock order; so it hands the work to the watch thread (or to a
 * thread made for it when there is no watch) and looks again. Recovery itself may meet a lock of another dead member: then it settles that one
 * in between, on the same thread and under the same recovery lock.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "persist_internal.h"

enum { QUARANTINE_AGAIN_MS = 100, SELF_ATTEMPTS = 5 };

/* The session that this thread does recovery for (it holds the recovery lock), and the slots it is in the middle of. */
static _Thread_local struct persist_session *recovering;
static _Thread_local uint64_t                recovering_slots;

uint64_t persist_clock_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- format ---- */

static struct cache_inode *root_at(struct seg *seg)
{
    struct seg_array inodes = seg_section(seg, SEG_SECTION_INODES);
    return inodes.base && inodes.stride == sizeof(struct cache_inode) ? seg_elem(&inodes, cache_id_index(CACHE_ROOT_ID)) : NULL;
}

static bool is_formatted(const struct cache_inode *root)
{
    /* pairs with the release that makes the root LIVE, the last step of cache_format() */
    return seg_pool_word_state(atomic_load_explicit(&root->pool, memory_order_acquire)) == SEG_POOL_LIVE;
}

int persist_format_once(struct seg *seg)
{
    struct cache_inode *root = root_at(seg);
    if (!root)
        return -EUCLEAN;
    if (is_formatted(root))
        return 0;
    int rc = seg_recovery_lock(seg, false);
    if (rc)
        return rc;
    if (!is_formatted(root)) {
        work_format(seg);
        lock_app_format(seg);
        cache_format(seg);
        rc = is_formatted(root) ? 0 : -EUCLEAN;
    }
    seg_recovery_unlock(seg);
    return rc;
}

/* ---- settle ---- */

static int recovery_begin(struct persist_session *session, bool try)
{
    int rc = seg_recovery_lock(session->seg, try);
    if (rc == 0)
        recovering = session;
    return rc;
}

static void recovery_end(struct persist_session *session)
{
    recovering = NULL;
    recovering_slots = 0;
    seg_recovery_unlock(session->seg);
}

/* Everything but the state word. The process behind the slot is gone, or it is our own with no thread at work in the cache. */
static int slot_recover(struct persist_session *session, unsigned slot)
{
    recovering_slots |= 1ull << slot;
    work_recover(session->work, slot);
    int rc = cache_recover(session->cache, slot);
    if (rc == 0)
        lock_app_recover(session->lock, slot);
    recovering_slots &= ~(1ull << slot);
    return rc;
}

/*
 * Fenced but alive. Waiters come back every few ms as long as they wait for what it has taken since; a walk over all inodes each time would be too much.
 */
static int quarantine(struct persist_session *session, unsigned slot)
{
    uint64_t now_ms = persist_clock_ms(), *last_ms = &session->life->quarantined_ms[slot];
    if (*last_ms && now_ms - *last_ms < QUARANTINE_AGAIN_MS)
        return -EBUSY;
    recovering_slots |= 1ull << slot;
    int rc = persist_quarantine(session, slot);
    lock_app_grant_all(session->lock); /* its locks have ceased to count */
    recovering_slots &= ~(1ull << slot);
    *last_ms = persist_clock_ms();
    return rc ? rc : -EBUSY;
}

/* Under the recovery lock. */
static int settle_locked(struct persist_session *session, seg_who who)
{
    struct seg *seg = session->seg;
    unsigned    slot = seg_who_slot(who);
    uint32_t    incarnation = 0;

    enum seg_member_state state = seg_member_state(seg, slot, &incarnation);
    if (incarnation != seg_who_incarnation(who) || state == SEG_FREE || state == SEG_PARKED)
        return 0; /* settled already, or the slot's next life has done it at its join */
    bool is_dead = seg_member_is_dead(seg, slot);
    if (state == SEG_JOINING && !is_dead)
        return -EBUSY; /* it settles its former lives itself */
    if (state != SEG_FENCED && seg_member_fence(seg, slot, incarnation))
        seg_count(seg, SEG_COUNTER_fences, 1);
    if (!is_dead)
        return quarantine(session, slot);
    seg_epoch_clear(seg, slot);
    int rc = slot_recover(session, slot);
    if (rc == 0)
        seg_member_park(seg, slot);
    return rc;
}

int persist_settle(struct persist_session *session, seg_who who)
{
    unsigned slot = seg_who_slot(who);
    if (slot >= SEG_MEMBERS_MAX || (int)slot == seg_self_slot(session->seg))
        return -EINVAL;
    if (!seg_self_stands(session->seg))
        return -EIO;
    if (seg_epoch_inside(session->seg))
        return -EAGAIN; /* recovery gives back what this thread may be looking at */
    if (recovering == session)
        return recovering_slots >> slot & 1 ? 0 : settle_locked(session, who);
    int rc = recovery_begin(session, false);
    if (rc == 0) {
        rc = settle_locked(session, who);
        recovery_end(session);
    }
    return rc;
}

int persist_settle_self(struct persist_session *session)
{
    int rc = -EAGAIN;
    for (unsigned attempt = 0; rc == -EAGAIN && attempt < SELF_ATTEMPTS; attempt++) { /* somebody may hold a publish lock for long */
        rc = recovery_begin(session, false);
        if (rc == 0) {
            rc = slot_recover(session, (unsigned)seg_self_slot(session->seg));
            recovery_end(session);
        }
    }
    return rc;
}

/* A slot whose owner is gone and that has not been parked. */
static bool needs_settling(struct persist_session *session, unsigned slot, seg_who *who)
{
    uint32_t              incarnation;
    enum seg_member_state state = seg_member_state(session->seg, slot, &incarnation);
    *who = seg_who_make(slot, incarnation);
    return state != SEG_FREE && state != SEG_PARKED && (int)slot != seg_self_slot(session->seg) &&
           seg_member_is_dead(session->seg, slot);
}

int persist_settle_dead(struct persist_session *session, bool try)
{
    seg_who who;
    int     result = 0;
    for (unsigned slot = 0; slot < SEG_MEMBERS_MAX; slot++) {
        if (!needs_settling(session, slot, &who))
            continue;
        int rc = recovery_begin(session, try);
        if (rc)
            return rc;
        if (seg_self_stands(session->seg) && needs_settling(session, slot, &who))
            rc = settle_locked(session, who);
        recovery_end(session);
        if (rc)
            result = rc;
    }
    return result;
}

/* ---- found by a waiting thread ---- */

struct errand {
    struct persist_session *session;
    seg_who                 who;
};

static void *errand_run(void *arg)
{
    const struct errand *errand = arg;
    persist_settle(errand->session, errand->who);
    return NULL;
}

void persist_dead(void *arg, seg_who who)
{
    struct persist_session *session = arg;
    if (recovering == session) {
        persist_settle(session, who);
        return;
    }
    if (persist_watch_settle(session->watch, who))
        return;
    struct errand errand = {session, who};
    pthread_t     thread;
    if (pthread_create(&thread, NULL, errand_run, &errand) == 0)
        pthread_join(thread, NULL);
}
