/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache_inode.c - one record for each node of the tree that somebody has seen, found by the origin's reference.
 *
 *            alloc, fill in, insert         publish          claim           known: 0 -> DYING          drop pages, unlink, retire
 *   FREE ----------------> PRIVATE, linked ------> LIVE ------------> LIMBO -----------------> LIMBO, dying ----------> FREE, generation + 1
 *                                                   ^                   |                          |
 *                                                   +--- somebody knows it or holds a lock of it --+
 *
 * Who may use a node id. `known` says which members' kernels have it; the bit is the pin. The evictor wins by one CAS of
 * `known` from 0 to CACHE_KNOWN_DYING, a pinner by a CAS that adds its bit to anything else: one word, so exactly one of them
 * wins, and a holder of a pin never loses the inode. Between claim and that CAS an evictor may find a pin that is older than
 * its claim; so LIMBO alone does not say that an inode is gone:
 *   stands:  the generation is the id's, and PRIVATE, LIVE, or LIMBO with a real bit in `known`
 * (64 members that pin one inode between an evictor's first look and its claim make the word DYING themselves; until it gives
 * way, a few instructions later, the inode seems to be gone.)
 * A thread that holds no pin but the inode's publish lock is safe too: it has stored the lock word, then looked at the state;
 * the evictor has stored DYING, then looks at the lock word (P1/P2 against E3/E4, both with a full fence between). Anything
 * else (an id out of a name, inside an epoch) may be gone the moment after; the memory stays what it is until the epoch ends,
 * and late page claims find their words moved on.
 *
 * Finding a dying inode by its reference, intern() leaves its epoch and looks again until the evictor has unlinked it. There
 * is never a second record for one reference.
 *
 * If we die here: PRIVATE or LIMBO with our slot. Recovery looks whether it can be found: then it becomes LIVE (and DYING
 * becomes "nobody knows it"), else FREE.
 * Evicting: 1. claim  2. DYING  3. pages dropped  4. unlinked  5. retired. Dead after 1, 2, 3: LIVE again, after 3 without pages. After 4, 5: FREE.
 */
#include <assert.h>
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <time.h>
#include <xxhash.h>

#include "cache_internal.h"

enum {
    KEY_BYTES = CACHE_REF_BYTES, /* the whole reference: inode numbers and birth times repeat, a handle's generation does not */
    RECLAIM_BATCH = 32,
    ALLOC_TRIES = 200,    /* of a millisecond: readers leave their epochs sooner */
    YIELDS = 16,
    DYING_TRIES = 10000,  /* of a millisecond: its evictor may have died, and somebody has to settle that first */
};

uint64_t cache_ref_hash(const void *ref)
{
    return XXH3_64bits(ref, KEY_BYTES);
}

static bool ref_match(const void *e, const void *key)
{
    return memcmp(((const struct cache_inode *)e)->ref, key, KEY_BYTES) == 0;
}

static uint64_t own_bit(const struct cache *cache)
{
    return seg_self_bit(cache->seg);
}

static void nap(unsigned tries)
{
    if (tries < YIELDS)
        sched_yield();
    else
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

/* ---- standing ---- */

struct cache_inode *cache_inode_at(const struct cache *cache, uint64_t id)
{
    uint32_t            index = cache_id_index(id);
    struct cache_inode *inode = seg_pool_at(cache->inodes, index);

    if (!inode || index == 0)
        return NULL;
    uint64_t word = seg_pool_load(cache->inodes, index);
    if (seg_pool_word_aux(word) != id >> 32)
        return NULL;
    switch (seg_pool_word_state(word)) {
    case SEG_POOL_PRIVATE:
    case SEG_POOL_LIVE:
        return inode;
    case SEG_POOL_LIMBO: {
        uint64_t known = atomic_load_explicit(&inode->known, memory_order_seq_cst); /* E2 */
        return known != 0 && known != CACHE_KNOWN_DYING ? inode : NULL;
    }
    default:
        return NULL;
    }
}

int cache_publish_enter(struct cache *cache, uint64_t id, struct cache_inode **inode)
{
    struct cache_inode *at = cache_inode_at(cache, id);

    assert(!seg_epoch_inside(cache->seg));
    if (!at)
        return -ESTALE;
    lock_publish_enter(cache->lock, &at->lock); /* P1 */
    atomic_thread_fence(memory_order_seq_cst);
    if (!cache_inode_at(cache, id)) { /* P2, pairs with E3 */
        lock_publish_exit(cache->lock, &at->lock);
        return -ESTALE;
    }
    *inode = at;
    return 0;
}

void cache_publish_exit(struct cache *cache, struct cache_inode *inode)
{
    lock_publish_exit(cache->lock, &inode->lock);
}

struct lock_ref cache_lock_ref(const struct cache *cache, uint64_t id)
{
    struct cache_inode *inode = cache_inode_at(cache, id);
    return (struct lock_ref){.id = id, .words = inode ? &inode->lock : NULL};
}

int cache_ref_get(const struct cache *cache, uint64_t id, void *ref)
{
    int rc = -ESTALE;

    seg_epoch_enter(cache->seg);
    const struct cache_inode *inode = cache_inode_at(cache, id);
    if (inode) {
        memcpy(ref, inode->ref, CACHE_REF_BYTES);
        rc = 0;
    }
    seg_epoch_exit(cache->seg);
    return rc;
}

/* ---- pins ---- */

/* [epoch] In an epoch in which the inode was seen to stand, so that the slot is not used anew. */
static int known_add(const struct cache *cache, struct cache_inode *inode, uint32_t index)
{
    uint64_t bit = own_bit(cache), known = atomic_load_explicit(&inode->known, memory_order_relaxed);

    for (;;) {
        if (known == CACHE_KNOWN_DYING) {
            /* 64 members that all know it look the same; but then it is LIVE, and ours is one of the bits */
            if (seg_pool_word_state(seg_pool_load(cache->inodes, index)) == SEG_POOL_LIMBO)
                return -ESTALE;
            return 0;
        }
        if (known & bit)
            return 0;
        if (atomic_compare_exchange_weak_explicit(&inode->known, &known, known | bit, memory_order_seq_cst,
                                                  memory_order_relaxed)) /* against E2 */
            return 0;
    }
}

int cache_known_set(struct cache *cache, uint64_t id)
{
    int rc = -ESTALE;

    seg_epoch_enter(cache->seg);
    struct cache_inode *inode = cache_inode_at(cache, id);
    if (inode)
        rc = known_add(cache, inode, cache_id_index(id));
    seg_epoch_exit(cache->seg);
    return rc;
}

/* The interest bit goes first: once nobody knows the inode it may be evicted, and its words belong to another node. */
void cache_known_drop(struct cache *cache, uint64_t id)
{
    seg_epoch_enter(cache->seg);
    struct cache_inode *inode = cache_inode_at(cache, id);
    if (inode) {
        uint64_t known = atomic_load_explicit(&inode->known, memory_order_relaxed), bit = own_bit(cache);
        lock_interest_drop(cache->lock, &inode->lock);
        while ((known & bit) && (known != CACHE_KNOWN_DYING || cache_inode_at(cache, id)) &&
               !atomic_compare_exchange_weak_explicit(&inode->known, &known, known & ~bit, memory_order_seq_cst,
                                                      memory_order_relaxed))
            ;
    }
    seg_epoch_exit(cache->seg);
}

/* ---- evicting ---- */

static bool locks_idle(const struct cache_inode *inode)
{
    return atomic_load_explicit(&inode->lock.owner, memory_order_seq_cst) == 0 &&
           atomic_load_explicit(&inode->lock.publish, memory_order_seq_cst) == 0; /* E4, pairs with P1 */
}

/* LIMBO(self) and dying: drops what hangs on it, unlinks it. False: it must stay (the chain is not what it should be). */
static bool inode_unlink(struct cache *cache, struct cache_inode *inode, uint64_t id)
{
    cache_words_drop(cache, inode, id, 0, UINT64_MAX); /* step 3 */
    if (seg_chain_remove(&cache->inode_chain, cache_ref_hash(inode->ref), cache_id_index(id)))
        return false; /* step 4 */
    seg_pool_retire(cache->inodes, cache_id_index(id)); /* step 5 */
    return true;
}

/* [epoch] */
static int inode_evict(struct cache *cache, uint64_t id)
{
    uint32_t            index = cache_id_index(id);
    struct cache_inode *inode = cache_inode_at(cache, id);
    uint64_t            nobody = 0, dying = CACHE_KNOWN_DYING;

    if (!inode)
        return -ESTALE;
    if (id == CACHE_ROOT_ID || atomic_load_explicit(&inode->known, memory_order_relaxed) || !locks_idle(inode))
        return -EBUSY;
    if (!seg_pool_claim(cache->inodes, index)) /* step 1 */
        return -EBUSY;
    if (atomic_compare_exchange_strong_explicit(&inode->known, &nobody, CACHE_KNOWN_DYING, memory_order_seq_cst,
                                                memory_order_relaxed)) { /* step 2: E2 and E3 */
        atomic_thread_fence(memory_order_seq_cst);
        if (locks_idle(inode) && inode_unlink(cache, inode, id)) /* E4 */
            return 0;
        atomic_compare_exchange_strong_explicit(&inode->known, &dying, 0, memory_order_seq_cst, memory_order_relaxed);
    }
    seg_pool_unclaim(cache->inodes, index);
    return -EBUSY;
}

int cache_inode_evict(struct cache *cache, uint64_t id)
{
    seg_epoch_enter(cache->seg);
    int rc = inode_evict(cache, id);
    seg_epoch_exit(cache->seg);
    if (!rc)
        seg_pool_reap(cache->inodes); /* other members may be waiting for it, and cannot reap our limbo */
    return rc;
}

void cache_prune_set(struct cache *cache, cache_prune_fn fn, void *arg)
{
    cache->prune_arg = arg;
    cache->prune = fn;
}

/* The next inode under the hand, with its second chance taken away; 0 when it is none to be taken. `known` as read. */
static uint64_t hand_next(struct cache *cache, bool pinned, uint64_t *known)
{
    uint32_t            count = seg_pool_count(cache->inodes);
    uint32_t            index = (uint32_t)(atomic_fetch_add_explicit(&cache->inode_hand, 1, memory_order_relaxed) % count);
    uint64_t            word = seg_pool_load(cache->inodes, index);
    struct cache_inode *inode = seg_pool_at(cache->inodes, index);

    if (index <= cache_id_index(CACHE_ROOT_ID) || seg_pool_word_state(word) != SEG_POOL_LIVE)
        return 0;
    *known = atomic_load_explicit(&inode->known, memory_order_relaxed);
    if ((*known != 0) != pinned || !locks_idle(inode))
        return 0;
    if (atomic_load_explicit(&inode->used, memory_order_relaxed) & 1) {
        atomic_fetch_and_explicit(&inode->used, ~1u, memory_order_relaxed);
        return 0;
    }
    return cache_id_make(seg_pool_word_aux(word), index);
}

uint32_t cache_reclaim_inodes(struct cache *cache, uint32_t want)
{
    uint64_t steps = 2ull * seg_pool_count(cache->inodes), known; /* twice round: the first time may only clear bits */
    uint32_t freed = 0, asked = 0;

    for (uint64_t i = 0; i < steps && freed < want; i++) {
        uint64_t id = hand_next(cache, false, &known);
        if (id && cache_inode_evict(cache, id) == 0)
            freed++;
    }
    for (uint64_t i = 0; cache->prune && i < steps && freed + asked < want; i++) {
        uint64_t id = hand_next(cache, true, &known);
        if (id) {
            cache->prune(cache->prune_arg, id, known);
            asked++;
        }
    }
    return freed;
}

/* ---- finding and making ---- */

/* Is somebody about to give one back, or to find that he does not need it? */
static bool inodes_in_transit(const struct cache *cache)
{
    for (uint32_t i = 0; i < seg_pool_count(cache->inodes); i++)
        if (seg_pool_word_state(seg_pool_load(cache->inodes, i)) != SEG_POOL_LIVE)
            return true;
    return false;
}

static uint32_t inode_alloc(struct cache *cache)
{
    uint32_t index;

    for (unsigned tries = 0; tries < ALLOC_TRIES; tries++) {
        if (seg_pool_alloc(cache->inodes, 1, &index))
            return index;
        if (!seg_self_stands(cache->seg))
            break;
        if (!cache_reclaim_inodes(cache, RECLAIM_BATCH) && !inodes_in_transit(cache))
            break;
        nap(tries);
        seg_pool_reap(cache->inodes);
    }
    return SEG_INDEX_NONE;
}

/* A PRIVATE slot that nobody can find. Words of its last life: nothing was left there, but for a claim that came too late. */
static void inode_init(struct cache *cache, uint32_t index, const void *ref, uint64_t known)
{
    struct cache_inode *inode = seg_pool_at(cache->inodes, index);
    uint64_t            id = cache_id_make(seg_pool_word_aux(seg_pool_load(cache->inodes, index)), index);
    uint64_t            version = atomic_load_explicit(&inode->version, memory_order_relaxed);

    seg_epoch_enter(cache->seg);
    cache_words_drop(cache, inode, id, 0, CACHE_DIRECT_PAGES);
    seg_epoch_exit(cache->seg);
    atomic_store_explicit(&inode->lock.interest, 0, memory_order_relaxed);
    atomic_store_explicit(&inode->lock.touched, 0, memory_order_relaxed);
    atomic_store_explicit(&inode->lock.owed, 0, memory_order_relaxed);
    atomic_store_explicit(&inode->lock.waiters, 0, memory_order_relaxed);
    atomic_store_explicit(&inode->lock.starving, 0, memory_order_relaxed);
    atomic_store_explicit(&inode->lock.slipped, 0, memory_order_relaxed);
    atomic_store_explicit(&inode->flags, 0, memory_order_relaxed);
    atomic_store_explicit(&inode->version, (version | 1) + 1, memory_order_relaxed); /* grows: fetches of the last life are refused */
    atomic_store_explicit(&inode->parent, 0, memory_order_relaxed);
    atomic_store_explicit(&inode->name, SEG_INDEX_NONE, memory_order_relaxed);
    atomic_store_explicit(&inode->used, 1, memory_order_relaxed);
    memcpy(inode->ref, ref, CACHE_REF_BYTES);
    atomic_store_explicit(&inode->known, known, memory_order_release);
}

/* 0, -ENODATA no such inode, -EAGAIN it is being evicted: look again in a moment. */
static int intern_find(struct cache *cache, uint64_t hash, const void *ref, bool pin_known, uint64_t *id)
{
    int rc = -ENODATA;

    seg_epoch_enter(cache->seg);
    uint32_t index = seg_chain_find(&cache->inode_chain, hash, ref_match, ref);
    if (index != SEG_INDEX_NONE) {
        uint64_t            word = seg_pool_load(cache->inodes, index);
        uint64_t            found = cache_id_make(seg_pool_word_aux(word), index);
        struct cache_inode *inode = cache_inode_at(cache, found);
        rc = -EAGAIN;
        if (inode && (!pin_known || known_add(cache, inode, index) == 0)) {
            cache_used_set(&inode->used, 1);
            *id = found;
            rc = 0;
        }
    }
    seg_epoch_exit(cache->seg);
    return rc;
}

/* Links a fresh one. 0, or -EEXIST: somebody was quicker. */
static int intern_link(struct cache *cache, uint64_t hash, uint32_t fresh, const void *ref, bool pin_known, uint64_t *id)
{
    uint32_t found;

    inode_init(cache, fresh, ref, pin_known ? own_bit(cache) : 0);
    uint64_t made = cache_id_make(seg_pool_word_aux(seg_pool_load(cache->inodes, fresh)), fresh);
    int      rc = seg_chain_insert(&cache->inode_chain, hash, fresh, ref_match, ref, &found);
    if (rc)
        return rc;
    seg_pool_publish(cache->inodes, fresh); /* not pinned: it may be evicted from here on */
    *id = made;
    return 0;
}

int cache_inode_intern(struct cache *cache, const void *ref, bool pin_known, uint64_t *id, bool *created)
{
    uint64_t hash = cache_ref_hash(ref);
    uint32_t fresh = SEG_INDEX_NONE;
    unsigned tries = 0;
    bool     made = false;
    int      rc;

    assert(!seg_epoch_inside(cache->seg));
    for (;;) {
        rc = intern_find(cache, hash, ref, pin_known, id);
        if (rc == -EAGAIN) {
            if (tries++ < DYING_TRIES && seg_self_stands(cache->seg)) {
                nap(tries);
                continue;
            }
            rc = -EIO;
        }
        if (rc != -ENODATA)
            break;
        if (fresh == SEG_INDEX_NONE)
            fresh = inode_alloc(cache);
        if (fresh == SEG_INDEX_NONE) {
            rc = seg_self_stands(cache->seg) ? -ENOSPC : -EIO;
            break;
        }
        rc = intern_link(cache, hash, fresh, ref, pin_known, id);
        if (rc == -EEXIST)
            continue;
        made = rc == 0;
        break;
    }
    if (fresh != SEG_INDEX_NONE && !made)
        seg_pool_free(cache->inodes, fresh);
    if (rc == 0 && created)
        *created = made;
    return rc == -ESTALE ? -EIO : rc; /* -ESTALE of the chain: this member has been fenced */
}

int cache_inode_find(struct cache *cache, const void *ref, uint64_t *id)
{
    return intern_find(cache, cache_ref_hash(ref), ref, false, id) == 0 ? 0 : -ENODATA;
}

/* The reference is complete when CACHE_REF_SET says so; linking is repeated by every caller, so that a first one that died half-way does no harm. */
int cache_root_set(struct cache *cache, const void *ref)
{
    struct cache_inode *root;
    uint32_t            found = SEG_INDEX_NONE;
    int                 rc = cache_publish_enter(cache, CACHE_ROOT_ID, &root);

    if (rc)
        return -EUCLEAN;
    uint32_t flags = atomic_load_explicit(&root->flags, memory_order_relaxed);
    if (!(flags & CACHE_REF_SET)) {
        memcpy(root->ref, ref, CACHE_REF_BYTES);
        atomic_store_explicit(&root->flags, flags | CACHE_REF_SET, memory_order_release);
    } else if (!ref_match(root, ref)) {
        rc = -EXDEV;
    }
    if (!rc) {
        rc = seg_chain_insert(&cache->inode_chain, cache_ref_hash(ref), cache_id_index(CACHE_ROOT_ID), ref_match, ref, &found);
        if (rc == -EEXIST)
            rc = found == cache_id_index(CACHE_ROOT_ID) ? 0 : -EUCLEAN;
    }
    cache_publish_exit(cache, root);
    return rc;
}
