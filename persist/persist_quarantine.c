/* SPDX-License-Identifier: Apache-2.0 */
/*
 * persist_quarantine.c - a member that is fenced while its process lives: nobody may wait for it, and nothing that it might still write may be used again.
 *
 * It may be stopped anywhere, and go on any moment. What it does with a CAS fails then (words, chains, claims, pools), because everything it holds has moved.
 * So here is settled only what others wait for, and what they could wrongly believe:
 *
 *   intents, write locks in phase WRITING, publish locks    the origin may have changed and the cache not yet: what they name is dropped
 *   lock words                                              owner, publish, own owed bit, interest, waiters: cleared (lock_recover), after the drop
 *
 * Left alone until the process is gone (cache_recover): private frames and other pool elements, known bits, reserved cells, bucket owners, CLOSE claims, and the
 * intents themselves. Fill and write claims need nothing: who waits for a claim voids it when the claimer does not stand.
 *
 * What cannot be promised: a system call at the origin that it was stopped in is carried out when it goes on.
 *
 * Runs under the recovery lock; each step may be repeated. If we die here, another begins anew.
 */
#include <errno.h>

#include "persist_internal.h"

/* lock_shared.h: slot + 1 : 8 | phase : 8 | ... */
static bool owner_is(uint64_t owner, unsigned slot) { return (owner & 0xff) == slot + 1; }
static unsigned owner_phase(uint64_t owner) { return (unsigned)(owner >> 8 & 0xff); }

/* "Not known" is never wrong, whatever a record is by now. */
static void names_forget(struct seg *seg, uint64_t dir)
{
    struct seg_array names = seg_section(seg, SEG_SECTION_NAMES);
    for (uint64_t i = 1; names.base && i < names.count; i++) {
        struct cache_name *record = seg_elem(&names, i);
        if (seg_pool_word_state(atomic_load_explicit(&record->pool, memory_order_acquire)) == SEG_POOL_LIVE &&
            __atomic_load_n(&record->parent, __ATOMIC_RELAXED) == dir)
            atomic_store_explicit(&record->child, CACHE_NAME_UNKNOWN, memory_order_release);
    }
}

static void inode_drop(struct persist_session *session, uint64_t id, uint64_t first, uint64_t count, bool names)
{
    if (names)
        names_forget(session->seg, id);
    cache_drop(session->cache, id, first, count, NULL); /* -ESTALE: it has gone, and its pages with it */
    if (names)
        names_forget(session->seg, id); /* what was filled in while the old version stood */
}

/* Publish locks first: cache_drop() takes them. */
static void publish_take_away(struct persist_session *session, unsigned slot, struct cache_inode *inode)
{
    uint64_t seen = atomic_load_explicit(&inode->lock.publish, memory_order_acquire);
    if (seen && seg_who_slot(seen) == slot && seen != seg_self(session->seg))
        atomic_compare_exchange_strong_explicit(&inode->lock.publish, &seen, 0, memory_order_acq_rel, memory_order_relaxed);
}

static bool words_name(const struct lock_shared *words, unsigned slot)
{
    uint64_t bits = atomic_load_explicit(&words->interest, memory_order_seq_cst) | atomic_load_explicit(&words->touched, memory_order_seq_cst) |
                    atomic_load_explicit(&words->owed, memory_order_seq_cst) |
                    atomic_load_explicit(&words->waiters, memory_order_relaxed) | atomic_load_explicit(&words->starving, memory_order_relaxed);
    uint64_t publish = atomic_load_explicit(&words->publish, memory_order_relaxed);
    return bits >> slot & 1 || owner_is(atomic_load_explicit(&words->owner, memory_order_acquire), slot) ||
           (publish && seg_who_slot(publish) == slot);
}

static void inode_settle(struct persist_session *session, unsigned slot, struct cache_inode *inode, uint64_t id)
{
    uint64_t owner = atomic_load_explicit(&inode->lock.owner, memory_order_acquire);
    uint64_t publish = atomic_load_explicit(&inode->lock.publish, memory_order_acquire);
    bool     is_half = (owner_is(owner, slot) && owner_phase(owner) == LOCK_WRITING) || (publish && seg_who_slot(publish) == slot);
    if (is_half) {
        publish_take_away(session, slot, inode);
        inode_drop(session, id, 0, UINT64_MAX, true);
    }
    struct lock_ref ref = {.id = id, .words = &inode->lock};
    lock_recover(session->lock, &ref, slot);
}

static void intents_settle(struct persist_session *session, unsigned slot)
{
    struct seg_array            intents = seg_section(session->seg, SEG_SECTION_INTENTS);
    const struct cache_intents *page = intents.base && intents.stride == sizeof *page ? seg_elem(&intents, slot) : NULL;
    for (unsigned i = 0; page && i < CACHE_INTENTS; i++) {
        const struct cache_intent *intent = &page->intent[i];
        uint64_t                   op = atomic_load_explicit(&intent->op, memory_order_acquire);
        if (op == CACHE_INTENT_DATA)
            inode_drop(session, intent->id[0], intent->first_page, intent->page_count, false);
        for (unsigned n = 0; op == CACHE_INTENT_NAMES && n < 4; n++)
            if (intent->id[n])
                inode_drop(session, intent->id[n], 0, UINT64_MAX, true);
    }
}

int persist_quarantine(struct persist_session *session, unsigned slot)
{
    struct seg_array inodes = seg_section(session->seg, SEG_SECTION_INODES);
    if (!inodes.base || inodes.stride != sizeof(struct cache_inode))
        return -EUCLEAN;
    for (uint64_t i = 1; i < inodes.count; i++) { /* publish locks first: the drops of intents take any of them */
        struct cache_inode *inode = seg_elem(&inodes, i);
        uint64_t            word = atomic_load_explicit(&inode->pool, memory_order_acquire);
        if (seg_pool_word_state(word) != SEG_POOL_FREE && words_name(&inode->lock, slot))
            inode_settle(session, slot, inode, (uint64_t)seg_pool_word_aux(word) << 32 | i);
    }
    intents_settle(session, slot);
    return 0;
}
