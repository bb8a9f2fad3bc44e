/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache_write.c - changes of data: claims before the origin is changed, one version step after it; and dropping.
 *
 *   begin:  intent -> frames -> claims, lowest page first          (EMPTY, FRAME, a fill's claim) -> CLAIM(me, WRITE)
 *           the caller merges old and new bytes into the frames and changes the origin
 *   end:    publish lock, version odd -> each page: CLAIM(me) -> FRAME or EMPTY -> attributes -> version even -> unlock -> intent cleared
 *
 * What begin promises: who fills is overtaken; readers of the claimed pages wait; other writers of them wait. Old
 * frames are seized (cache_frame.c), so they stay readable through write->old until end, and nobody else retires
 * them.
 *
 * What end promises, also for pages that could not be claimed (no chunk to be had, or another writer's claim that
 * would not go): when it has returned, nothing of the range that was fetched before the change is in the cache or can
 * still come into it. A page that is not published by CAS on exactly the own claim is made EMPTY whatever it is,
 * other members' claims included (cache_word_drop). Take a page and a fill or write X of it:
 *   X published before that step: its frame is dropped.
 *   X has a claim in the word at that step: overtaken, X's CAS will fail; if X is a write, it then drops the page itself.
 *   X claims after that step: X asks (or changes) the origin after this change.
 *   There is no word at that step: X makes it later and claims later still; as before.
 * So chunks are a convenience here and never a reason to wait. cache_drop is the same step for a range without
 * claims, and a truncation that frees the chunk a fill had claimed is as good as one that overtakes the claim:
 * cache_fill_end looks the word up anew and does not find its claim. The step is under the publish lock with the
 * version odd, so readers see all of it or nothing.
 *
 * Two writers of one range (one of them slipped in without the write lock) claim from the lowest page up, so they
 * cannot wait for each other. The wait is bounded by CLAIM_WAIT_MS and by the other's life; after it the page is
 * written without a claim, which costs only its caching.
 *
 * If we die here: the intent names the range, and recovery drops it; frames PRIVATE or LIMBO with our slot and in no
 * word go FREE; claims are voided by recovery or by who waits for them. Inside the version step: recovery drops the
 * range, makes the attributes unknown and the version even. Fenced in between: CAS on our claims fails, since
 * recovery has moved the words; what we still make EMPTY is harmless.
 */
#include <assert.h>
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <time.h>

#include "cache_internal.h"

enum {
    CLAIM_WAIT_MS = 1000,
    CLAIM_TRIES = 64,
    CHUNK_EVICTIONS = 4,
    SPINS_BEFORE_LOOK = 256,
    INTENT_NAP_NS = 100000,
};

/* ---- intents ---- */

static struct cache_intent *intent_at(const struct cache *cache, uint32_t intent)
{
    struct cache_intents *own = seg_elem(&cache->intents, (uint64_t)seg_self_slot(cache->seg));
    return own && intent < CACHE_INTENTS ? &own->intent[intent] : NULL;
}

static uint32_t intent_reserve(struct cache *cache)
{
    static_assert(CACHE_INTENTS <= 32, "one bit each");
    for (unsigned spins = 1;; spins++) {
        uint32_t used = atomic_load_explicit(&cache->intent_used, memory_order_relaxed);
        uint32_t free_bits = ~used & (uint32_t)((1ull << CACHE_INTENTS) - 1);
        /* acquire: pairs with the release in cache_intent_clear */
        if (free_bits &&
            atomic_compare_exchange_weak_explicit(&cache->intent_used, &used, used | (free_bits & -free_bits),
                                                  memory_order_acquire, memory_order_relaxed))
            return (uint32_t)__builtin_ctz(free_bits);
        if (!free_bits && spins % 16 == 0) /* as many changes as this are at work: they end */
            nanosleep(&(struct timespec){.tv_nsec = INTENT_NAP_NS}, NULL);
        else if (!free_bits)
            sched_yield();
    }
}

uint32_t cache_intent_take(struct cache *cache, enum cache_intent_op op, const uint64_t id[4], uint64_t first_page,
                           uint64_t page_count)
{
    uint32_t             n = intent_reserve(cache);
    struct cache_intent *intent = intent_at(cache, n);
    if (!intent)
        return n; /* not joined: nothing to settle for anybody */
    memcpy(intent->id, id, sizeof intent->id);
    intent->first_page = first_page;
    intent->page_count = page_count;
    atomic_store_explicit(&intent->op, op, memory_order_release); /* pairs with recovery's acquire */
    return n;
}

void cache_intent_clear(struct cache *cache, uint32_t n)
{
    struct cache_intent *intent = intent_at(cache, n);
    if (intent)
        atomic_store_explicit(&intent->op, CACHE_INTENT_NONE, memory_order_release); /* after all that it stood for */
    atomic_fetch_and_explicit(&cache->intent_used, ~(1u << n), memory_order_release);
}

/* ---- begin ---- */

struct claim_wait {
    struct cache       *cache;
    struct cache_inode *inode;
    uint64_t            id, page;
    unsigned            looks;
};

static bool word_is_write_claim(uint64_t w)
{
    return cache_word_tag(w) == CACHE_CLAIM && cache_claim_of_kind(cache_word_value(w)) == CACHE_CLAIM_WRITE;
}

static bool write_claim_gone(void *arg)
{
    struct claim_wait *wait = arg;
    seg_epoch_enter(wait->cache->seg);
    _Atomic uint64_t *word = cache_word(wait->cache, wait->inode, wait->id, wait->page);
    bool              gone = !word || !word_is_write_claim(atomic_load_explicit(word, memory_order_acquire)) ||
                cache_claim_void(wait->cache, word, wait->looks++ > 0);
    seg_epoch_exit(wait->cache->seg);
    return gone;
}

/* A frame of others, too, cannot stay seized for the time of a write: its bytes are copied where the merge wants them. */
static int shared_let_go(struct cache *cache, struct cache_write *write, uint32_t i, uint32_t old, uint64_t claim)
{
    if (write->data[i])
        memcpy(write->data[i], cache_frame_data(cache, old), CACHE_PAGE);
    write->claim[i] = claim;
    write->old_frame[i] = SEG_INDEX_NONE;
    write->old[i] = write->data[i];
    cache_frame_unlinked(cache, old);
    return 0;
}

/* Fills in entry i when the word could be changed. -EAGAIN: try again; -EBUSY: another writer's claim. */
static int word_claim(struct cache *cache, struct cache_write *write, uint32_t i, _Atomic uint64_t *word, bool look)
{
    uint64_t w = atomic_load_explicit(word, memory_order_acquire);
    uint64_t next = cache_word_next(w, CACHE_CLAIM, cache_claim_own(cache, CACHE_CLAIM_WRITE));
    uint32_t old = SEG_INDEX_NONE;

    if (word_is_write_claim(w))
        return -EBUSY;
    if (cache_word_tag(w) == CACHE_CLAIM && cache_claim_of_kind(cache_word_value(w)) == CACHE_CLAIM_CLOSE)
        return -EAGAIN;
    if (cache_word_tag(w) == CACHE_FRAME && cache_frame_data(cache, cache_word_value(w))) {
        old = cache_word_value(w);
        enum cache_seized seized = cache_frame_seize(cache, old, look);
        if (seized == CACHE_SEIZED_NO && !cache_frame_stuck(cache, old, look))
            return -EAGAIN;
        if (!cache_word_cas(word, w, next)) {
            cache_frame_unseize(cache, old, seized);
            return -EAGAIN;
        }
        if (seized == CACHE_SEIZED_NO)
            old = SEG_INDEX_NONE;
        else if (cache_frame_shared(cache, old))
            return shared_let_go(cache, write, i, old, next);
    } else if (!cache_word_cas(word, w, next)) {
        return -EAGAIN;
    }
    write->claim[i] = next;
    write->old_frame[i] = old;
    write->old[i] = old == SEG_INDEX_NONE ? NULL : cache_frame_data(cache, old);
    return 0;
}

static int page_claim_once(struct cache *cache, struct cache_inode *inode, struct cache_write *write, uint32_t i)
{
    _Atomic uint64_t *word;
    seg_epoch_enter(cache->seg);
    int rc = cache_word_get(cache, inode, write->id, write->first + i, &word);
    if (rc == 0) {
        unsigned spins = 0;
        while ((rc = word_claim(cache, write, i, word, spins == SPINS_BEFORE_LOOK)) == -EAGAIN &&
               spins++ < SPINS_BEFORE_LOOK)
            cache_relax();
    }
    seg_epoch_exit(cache->seg);
    return rc;
}

/* Claims page i of the write, or leaves it without a claim. -EIO only: we are fenced. */
static int page_claim(struct cache *cache, struct cache_inode *inode, struct cache_write *write, uint32_t i)
{
    struct lock_ref ref = {write->id, &inode->lock};
    unsigned        evictions = 0;

    for (unsigned tries = 0; tries < CLAIM_TRIES; tries++) {
        int rc = page_claim_once(cache, inode, write, i);
        if (rc == 0)
            return 0;
        if (rc == -EBUSY) {
            struct claim_wait wait = {.cache = cache, .inode = inode, .id = write->id, .page = write->first + i};
            rc = lock_wait_for(cache->lock, &ref, write_claim_gone, &wait, CLAIM_WAIT_MS, NULL, NULL);
            if (rc == -ETIMEDOUT)
                return 0;
            if (rc)
                return -EIO;
        } else if (rc == -ENOMEM && evictions++ < CHUNK_EVICTIONS) {
            cache_chunks_room(cache);
        } else if (rc == -EAGAIN) {
            sched_yield();
        } else {
            return 0;
        }
    }
    return 0;
}

static void frames_assign(struct cache *cache, struct cache_write *write, bool take)
{
    uint32_t got = take ? cache_frames_take(cache, write->count, write->frame) : 0;
    for (uint32_t i = 0; i < write->count; i++) {
        if (i >= got)
            write->frame[i] = SEG_INDEX_NONE;
        write->data[i] = i < got ? cache_frame_data(cache, write->frame[i]) : NULL;
        write->claim[i] = 0;
        write->old_frame[i] = SEG_INDEX_NONE;
        write->old[i] = NULL;
    }
}

static void frame_give_back(struct cache *cache, struct cache_write *write, uint32_t i)
{
    if (write->frame[i] != SEG_INDEX_NONE)
        cache_frame_drop(cache, write->frame[i]);
    write->frame[i] = SEG_INDEX_NONE;
    write->data[i] = NULL;
}

int cache_claims_begin(struct cache *cache, uint64_t id, uint64_t first, uint32_t count, bool frames, struct cache_write *write)
{
    struct cache_inode *inode = cache_inode_at(cache, id);
    const uint64_t      ids[4] = {id};
    int                 rc = 0;

    assert(!seg_epoch_inside(cache->seg));
    if (!inode)
        return -ESTALE;
    if (!count || count > CACHE_WRITE_MAX || first > UINT64_MAX - CACHE_WRITE_MAX)
        return -EINVAL;
    if (!seg_self_stands(cache->seg))
        return -EIO;
    write->id = id;
    write->first = first;
    write->count = count;
    write->intent = cache_intent_take(cache, CACHE_INTENT_DATA, ids, first, count);
    frames_assign(cache, write, frames);
    for (uint32_t i = 0; i < count && !rc; i++) {
        rc = page_claim(cache, inode, write, i);
        if (!write->claim[i])
            frame_give_back(cache, write, i); /* could not be published */
    }
    if (rc)
        cache_write_end(cache, write, 0, NULL);
    return rc;
}

int cache_write_begin(struct cache *cache, uint64_t id, uint64_t first, uint32_t count, struct cache_write *write)
{
    return cache_claims_begin(cache, id, first, count, true, write);
}

/* ---- end ---- */

static void page_end(struct cache *cache, struct cache_inode *inode, struct cache_write *write, uint32_t i, bool keep, cache_install_fn install,
                     void *arg)
{
    _Atomic uint64_t *word = cache_word(cache, inode, write->id, write->first + i);
    if (!word)
        return;
    if (write->claim[i] && install && install(arg, i, word, write->claim[i]))
        return;
    if (write->claim[i]) {
        uint64_t next = cache_word_next(write->claim[i], keep ? CACHE_FRAME : CACHE_EMPTY, keep ? write->frame[i] : 0);
        if (cache_word_cas(word, write->claim[i], next)) {
            if (keep) {
                seg_pool_publish(cache->frames, write->frame[i]);
                write->frame[i] = SEG_INDEX_NONE;
            }
            return;
        }
    }
    cache_word_drop(cache, word);
}

static void frames_settle(struct cache *cache, struct cache_write *write)
{
    for (uint32_t i = 0; i < write->count; i++) {
        frame_give_back(cache, write, i);
        if (write->old_frame[i] != SEG_INDEX_NONE)
            seg_pool_retire(cache->frames, write->old_frame[i]);
        write->old_frame[i] = SEG_INDEX_NONE;
        write->old[i] = NULL;
    }
}

void cache_write_end(struct cache *cache, struct cache_write *write, uint32_t good, const struct cache_attr *attr)
{
    cache_claims_end(cache, write, good, attr, NULL, NULL);
}

void cache_claims_end(struct cache *cache, struct cache_write *write, uint32_t good, const struct cache_attr *attr, cache_install_fn install,
                      void *arg)
{
    struct cache_inode *inode;

    for (uint32_t i = 0; i < write->count && i < good; i++)
        if (write->frame[i] != SEG_INDEX_NONE)
            cache_frame_seal(cache, write->frame[i]);
    bool stands = cache_publish_enter(cache, write->id, &inode) == 0;
    if (stands) {
        seg_epoch_enter(cache->seg);
        cache_version_open(inode);
        for (uint32_t i = 0; i < write->count; i++)
            page_end(cache, inode, write, i, i < good && write->frame[i] != SEG_INDEX_NONE, install, arg);
        cache_attr_store(inode, attr);
        cache_version_shut(inode);
        seg_epoch_exit(cache->seg);
        cache_publish_exit(cache, inode);
    }
    frames_settle(cache, write);
    cache_intent_clear(cache, write->intent);
    if (stands)
        lock_notify(cache->lock, &(struct lock_ref){write->id, &inode->lock});
    write->count = 0;
}

/* ---- dropping ---- */

int cache_drop(struct cache *cache, uint64_t id, uint64_t first, uint64_t count, const struct cache_attr *attr)
{
    struct cache_inode *inode;
    int                 rc = cache_publish_enter(cache, id, &inode);
    if (rc)
        return rc;
    seg_epoch_enter(cache->seg);
    cache_version_open(inode);
    cache_words_clear(cache, inode, id, first, count);
    cache_attr_store(inode, attr);
    cache_version_shut(inode);
    seg_epoch_exit(cache->seg);
    cache_publish_exit(cache, inode);
    seg_epoch_enter(cache->seg);
    cache_chunks_tidy(cache, inode, id, first,
                      count); /* not under the publish lock: a bucket may have to wait for recovery */
    seg_epoch_exit(cache->seg);
    lock_notify(cache->lock, &(struct lock_ref){id, &inode->lock});
    return 0;
}
