/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache_frame.c - frames: taking, sealing, and the order of steps between a frame's own word and the page word that
 * leads to it.
 *
 *   in:   PRIVATE(me) -- fill in, seal --> CAS page word to FRAME --> seg_pool_publish --> LIVE
 *   out:  LIVE -- seize: LIMBO(me) --> CAS page word away --> seg_pool_retire, the epoch passes --> FREE
 *
 * Invariants.
 *   A frame is in as many page words as it has references (the aux of its word), and in one unless it is shared (cache_share.c).
 *   A page word leaves FRAME only by the hand of the one who has seized the frame, and references change only in such hands. So between a successful seizing
 *   and the CAS nobody else can change the word, and a frame that was read from a word inside an epoch is not used
 *   anew before that epoch has ended.
 *   Contents do not change from the CAS in to the end of the limbo.
 *
 * A thread that wants to seize a frame may find it PRIVATE (its publisher has linked it and not yet said LIVE) or
 * LIMBO (another evictor or writer is about to change the word). Both are a few instructions long, so it spins; but
 * the peer may have died there. Then the step is taken over: the frame's word is CASed from {PRIVATE or LIMBO, dead
 * peer} to LIMBO(self). Recovery changes exactly that word too, so one of the two wins and the frame is neither lost
 * nor freed twice. A frame taken over whose page word has changed was unlinked already: it is retired.
 *
 * Of a shared frame nobody but recovery can tell how many words were left to it when the peer died: it is not taken over. Whoever must have a word empty
 * takes the word away and leaves the frame to recovery, which counts (cache_recover.c).
 *
 * If we die here: PRIVATE and LIMBO frames bear our slot; recovery makes those that are in a page word LIVE and the
 * others FREE.
 */
#include <assert.h>
#include <errno.h>
#include <sched.h>
#include <time.h>
#include <xxhash.h>

#include "cache_internal.h"

enum {
    TAKE_ROUNDS = 4,   /* evict, wait a little, again                                       */
    EPOCH_YIELDS = 16, /* spins for epochs to pass, then naps                               */
    EPOCH_NAPS = 24,
    EPOCH_NAP_NS = 50000,
    EVICT_EXTRA = 32,     /* evict a few more than are wanted now: others will come            */
    EVICT_POST_EVERY = 8, /* of the times that frames are found low                            */
    SPINS_BEFORE_YIELD = 64,
    SPINS_BEFORE_LOOK = 256, /* spins before asking the kernel whether the peer lives             */
};

void *cache_frame_data(const struct cache *cache, uint32_t frame)
{
    return seg_elem(&cache->data, frame);
}

uint64_t cache_frame_sum(const void *data)
{
    return XXH3_64bits(data, CACHE_PAGE);
}

void cache_frame_seal(struct cache *cache, uint32_t frame)
{
    struct cache_frame *descriptor = seg_pool_at(cache->frames, frame);
    const void         *data = cache_frame_data(cache, frame);
    if (descriptor && data)
        atomic_store_explicit(&descriptor->checksum, cache_frame_sum(data),
                              memory_order_relaxed); /* released by the page word */
}

void cache_frame_drop(struct cache *cache, uint32_t frame)
{
    seg_pool_free(cache->frames, frame);
}

/* ---- taking ---- */

bool cache_low(const struct cache *cache)
{
    return seg_pool_free_count(cache->frames) < cache->low_frames;
}

static void evict_post(struct cache *cache)
{
    if (!cache->work || !cache_low(cache))
        return;
    if (atomic_fetch_add_explicit(&cache->evict_tick, 1, memory_order_relaxed) % EVICT_POST_EVERY)
        return;
    struct work_item item = {.kind = WORK_EVICT, .key = cache->low_frames};
    work_share(cache->work, &item, true); /* full: whoever runs out evicts for himself */
}

/* Waits a little for the epochs that hold our limbo back; takes what becomes free. */
static uint32_t take_from_limbo(struct cache *cache, uint32_t want, uint32_t *frame)
{
    uint32_t got = 0;
    for (unsigned i = 0; i < EPOCH_YIELDS + EPOCH_NAPS; i++) {
        seg_pool_reap(cache->frames);
        got += seg_pool_alloc(cache->frames, want - got, frame + got);
        if (got == want || !seg_pool_limbo_count(cache->frames))
            break;
        if (i < EPOCH_YIELDS)
            sched_yield();
        else
            nanosleep(&(struct timespec){.tv_nsec = EPOCH_NAP_NS}, NULL);
    }
    return got;
}

uint32_t cache_frames_take(struct cache *cache, uint32_t want, uint32_t *frame)
{
    assert(!seg_epoch_inside(cache->seg)); /* our own epoch would hold back what we evict */
    uint32_t got = seg_pool_alloc(cache->frames, want, frame);
    evict_post(cache);
    for (unsigned round = 0; got < want && round < TAKE_ROUNDS; round++) {
        uint32_t evicted = seg_pool_limbo_count(cache->frames);
        if (round > 0 || evicted < want - got)
            evicted += cache_evict(cache, want - got + EVICT_EXTRA);
        got += take_from_limbo(cache, want - got, frame + got);
        if (!evicted && got)
            break; /* what is left is in others' hands: fewer will do */
    }
    return got;
}

/* ---- seizing ---- */

/* From a dead member's half-done step to ours, by one CAS on exactly its word. */
static bool frame_take_over(struct cache *cache, uint32_t frame, bool look)
{
    struct cache_frame *descriptor = seg_pool_at(cache->frames, frame);
    uint64_t            word = seg_pool_load(cache->frames, frame);
    unsigned            state = seg_pool_word_state(word);

    if (!descriptor || (state != SEG_POOL_PRIVATE && state != SEG_POOL_LIMBO) || seg_pool_word_aux(word) > 1)
        return false;
    if (cache_member_alive(cache, seg_pool_word_slot(word), (uint32_t)(word >> 16 & 0xffff), look))
        return false;
    uint64_t own = seg_pool_word(SEG_POOL_LIMBO, (unsigned)seg_self_slot(cache->seg), seg_self_incarnation(cache->seg),
                                 seg_pool_word_aux(word));
    return atomic_compare_exchange_strong_explicit(&descriptor->pool, &word, own, memory_order_acq_rel,
                                                   memory_order_relaxed);
}

bool cache_frame_stuck(struct cache *cache, uint32_t frame, bool look)
{
    uint64_t word = seg_pool_load(cache->frames, frame);
    return seg_pool_word_state(word) == SEG_POOL_LIMBO && seg_pool_word_aux(word) > 1 &&
           !cache_member_alive(cache, seg_pool_word_slot(word), (uint32_t)(word >> 16 & 0xffff), look);
}

bool cache_frame_shared(const struct cache *cache, uint32_t frame)
{
    return seg_pool_word_aux(seg_pool_load(cache->frames, frame)) > 1;
}

void cache_frame_unlinked(struct cache *cache, uint32_t frame)
{
    uint32_t references = seg_pool_word_aux(seg_pool_load(cache->frames, frame));
    if (references > 1 && seg_pool_aux_set(cache->frames, frame, references - 1))
        seg_pool_unclaim(cache->frames, frame);
    else
        seg_pool_retire(cache->frames, frame);
}

enum cache_seized cache_frame_seize(struct cache *cache, uint32_t frame, bool look)
{
    if (seg_pool_claim(cache->frames, frame))
        return CACHE_SEIZED_LIVE;
    return frame_take_over(cache, frame, look) ? CACHE_SEIZED_DEAD : CACHE_SEIZED_NO;
}

void cache_frame_unseize(struct cache *cache, uint32_t frame, enum cache_seized seized)
{
    if (seized == CACHE_SEIZED_LIVE)
        seg_pool_unclaim(cache->frames, frame);
    else if (seized == CACHE_SEIZED_DEAD)
        seg_pool_retire(cache->frames, frame);
}

static bool word_replace(struct cache *cache, _Atomic uint64_t *word, uint64_t old, uint64_t next, bool look)
{
    uint32_t          frame = cache_word_value(old);
    enum cache_seized seized = cache_frame_seize(cache, frame, look);
    if (seized == CACHE_SEIZED_NO)
        return cache_frame_stuck(cache, frame, look) && cache_word_cas(word, old, next);
    if (!cache_word_cas(word, old, next)) {
        cache_frame_unseize(cache, frame, seized);
        return false;
    }
    cache_frame_unlinked(cache, frame);
    return true;
}

bool cache_word_replace_frame(struct cache *cache, _Atomic uint64_t *word, uint64_t old, unsigned tag, uint32_t value)
{
    return word_replace(cache, word, old, cache_word_next(old, tag, value), false);
}

/* True when the word is EMPTY (or CLOSE, which is as good) now. */
static bool word_drop_once(struct cache *cache, _Atomic uint64_t *word, bool look)
{
    uint64_t w = atomic_load_explicit(word, memory_order_acquire);
    uint64_t empty = cache_word_next(w, CACHE_EMPTY, 0);

    if (cache_word_tag(w) == CACHE_EMPTY)
        return true;
    if (cache_word_tag(w) == CACHE_FRAME && cache_word_value(w) < seg_pool_count(cache->frames))
        return word_replace(cache, word, w, empty, look);
    if (cache_word_tag(w) == CACHE_CLAIM && cache_claim_of_kind(cache_word_value(w)) == CACHE_CLAIM_CLOSE)
        return true;
    return cache_word_cas(word, w, empty); /* a claim, or nonsense */
}

void cache_word_drop(struct cache *cache, _Atomic uint64_t *word)
{
    for (unsigned spins = 1; !word_drop_once(cache, word, spins % SPINS_BEFORE_LOOK == 0); spins++) {
        if (!seg_self_stands(cache->seg))
            return; /* fenced: what we do counts no more, and recovery drops the range */
        if (spins % SPINS_BEFORE_YIELD == 0)
            sched_yield();
        else
            cache_relax();
    }
}
