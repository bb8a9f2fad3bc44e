/* SPDX-License-Identifier: Apache-2.0 */
/*
 * seg_chain.c - hash chains over the elements of a pool.
 *
 *   bucket word, from bit 0:  head index + 1 : 32 | owner slot + 1 : 8 | owner incarnation : 24 (its low bits)
 *   link of an element:       next index + 1 : 32
 *
 *   bucket [ A | owner ] -> A [ B ] -> B [ C ] -> C [ 0 ]
 *
 * Readers walk inside an epoch and take no lock. Writers set the owner field (one CAS) and then make one store:
 *   insert           link of the new element = head (nobody sees it), then CAS the bucket to {new, no owner}:
 *   published and unlocked remove the head  CAS the bucket to {its next, no owner}: unlinked and unlocked
 *   remove another   CAS the predecessor's link past it, then unlock
 * The link of a removed element stays as it is, so a reader on it goes on to the rest of the chain. Hence an element
 * must not be inserted again before its epoch has passed (the pool's limbo sees to that).
 *
 * If we die here: before the one store nothing has changed, after it everything has; only the owner field is left and
 * seg_chain_recover() clears it, once our death is proven. What a dead member had claimed or not yet published bears
 * its slot, and seg_pool_recover() asks whether it is in a chain. Stores are CAS on the exact word, so a fenced
 * writer that comes back late fails with -ESTALE.
 *
 * Everything read is a peer's word. Walks detect a cycle (Brent, "An improved Monte Carlo factorization algorithm",
 * 1980: a marker that jumps forward in powers of two meets the walker after a few rounds) and stop at an index out
 * of range.
 */
#include <errno.h>
#include <sched.h>

#include "lock_rank.h"
#include "seg_chain.h"
#include "seg_epoch.h"
#include "seg_internal.h"

enum { SPINS_BEFORE_YIELD = 128 };
#define OWNER_MASK 0xffffffff00000000ull

int seg_chain_open(struct seg_chain *chain, struct seg *seg, struct seg_pool *pool, enum seg_section_kind buckets,
                   uint32_t link_off)
{
    struct seg_array array = seg_section(seg, buckets);
    if (!array.base || array.stride != sizeof(uint64_t) || array.count & (array.count - 1))
        return -EINVAL;
    if (link_off % sizeof(uint32_t) || link_off < sizeof(uint64_t) ||
        link_off + (uint64_t)sizeof(uint32_t) > seg_pool_stride(pool))
        return -EINVAL;
    *chain = (struct seg_chain){.seg = seg, .pool = pool, .buckets = array, .link_off = link_off};
    return 0;
}

static _Atomic uint64_t *bucket_at(const struct seg_chain *chain, uint64_t hash)
{
    return (_Atomic uint64_t *)seg_elem(&chain->buckets, hash & (chain->buckets.count - 1));
}

/* ---- walking ---- */

struct walk {
    const struct seg_chain *chain;
    uint32_t                index; /* where it stands; SEG_INDEX_NONE at the end */
    unsigned char          *element;
    uint32_t                marker; /* Brent: an earlier index           */
    uint32_t                steps, limit;
    int                     rc; /* -EUCLEAN: the chain is broken */
};

static bool walk_move(struct walk *walk, uint32_t link)
{
    walk->index = link - 1; /* 0 becomes SEG_INDEX_NONE */
    if (walk->index == SEG_INDEX_NONE)
        return false;
    walk->element = seg_pool_at(walk->chain->pool, walk->index);
    if (!walk->element || walk->index == walk->marker) {
        walk->rc = -EUCLEAN;
        return false;
    }
    if (++walk->steps == walk->limit) {
        walk->marker = walk->index;
        walk->limit *= 2; /* wraps after 2^31 steps: more than the indexes that can differ */
    }
    return true;
}

static bool walk_start(struct walk *walk, const struct seg_chain *chain, uint64_t bucket_word)
{
    *walk = (struct walk){.chain = chain, .marker = SEG_INDEX_NONE, .limit = 1};
    return walk_move(walk, (uint32_t)bucket_word);
}

static _Atomic uint32_t *walk_link(const struct walk *walk)
{
    return (_Atomic uint32_t *)(void *)(walk->element + walk->chain->link_off);
}

static bool walk_next(struct walk *walk)
{
    return walk_move(walk, atomic_load_explicit(walk_link(walk), memory_order_acquire)); /* pairs with LINK */
}

uint32_t seg_chain_find(const struct seg_chain *chain, uint64_t hash, seg_chain_match match, const void *key)
{
    struct walk walk;
    uint64_t    word = atomic_load_explicit(bucket_at(chain, hash), memory_order_acquire); /* pairs with BUCKET */

    for (bool more = walk_start(&walk, chain, word); more; more = walk_next(&walk))
        if (match(walk.element, key))
            return walk.index;
    return SEG_INDEX_NONE;
}

int seg_chain_walk(const struct seg_chain *chain, int (*fn)(void *arg, uint64_t bucket, uint32_t index), void *arg)
{
    int rc = 0;
    for (uint64_t bucket = 0; bucket < chain->buckets.count && !rc; bucket++) {
        struct walk walk;
        seg_epoch_enter(chain->seg);
        uint64_t word = atomic_load_explicit(bucket_at(chain, bucket), memory_order_acquire); /* pairs with BUCKET */
        for (bool more = walk_start(&walk, chain, word); more && !rc; more = walk_next(&walk))
            rc = fn(arg, bucket, walk.index);
        seg_epoch_exit(chain->seg);
        if (!rc)
            rc = walk.rc;
    }
    return rc;
}

/* ---- changing ---- */

/* Takes the owner field; *word is the bucket as we now hold it. */
static int bucket_lock(struct seg_chain *chain, _Atomic uint64_t *bucket, uint64_t *word)
{
    seg_who  who = seg_self(chain->seg);
    uint64_t owner = (uint64_t)(seg_who_slot(who) + 1) << 32 | (uint64_t)(seg_who_incarnation(who) & 0xffffff) << 40;

    if (!who)
        return -ESTALE;
    lock_rank_push(LOCK_RANK_CACHE_BUCKET);
    for (unsigned spins = 0;; spins++) {
        uint64_t seen = atomic_load_explicit(bucket, memory_order_relaxed);
        /* acquire: pairs with BUCKET of the last owner */
        if (!(seen & OWNER_MASK) && atomic_compare_exchange_weak_explicit(bucket, &seen, seen | owner,
                                                                          memory_order_acquire, memory_order_relaxed)) {
            *word = seen | owner;
            return 0;
        }
        if (spins < SPINS_BEFORE_YIELD) {
            seg_cpu_relax();
        } else if (seg_self_stands(
                       chain->seg)) { /* its holder is dead or off the processor; recovery clears the dead */
            sched_yield();
        } else {
            lock_rank_pop(LOCK_RANK_CACHE_BUCKET);
            return -ESTALE;
        }
    }
}

/* Stores a new head and gives the owner field up, in one step. False: it was no longer ours. */
static bool bucket_unlock(_Atomic uint64_t *bucket, uint64_t held, uint32_t head)
{
    /* BUCKET: release, pairs with every acquire of a bucket word */
    bool done =
        atomic_compare_exchange_strong_explicit(bucket, &held, head, memory_order_release, memory_order_relaxed);
    lock_rank_pop(LOCK_RANK_CACHE_BUCKET);
    return done;
}

int seg_chain_insert(struct seg_chain *chain, uint64_t hash, uint32_t index, seg_chain_match match, const void *key,
                     uint32_t *found)
{
    _Atomic uint64_t *bucket = bucket_at(chain, hash);
    unsigned char    *element = seg_pool_at(chain->pool, index);
    struct walk       walk;
    uint64_t          word;
    int               rc;

    if (!element)
        return -EUCLEAN;
    rc = bucket_lock(chain, bucket, &word);
    if (rc)
        return rc;
    walk.rc = 0;
    for (bool more = match && walk_start(&walk, chain, word); more; more = walk_next(&walk)) {
        if (walk.index == index || match(walk.element, key)) {
            bucket_unlock(bucket, word, (uint32_t)word);
            *found = walk.index;
            return -EEXIST;
        }
    }
    if (walk.rc) {
        bucket_unlock(bucket, word, (uint32_t)word);
        return walk.rc;
    }
    atomic_store_explicit((_Atomic uint32_t *)(void *)(element + chain->link_off), (uint32_t)word,
                          memory_order_relaxed);
    return bucket_unlock(bucket, word, index + 1) ? 0 : -ESTALE;
}

int seg_chain_remove(struct seg_chain *chain, uint64_t hash, uint32_t index)
{
    _Atomic uint64_t *bucket = bucket_at(chain, hash);
    _Atomic uint32_t *before = NULL; /* the link that leads to the walker; NULL: the bucket itself */
    struct walk       walk;
    uint64_t          word;
    int               rc = bucket_lock(chain, bucket, &word);

    if (rc)
        return rc;
    bool more = walk_start(&walk, chain, word);
    for (; more && walk.index != index; more = walk_next(&walk))
        before = walk_link(&walk);
    if (!more) {
        bucket_unlock(bucket, word, (uint32_t)word);
        return walk.rc ? walk.rc : -ENOENT;
    }
    uint32_t next = atomic_load_explicit(walk_link(&walk), memory_order_acquire); /* pairs with LINK */
    if (!before)
        return bucket_unlock(bucket, word, next) ? 0 : -ESTALE;
    uint32_t expected = index + 1;
    /* LINK: release, pairs with every acquire of a link */
    bool unlinked =
        atomic_compare_exchange_strong_explicit(before, &expected, next, memory_order_release, memory_order_relaxed);
    bucket_unlock(bucket, word, (uint32_t)word);
    return unlinked ? 0 : -ESTALE;
}

void seg_chain_recover(struct seg_chain *chain, unsigned slot)
{
    if (slot >= SEG_MEMBERS_MAX)
        return;
    for (uint64_t i = 0; i < chain->buckets.count; i++) {
        _Atomic uint64_t *bucket = bucket_at(chain, i);
        uint64_t          word = atomic_load_explicit(bucket, memory_order_relaxed);
        while ((word >> 32 & 0xff) == slot + 1 &&
               !atomic_compare_exchange_weak_explicit(bucket, &word, word & ~OWNER_MASK, memory_order_acq_rel,
                                                      memory_order_relaxed)) /* BUCKET */
            ;
    }
}
