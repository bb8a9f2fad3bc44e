/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache_read.c - the hit: from (file, range) to the memory it lies in, all bytes of one version, without a lock.
 *
 *   reader:  (V1) version, acquire; odd: again   (V2) attributes, page words, acquire each   (V3) fence, version again; moved: again
 *   change:  version odd, full fence, words and attributes, version even (cache_internal.h), under the publish lock
 *
 * If V2 saw anything of a change, V3 sees at least its odd version: the word was CASed with release after the version
 * was made odd, and V2 acquired it; for the attributes the two fences do the same. So equal even versions at V1 and
 * V3 mean that all that was read belongs to that version. Fills and evictions do not move the version: they never
 * change what a page holds, only whether it is there. Frames are immutable, and the epoch keeps them so until the
 * caller leaves it; hence what is given back needs no second check.
 *
 * A busy writer could keep readers going round. After READ_TRIES the collection is done under the publish lock (never
 * the write lock), which is tried for a bounded time only: its holder may be dead, and settling the dead may have to
 * wait for our own epoch to end. Then -EAGAIN: the caller leaves the epoch and starts over. The same answer ends the
 * wait for a version that stays odd (its publisher died; recovery makes it even).
 *
 * Nothing to settle if we die here, but the publish lock, whose next taker finds out.
 */
#include <assert.h>
#include <errno.h>
#include <sched.h>

#include "cache_internal.h"

enum {
    READ_TRIES = 16,   /* collections that were overtaken by a change   */
    ODD_SPINS = 4096,  /* looks at an odd version                       */
    LOCK_SPINS = 4096, /* tries of the publish lock                     */
    SPINS_BEFORE_YIELD = 64,
};

struct read {
    struct cache       *cache;
    struct cache_inode *inode;
    uint64_t            id, off;
    size_t              size;
    struct iovec       *iov;
    unsigned            iov_max, iov_count;
    size_t              bytes;
    uint64_t            missing;
    struct cache_chunk *chunk;  /* the one looked at last */
    uint64_t            number; /* its number             */
    uint32_t            touched;
};

static void spin(unsigned spins)
{
    if (spins % SPINS_BEFORE_YIELD == 0)
        sched_yield();
    else
        cache_relax();
}

static void chunk_leave(struct read *r)
{
    if (r->chunk && r->touched)
        cache_used_set(&r->chunk->used, r->touched);
    r->touched = 0;
}

/* The word of `page`, NULL when there is none. Marks it used: a page that is then found missing bears no harm from that. */
static _Atomic uint64_t *word_next(struct read *r, uint64_t page)
{
    if (page < CACHE_DIRECT_PAGES) {
        cache_used_set(&r->inode->used, 2u << page);
        return &r->inode->direct[page];
    }
    uint64_t number = page / CACHE_CHUNK_PAGES;
    if (!r->chunk || number != r->number) {
        chunk_leave(r);
        r->chunk = cache_chunk_find(r->cache, r->id, number, NULL);
        r->number = number;
        if (!r->chunk)
            return NULL;
    }
    r->touched |= 1u << page % CACHE_CHUNK_PAGES;
    return &r->chunk->page[page % CACHE_CHUNK_PAGES];
}

static int iov_add(struct read *r, unsigned char *data, size_t length)
{
    if (r->iov_count) {
        struct iovec *last = &r->iov[r->iov_count - 1];
        if ((unsigned char *)last->iov_base + last->iov_len == data) {
            last->iov_len += length;
            return 0;
        }
    }
    if (r->iov_count == r->iov_max)
        return -E2BIG;
    r->iov[r->iov_count++] = (struct iovec){data, length};
    return 0;
}

static int page_add(struct read *r, uint64_t page, size_t at, size_t length)
{
    _Atomic uint64_t *word = word_next(r, page);
    uint64_t w = word ? atomic_load_explicit(word, memory_order_acquire) : 0; /* V2, pairs with cache_word_cas */

    r->missing = page;
    switch (cache_word_tag(w)) {
    case CACHE_FRAME:
        break;
    case CACHE_EMPTY:
        return -ENODATA;
    case CACHE_CLAIM:
        return cache_claim_of_kind(cache_word_value(w)) == CACHE_CLAIM_CLOSE ? -ENODATA : -EBUSY;
    default:
        return -EUCLEAN;
    }
    unsigned char *data = cache_frame_data(r->cache, cache_word_value(w));
    return data ? iov_add(r, data + at, length) : -EUCLEAN;
}

static int collect(struct read *r)
{
    r->iov_count = 0;
    r->bytes = 0;
    r->missing = UINT64_MAX;
    r->chunk = NULL;
    r->touched = 0;
    if (!(atomic_load_explicit(&r->inode->flags, memory_order_acquire) & CACHE_ATTR_VALID))
        return -ENODATA;
    uint64_t file = __atomic_load_n(&r->inode->attr.size_bytes, __ATOMIC_RELAXED); /* V2 */
    if (r->off >= file)
        return 0;
    uint64_t end = r->size < file - r->off ? r->off + r->size : file;
    int      rc = 0;
    for (uint64_t pos = r->off; pos < end && !rc;) {
        size_t at = pos % CACHE_PAGE;
        size_t length = CACHE_PAGE - at < end - pos ? CACHE_PAGE - at : (size_t)(end - pos);
        rc = page_add(r, pos / CACHE_PAGE, at, length);
        pos += length;
    }
    chunk_leave(r);
    if (!rc)
        r->bytes = (size_t)(end - r->off);
    return rc;
}

/* True with the answer in *rc; false when changes kept coming. */
static bool collect_unlocked(struct read *r, int *rc)
{
    unsigned odd = 0;
    for (unsigned tries = 0; tries < READ_TRIES;) {
        uint64_t version =
            atomic_load_explicit(&r->inode->version, memory_order_acquire); /* V1, pairs with cache_version_shut */
        if (version & 1) {
            if (++odd > ODD_SPINS)
                return false;
            spin(odd);
            continue;
        }
        *rc = collect(r);
        atomic_thread_fence(memory_order_acquire); /* V3, pairs with the fence in cache_version_open */
        if (atomic_load_explicit(&r->inode->version, memory_order_relaxed) == version)
            return true;
        tries++;
    }
    return false;
}

/* lock_publish_enter() would have a dead holder settled, which must not be done inside an epoch: so the word is tried here, for a bounded time. */
static bool publish_try(struct read *r)
{
    seg_who self = seg_self(r->cache->seg);
    lock_rank_push(LOCK_RANK_INODE_PUBLISH);
    for (unsigned spins = 1; self && spins < LOCK_SPINS; spins++) {
        uint64_t free_word = 0;
        if (atomic_compare_exchange_weak_explicit(&r->inode->lock.publish, &free_word, self, memory_order_acquire,
                                                  memory_order_relaxed)) /* pairs with lock_publish_exit */
            return true;
        spin(spins);
    }
    lock_rank_pop(LOCK_RANK_INODE_PUBLISH);
    return false;
}

static int collect_locked(struct read *r)
{
    if (!publish_try(r))
        return -EAGAIN;
    bool odd = atomic_load_explicit(&r->inode->version, memory_order_relaxed) & 1;
    int  rc = odd ? -EAGAIN : collect(r);
    lock_publish_exit(r->cache->lock, &r->inode->lock);
    return rc;
}

int cache_read(struct cache *cache, uint64_t id, uint64_t off, size_t size, struct iovec *iov, unsigned iov_max,
               unsigned *iov_count, size_t *bytes, uint64_t *missing)
{
    struct read r = {.cache = cache,
                     .inode = cache_inode_at(cache, id),
                     .id = id,
                     .off = off,
                     .size = size,
                     .iov = iov,
                     .iov_max = iov_max};
    int         rc;

    assert(seg_epoch_inside(cache->seg));
    if (!r.inode)
        return -ESTALE;
    if (!collect_unlocked(&r, &rc))
        rc = collect_locked(&r);
    if (rc == -ENODATA || rc == -EBUSY)
        *missing = r.missing;
    if (rc)
        return rc;
    *iov_count = r.iov_count;
    *bytes = r.bytes;
    return 0;
}
