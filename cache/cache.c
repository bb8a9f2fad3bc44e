/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache.c - the handle: format, open, close, usage.
 *
 * cache_format() runs once in a segment's life, by its creator, or by a later member under the recovery lock when the creator
 * died before it was through. It is repeatable: the root inode becomes LIVE as the last step, and a segment whose root is
 * LIVE is left alone.
 *   1. hints of all pools say "free"   2. element 0 of each pool LIVE and its hint cleared (no index 0 is ever handed out: node ids, links
 *   and part numbers use 0 for "none")   3. the root inode LIVE
 *
 * cache_open() only looks: what a member needs to have settled (its former life) is cache_recover()'s business. It may be
 * called before the member is active, and on a mapping that may not be written (checks and tools), then without a lock
 * manager.
 *
 * cache_close() gives back what this process has retired but not yet freed, so that a member that leaves in order leaves no
 * element in limbo. It waits for readers, at most a second; what is left then bears our slot, and the next life of the slot
 * settles it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cache_internal.h"

enum { CLOSE_WAIT_MS = 1000, LOW_FRACTION = 32 };

struct shape {
    enum seg_section_kind elements, hints;
    uint64_t              stride;
};
static const struct shape shapes[] = {
    {SEG_SECTION_INODES, SEG_SECTION_INODE_HINTS, sizeof(struct cache_inode)},
    {SEG_SECTION_NAMES, SEG_SECTION_NAME_HINTS, sizeof(struct cache_name)},
    {SEG_SECTION_CHUNKS, SEG_SECTION_CHUNK_HINTS, sizeof(struct cache_chunk)},
    {SEG_SECTION_FRAMES, SEG_SECTION_FRAME_HINTS, sizeof(struct cache_frame)},
};
enum { SHAPES = sizeof shapes / sizeof shapes[0] };

/* ---- format ---- */

static void element_reserve(struct seg *seg, const struct shape *shape, uint64_t index, uint32_t aux)
{
    struct seg_array  elements = seg_section(seg, shape->elements), hints = seg_section(seg, shape->hints);
    _Atomic uint64_t *word = seg_elem(&elements, index);
    _Atomic uint64_t *hint = seg_elem(&hints, 0);

    if (!word || !hint || hints.stride * hints.count * 8 <= index)
        return; /* cache_open() will refuse it */
    atomic_fetch_and_explicit(&hint[index / 64], ~(1ull << index % 64), memory_order_relaxed);
    atomic_store_explicit(word, seg_pool_word(SEG_POOL_LIVE, 0, 0, aux), memory_order_release); /* pairs with pool words' acquire */
}

void cache_format(struct seg *seg)
{
    struct seg_array    inodes = seg_section(seg, SEG_SECTION_INODES);
    struct cache_inode *root = seg_elem(&inodes, cache_id_index(CACHE_ROOT_ID));

    if (!root || inodes.stride != sizeof *root)
        return; /* cache_open() will refuse it */
    if (seg_pool_word_state(atomic_load_explicit(&root->pool, memory_order_acquire)) == SEG_POOL_LIVE)
        return;
    for (unsigned i = 0; i < SHAPES; i++)
        seg_pool_format(seg, shapes[i].elements, shapes[i].hints);
    for (unsigned i = 0; i < SHAPES; i++)
        element_reserve(seg, &shapes[i], 0, shapes[i].elements == SEG_SECTION_FRAMES);
    atomic_store_explicit(&root->version, 2, memory_order_relaxed);
    atomic_store_explicit(&root->name, SEG_INDEX_NONE, memory_order_relaxed);
    element_reserve(seg, &shapes[0], cache_id_index(CACHE_ROOT_ID), 0);
}

/* ---- open and close ---- */

static int shapes_check(struct seg *seg, struct cache *cache)
{
    for (unsigned i = 0; i < SHAPES; i++) {
        struct seg_array array = seg_section(seg, shapes[i].elements);
        if (!array.base || array.stride != shapes[i].stride || array.count < 2)
            return -EPROTO;
    }
    cache->data = seg_section(seg, SEG_SECTION_DATA);
    cache->intents = seg_section(seg, SEG_SECTION_INTENTS);
    if (!cache->data.base || cache->data.stride != CACHE_PAGE ||
        cache->data.count < seg_section(seg, SEG_SECTION_FRAMES).count)
        return -EPROTO;
    if (!cache->intents.base || cache->intents.stride != sizeof(struct cache_intents) ||
        cache->intents.count < SEG_MEMBERS_MAX)
        return -EPROTO;
    return 0;
}

static int pools_open(struct seg *seg, struct cache *cache)
{
    int rc = seg_pool_open(seg, SEG_SECTION_INODES, SEG_SECTION_INODE_HINTS, true, &cache->inodes);
    if (!rc)
        rc = seg_pool_open(seg, SEG_SECTION_NAMES, SEG_SECTION_NAME_HINTS, true, &cache->names);
    if (!rc)
        rc = seg_pool_open(seg, SEG_SECTION_CHUNKS, SEG_SECTION_CHUNK_HINTS, true, &cache->chunks);
    if (!rc)
        rc = seg_pool_open(seg, SEG_SECTION_FRAMES, SEG_SECTION_FRAME_HINTS, false, &cache->frames);
    if (!rc)
        rc = seg_chain_open(&cache->inode_chain, seg, cache->inodes, SEG_SECTION_INODE_BUCKETS,
                            offsetof(struct cache_inode, link));
    if (!rc)
        rc = seg_chain_open(&cache->name_chain, seg, cache->names, SEG_SECTION_NAME_BUCKETS,
                            offsetof(struct cache_name, link));
    if (!rc)
        rc = seg_chain_open(&cache->chunk_chain, seg, cache->chunks, SEG_SECTION_CHUNK_BUCKETS,
                            offsetof(struct cache_chunk, link));
    return rc == -EINVAL ? -EPROTO : rc;
}

static void cache_free(struct cache *cache)
{
    seg_pool_close(cache->frames);
    seg_pool_close(cache->chunks);
    seg_pool_close(cache->names);
    seg_pool_close(cache->inodes);
    free(cache);
}

int cache_open(struct seg *seg, struct lock_mgr *lock, struct work *work, struct cache **out)
{
    struct cache *cache = calloc(1, sizeof *cache);
    int           rc;

    if (!cache)
        return -ENOMEM;
    cache->seg = seg;
    cache->lock = lock;
    cache->work = work;
    rc = shapes_check(seg, cache);
    if (!rc)
        rc = pools_open(seg, cache);
    if (rc) {
        cache_free(cache);
        return rc;
    }
    cache->low_frames = seg_pool_count(cache->frames) / LOW_FRACTION;
    *out = cache;
    return 0;
}

static uint32_t limbo_all(const struct cache *cache)
{
    return seg_pool_limbo_count(cache->frames) + seg_pool_limbo_count(cache->chunks) + seg_pool_limbo_count(cache->names) +
           seg_pool_limbo_count(cache->inodes);
}

uint32_t cache_reap(struct cache *cache)
{
    return seg_pool_reap(cache->frames) + seg_pool_reap(cache->chunks) + seg_pool_reap(cache->names) +
           seg_pool_reap(cache->inodes);
}

void cache_close(struct cache *cache)
{
    if (!cache)
        return;
    for (unsigned ms = 0; limbo_all(cache) && ms < CLOSE_WAIT_MS && seg_self_stands(cache->seg); ms++) {
        if (!cache_reap(cache))
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    cache_free(cache);
}

struct seg *cache_seg(const struct cache *cache)
{
    return cache->seg;
}

struct lock_mgr *cache_lock(const struct cache *cache)
{
    return cache->lock;
}

void cache_usage_get(const struct cache *cache, struct cache_usage *usage)
{
    *usage = (struct cache_usage){
        .frames = seg_pool_count(cache->frames),
        .frames_free = seg_pool_free_count(cache->frames),
        .inodes = seg_pool_count(cache->inodes),
        .inodes_free = seg_pool_free_count(cache->inodes),
        .names = seg_pool_count(cache->names),
        .names_free = seg_pool_free_count(cache->names),
        .chunks = seg_pool_count(cache->chunks),
        .chunks_free = seg_pool_free_count(cache->chunks),
        .limbo = limbo_all(cache),
    };
}
