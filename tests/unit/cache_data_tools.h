/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache_data_tools.h - what the tests of cached data share: pages whose every word bears a stamp, counting of pool elements, and the end of a
 * test at which nothing may be left over.
 */
#ifndef HEARTH_CACHE_DATA_TOOLS_H
#define HEARTH_CACHE_DATA_TOOLS_H

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <time.h>

#include "cache_fixture.h"

enum { TOOLS_IOV = 600, TOOLS_WORDS = CACHE_PAGE / 8 };

static inline uint32_t tools_random(uint64_t *state) /* xorshift64* (Vigna, 2014) */
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return (uint32_t)(*state * 0x2545f4914f6cdd1dull >> 32);
}

static inline void page_stamp(void *data, uint64_t stamp)
{
    uint64_t *word = data;
    for (unsigned i = 0; i < TOOLS_WORDS; i++)
        word[i] = stamp;
}

/* The stamp of a page; the test ends when its words differ. */
static inline uint64_t page_stamp_get(const void *data)
{
    const uint64_t *word = data;
    for (unsigned i = 1; i < TOOLS_WORDS; i++)
        cr_assert_eq(word[i], word[0], "torn page: word %u is %lx, word 0 is %lx", i, word[i], word[0]);
    return word[0];
}

/* Writes stamp + page number into every page of a fill. */
static inline void fill_stamp(struct cache_fill *fill, uint64_t stamp)
{
    uint64_t page = fill->first;
    for (uint32_t i = 0; i < fill->iov_count; i++)
        for (size_t at = 0; at < fill->iov[i].iov_len; at += CACHE_PAGE)
            page_stamp((unsigned char *)fill->iov[i].iov_base + at, stamp + page++);
}

/* Fetches [first, first + count) with stamp + page number; ends the test when a page cannot be had. */
static inline void pages_fill(struct cache *cache, uint64_t id, uint64_t first, uint32_t count, uint64_t stamp)
{
    struct cache_fill fill;
    for (uint64_t page = first; page < first + count;) {
        int rc = cache_fill_begin(cache, id, page, (uint32_t)(first + count - page), &fill);
        cr_assert_eq(rc, 0, "fill_begin of page %lu: %d", page, rc);
        fill_stamp(&fill, stamp);
        page += fill.count;
        cache_fill_end(cache, &fill, (ssize_t)fill.count * CACHE_PAGE);
        cr_assert(fill.stood);
        cache_fill_release(cache, &fill);
    }
}

/* One page as cache_read sees it: 0 with its stamp, or the error. */
static inline int page_read(struct cache *cache, uint64_t id, uint64_t page, uint64_t *stamp)
{
    struct iovec iov[1];
    unsigned     iov_count;
    size_t       bytes = 0;
    uint64_t     missing;
    seg_epoch_enter(cache_seg(cache));
    int rc = cache_read(cache, id, page * CACHE_PAGE, CACHE_PAGE, iov, 1, &iov_count, &bytes, &missing);
    if (rc == 0) {
        cr_assert_eq(bytes, CACHE_PAGE);
        *stamp = page_stamp_get(iov[0].iov_base);
    }
    seg_epoch_exit(cache_seg(cache));
    return rc;
}

/* A whole change of [first, first + count): every page gets stamp + page number. Stands for fs/, which holds the write lock. */
static inline void pages_write(struct cache *cache, uint64_t id, uint64_t first, uint32_t count, uint64_t stamp,
                               const struct cache_attr *attr)
{
    struct cache_write write;
    cr_assert_eq(cache_write_begin(cache, id, first, count, &write), 0);
    for (uint32_t i = 0; i < count; i++)
        if (write.data[i])
            page_stamp(write.data[i], stamp + first + i);
    cache_write_end(cache, &write, count, attr);
}

static inline struct cache_attr attr_of_size(uint64_t size_bytes)
{
    return (struct cache_attr){.size_bytes = size_bytes, .mode = 0100644, .nlink = 1, .blksize = CACHE_PAGE};
}

static inline uint32_t pool_count_state(struct seg_pool *pool, unsigned state)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < seg_pool_count(pool); i++)
        n += seg_pool_word_state(seg_pool_load(pool, i)) == state;
    return n;
}

/* Nobody is at work: all limbo becomes free. */
static inline void limbo_drain(struct cache *cache)
{
    for (unsigned ms = 0; ms < 2000; ms++) {
        seg_pool_reap(cache->frames);
        seg_pool_reap(cache->chunks);
        if (!seg_pool_limbo_count(cache->frames) && !seg_pool_limbo_count(cache->chunks))
            return;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    cr_assert_fail("%u frames and %u chunks stay in limbo", seg_pool_limbo_count(cache->frames),
                   seg_pool_limbo_count(cache->chunks));
}

/* Page words that hold a frame, counted where they lie; no word may be a claim. */
static inline uint32_t frames_linked(struct cache *cache)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < seg_pool_count(cache->chunks); i++) {
        struct cache_chunk *chunk = seg_pool_at(cache->chunks, i);
        if (i == 0 || seg_pool_word_state(seg_pool_load(cache->chunks, i)) == SEG_POOL_FREE)
            continue;
        for (unsigned k = 0; k < CACHE_CHUNK_PAGES; k++) {
            cr_assert_neq(cache_word_tag(chunk->page[k]), CACHE_CLAIM, "chunk %u, word %u is still claimed", i, k);
            n += cache_word_tag(chunk->page[k]) == CACHE_FRAME;
        }
    }
    for (uint32_t i = 1; i < seg_pool_count(cache->inodes); i++) {
        struct cache_inode *inode = seg_pool_at(cache->inodes, i);
        if (seg_pool_word_state(seg_pool_load(cache->inodes, i)) != SEG_POOL_LIVE)
            continue;
        for (unsigned k = 0; k < CACHE_DIRECT_PAGES; k++) {
            cr_assert_neq(cache_word_tag(inode->direct[k]), CACHE_CLAIM, "inode %u, word %u is still claimed", i, k);
            n += cache_word_tag(inode->direct[k]) == CACHE_FRAME;
        }
    }
    return n;
}

/* References of all LIVE frames (index 0 is reserved). */
static inline uint32_t frames_referenced(struct cache *cache)
{
    uint32_t n = 0;
    for (uint32_t i = 1; i < seg_pool_count(cache->frames); i++) {
        uint64_t word = seg_pool_load(cache->frames, i);
        n += seg_pool_word_state(word) == SEG_POOL_LIVE ? seg_pool_word_aux(word) : 0;
    }
    return n;
}

/* Every frame is FREE, or LIVE and in as many page words as it has references. */
static inline void frames_account(struct cache *cache)
{
    limbo_drain(cache);
    uint32_t linked = frames_linked(cache), live = pool_count_state(cache->frames, SEG_POOL_LIVE) - 1;
    uint32_t free_count = pool_count_state(cache->frames, SEG_POOL_FREE);
    uint32_t referenced = frames_referenced(cache);
    cr_assert_eq(referenced, linked, "%u references of frames that are LIVE, %u page words", referenced, linked);
    cr_assert_eq(free_count + live + 1, seg_pool_count(cache->frames), "%u frames are neither free nor live",
                 seg_pool_count(cache->frames) - free_count - live - 1);
    cr_assert_eq(pool_count_state(cache->chunks, SEG_POOL_LIMBO), 0);
    cr_assert_eq(pool_count_state(cache->chunks, SEG_POOL_PRIVATE), 0);
}

/* Everything can be evicted when nobody is at work, and then every frame and every chunk is free again. */
static inline void frames_return(struct cache *cache)
{
    frames_account(cache);
    for (unsigned round = 0; round < 8; round++)
        cache_evict(cache, seg_pool_count(cache->frames));
    cache_chunks_evict(cache, seg_pool_count(cache->chunks));
    limbo_drain(cache);
    cr_assert_eq(pool_count_state(cache->frames, SEG_POOL_FREE) + 1, seg_pool_count(cache->frames));
    cr_assert_eq(pool_count_state(cache->chunks, SEG_POOL_FREE) + 1, seg_pool_count(cache->chunks));
}

static inline void thread_start(pthread_t *thread, void *(*fn)(void *), void *arg)
{
    cr_assert_eq(pthread_create(thread, NULL, fn, arg), 0);
}

#endif
