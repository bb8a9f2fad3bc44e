/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache_evict.c - making room: a clock over all page words of the segment.
 *
 * The clock (Corbato, "A paging experiment with the Multics system", 1968) has one hand per process over one circle:
 * all chunks, then all inodes with their direct words. So a page that hangs on an inode and one that hangs on a chunk
 * meet the hand equally often. Where the hand comes by it takes the used bits and evicts the pages that had none; lap
 * 1 may only take bits, lap 2 then finds victims, lap 3 takes what it meets, so that readers who keep setting bits
 * cannot keep everything. Members start at different places; threads of one process take turns of TURN elements from
 * the same hand.
 *
 * Claims are passed by (pinned by somebody at work), and so are frames that another thread has seized. A page word
 * goes FRAME -> EMPTY by the steps of cache_frame.c. No version moves and no kernel is told: what was cached was
 * current, and kernels may keep it. A chunk that is found or left without a frame is freed (closing, see
 * cache_chunk.c), unless something is in it.
 *
 * Who runs out of chunks evicts chunks: the second hand goes over the chunks alone, takes whole ones, unused ones
 * first.
 *
 * Each turn is an epoch of its own. What is evicted is in limbo until all readers' epochs have passed: the caller
 * leaves its own epochs first. If we die here: at most one frame or chunk per thread is LIMBO with our slot, and
 * linked or not; recovery decides by that.
 */
#include <assert.h>
#include <errno.h>
#include <sched.h>
#include <time.h>

#include "cache_internal.h"

enum {
    TURN = 32, /* elements of the circle under one epoch */
    LAPS = 3,
    CHUNK_LOW_PART = 64, /* chunks are low when fewer than 1/64 are free */
    ROOM_CHUNKS = 4,     /* evicted by who finds none                    */
    ROOM_YIELDS = 16,    /* waiting for the epochs that hold them back   */
    ROOM_NAPS = 16,
    ROOM_NAP_NS = 50000,
};

static uint32_t word_evict(struct cache *cache, _Atomic uint64_t *word)
{
    uint64_t w = atomic_load_explicit(word, memory_order_acquire);
    if (cache_word_tag(w) != CACHE_FRAME || cache_word_value(w) >= seg_pool_count(cache->frames))
        return 0;
    return cache_word_replace_frame(cache, word, w, CACHE_EMPTY, 0);
}

/* Evicts the frames of `words` whose bit in `spared` is not set. */
static uint32_t words_evict(struct cache *cache, _Atomic uint64_t *words, unsigned count, uint32_t spared)
{
    uint32_t evicted = 0;
    for (unsigned i = 0; i < count; i++)
        if (!(spared >> i & 1))
            evicted += word_evict(cache, &words[i]);
    return evicted;
}

static bool is_live(const struct seg_pool *pool, uint32_t index)
{
    return seg_pool_word_state(seg_pool_load(pool, index)) == SEG_POOL_LIVE;
}

static uint32_t used_take(_Atomic uint32_t *used, uint32_t bits) /* no store where there is nothing to take */
{
    if (!(atomic_load_explicit(used, memory_order_relaxed) & bits))
        return 0;
    return atomic_fetch_and_explicit(used, ~bits, memory_order_relaxed) & bits;
}

static uint32_t chunk_visit(struct cache *cache, uint32_t index, bool spare)
{
    struct cache_chunk *chunk = seg_pool_at(cache->chunks, index);
    if (!is_live(cache->chunks, index))
        return 0;
    uint32_t used = used_take(&chunk->used, UINT32_MAX);
    uint32_t evicted = words_evict(cache, chunk->page, CACHE_CHUNK_PAGES, spare ? used : 0);
    if (!used || !spare)
        cache_chunk_free_if_empty(cache, index);
    return evicted;
}

static uint32_t inode_visit(struct cache *cache, uint32_t index, bool spare)
{
    struct cache_inode *inode = seg_pool_at(cache->inodes, index);
    if (!is_live(cache->inodes, index))
        return 0;
    uint32_t used = used_take(&inode->used, ((1u << CACHE_DIRECT_PAGES) - 1) << 1) >> 1;
    return words_evict(cache, inode->direct, CACHE_DIRECT_PAGES, spare ? used : 0);
}

/* Where this member's hands start: members are spread over the circle. */
static uint64_t place(const struct cache *cache, uint64_t step, uint64_t circle)
{
    uint64_t slot = (uint64_t)seg_self_slot(cache->seg) % SEG_MEMBERS_MAX;
    return (step + slot * (circle / SEG_MEMBERS_MAX)) % circle;
}

uint32_t cache_evict(struct cache *cache, uint32_t want)
{
    uint64_t chunks = seg_pool_count(cache->chunks), circle = chunks + seg_pool_count(cache->inodes);
    uint32_t evicted = 0;

    seg_pool_reap(cache->frames);
    if (seg_pool_free_count(cache->chunks) < chunks / CHUNK_LOW_PART)
        cache_chunks_evict(cache, (uint32_t)(chunks / CHUNK_LOW_PART));
    for (uint64_t visited = 0; evicted < want && visited < LAPS * circle; visited += TURN) {
        uint64_t step = atomic_fetch_add_explicit(&cache->frame_hand, TURN, memory_order_relaxed);
        bool     spare = visited < (LAPS - 1) * circle;
        seg_epoch_enter(cache->seg);
        for (uint64_t i = 0; i < TURN && evicted < want; i++) {
            uint64_t at = place(cache, step + i, circle);
            evicted += at < chunks ? chunk_visit(cache, (uint32_t)at, spare)
                                   : inode_visit(cache, (uint32_t)(at - chunks), spare);
        }
        seg_epoch_exit(cache->seg);
    }
    seg_count(cache->seg, SEG_COUNTER_evictions, evicted);
    return evicted;
}

/* A whole chunk with all its frames; false when something is claimed in it. */
static bool chunk_evict(struct cache *cache, uint32_t index, bool spare, uint32_t *frames)
{
    struct cache_chunk *chunk = seg_pool_at(cache->chunks, index);
    if (!is_live(cache->chunks, index))
        return false;
    if (used_take(&chunk->used, UINT32_MAX) && spare)
        return false;
    *frames += words_evict(cache, chunk->page, CACHE_CHUNK_PAGES, 0);
    return cache_chunk_free_if_empty(cache, index);
}

uint32_t cache_chunks_evict(struct cache *cache, uint32_t want)
{
    uint64_t chunks = seg_pool_count(cache->chunks);
    uint32_t freed = seg_pool_reap(cache->chunks), frames = 0;

    for (uint64_t visited = 0; freed < want && visited < (LAPS - 1) * chunks; visited += TURN) {
        uint64_t step = atomic_fetch_add_explicit(&cache->chunk_hand, TURN, memory_order_relaxed);
        seg_epoch_enter(cache->seg);
        for (uint64_t i = 0; i < TURN && freed < want; i++)
            freed += chunk_evict(cache, (uint32_t)place(cache, step + i, chunks), visited < chunks, &frames);
        seg_epoch_exit(cache->seg);
    }
    seg_count(cache->seg, SEG_COUNTER_evictions, frames);
    return freed;
}

/* Tries by taking one and giving it back: the next taker finds it, or has been outrun by another. */
static bool chunk_is_free(struct cache *cache)
{
    uint32_t chunk;
    if (!seg_pool_alloc(cache->chunks, 1, &chunk))
        return false;
    seg_pool_free(cache->chunks, chunk);
    return true;
}

bool cache_chunks_room(struct cache *cache)
{
    assert(!seg_epoch_inside(cache->seg));
    for (unsigned i = 0; i < ROOM_YIELDS + ROOM_NAPS; i++) {
        if (chunk_is_free(cache))
            return true;
        bool waiting = seg_pool_limbo_count(cache->chunks) > 0; /* what is on its way need not be evicted */
        if ((!waiting || i == ROOM_YIELDS) && !cache_chunks_evict(cache, ROOM_CHUNKS) && !waiting)
            return false;
        if (i < ROOM_YIELDS)
            sched_yield();
        else
            nanosleep(&(struct timespec){.tv_nsec = ROOM_NAP_NS}, NULL);
    }
    return false;
}
