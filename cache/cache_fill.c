/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache_fill.c - one fetch per host: a missing page is claimed by one thread, which asks the origin; the others wait
 * for it.
 *
 *   EMPTY --begin: CAS--> CLAIM(me, FILL) --end: CAS on exactly that claim--> FRAME
 *                              |      +--end: nothing read for this page--> EMPTY
 *                              +--a writer or cache_drop overtakes it--> its claim, or EMPTY: end's CAS fails, what was read is dropped
 *
 * Why a late fill never covers newer data. The claim stands before the origin is asked. Who changes the origin then
 * steps over the page's word: cache_write_begin overtakes the claim before the change, and cache_write_end and
 * cache_drop make every word of the range that is not their own EMPTY after it (under the publish lock). So of a fill
 * that began before the change ended, either the claim is gone and its CAS fails (the sequence moved), or it was
 * published before the end of the change and is dropped there. A fill that begins afterwards asks the origin
 * afterwards. A word that does not exist yet needs no sequence to protect it: who makes it later claims later, and
 * asks later still. Claims of several pages are independent of each other: the change of one page lets those of the
 * others stand.
 *
 * Between cache_fill_end and cache_fill_release the thread stays in an epoch, entered before the first page word is
 * published: so what was published and is at once evicted by others stays readable for the reply.
 *
 * Waiting for a claim is bounded by the claimer's life: a waiter finds out that the claimer is dead (its incarnation
 * does not stand, or its process is gone) and voids the claim by CAS. A claim of kind CLOSE is nothing to wait for:
 * the word's chunk is going, look the page up again.
 *
 * If we die here: frames are PRIVATE and go FREE by recovery; claims are voided by recovery or by the first waiter.
 */
#include <assert.h>
#include <errno.h>
#include <sched.h>
#include <string.h>

#include "cache_internal.h"

enum {
    CLAIM_TRIES = 64,    /* of a page whose chunk is being closed or cannot be had      */
    CHUNK_EVICTIONS = 4, /* how often to make room in the pool of chunks before giving up */
};

/* ---- claims ---- */

uint32_t cache_claim_own(const struct cache *cache, enum cache_claim_kind kind)
{
    return cache_claim_value((unsigned)seg_self_slot(cache->seg), seg_self_incarnation(cache->seg), kind);
}

bool cache_member_alive(const struct cache *cache, unsigned slot, uint32_t incarnation, bool look)
{
    uint32_t now = 0;
    if (slot >= SEG_MEMBERS_MAX)
        return false;
    enum seg_member_state state = seg_member_state(cache->seg, slot, &now);
    if ((state != SEG_ACTIVE && state != SEG_JOINING) || (now & 0xffff) != incarnation)
        return false;
    return !look || !seg_member_is_dead(cache->seg, slot);
}

bool cache_claim_alive(const struct cache *cache, uint64_t word, bool look)
{
    uint32_t value = cache_word_value(word);
    return cache_member_alive(cache, cache_claim_slot(value), cache_claim_incarnation(value), look);
}

static bool word_is_claimed(uint64_t w) /* by something worth waiting for */
{
    return cache_word_tag(w) == CACHE_CLAIM && cache_claim_of_kind(cache_word_value(w)) != CACHE_CLAIM_CLOSE;
}

bool cache_claim_void(struct cache *cache, _Atomic uint64_t *word, bool look)
{
    uint64_t w = atomic_load_explicit(word, memory_order_acquire);
    if (!word_is_claimed(w))
        return true;
    if (cache_claim_alive(cache, w, look))
        return false;
    cache_word_cas(word, w, cache_word_next(w, CACHE_EMPTY, 0)); /* failed: somebody else did something with it */
    return !word_is_claimed(atomic_load_explicit(word, memory_order_acquire));
}

struct claim_wait {
    struct cache       *cache;
    struct cache_inode *inode;
    uint64_t            id, page;
    unsigned            looks;
};

static bool claim_gone(void *arg)
{
    struct claim_wait *wait = arg;
    seg_epoch_enter(wait->cache->seg);
    _Atomic uint64_t *word = cache_word(wait->cache, wait->inode, wait->id, wait->page);
    bool              gone = !word || cache_claim_void(wait->cache, word, wait->looks++ > 0);
    seg_epoch_exit(wait->cache->seg);
    return gone;
}

int cache_claim_wait(struct cache *cache, uint64_t id, uint64_t page, unsigned timeout_ms, bool (*stop)(void *),
                     void *stop_arg)
{
    struct cache_inode *inode = cache_inode_at(cache, id);
    if (!inode)
        return 0; /* no inode, no claim: the caller finds it stale */
    struct claim_wait wait = {.cache = cache, .inode = inode, .id = id, .page = page};
    struct lock_ref   ref = {id, &inode->lock};
    seg_count(cache->seg, SEG_COUNTER_fill_waits, 1);
    return lock_wait_for(cache->lock, &ref, claim_gone, &wait, timeout_ms, stop, stop_arg);
}

/* ---- begin ---- */

static int word_answer(uint64_t w) /* of a word that somebody wants to fill */
{
    switch (cache_word_tag(w)) {
    case CACHE_EMPTY:
        return 0;
    case CACHE_FRAME:
        return -EEXIST;
    case CACHE_CLAIM:
        return word_is_claimed(w) ? -EBUSY : 0;
    default:
        return -EUCLEAN;
    }
}

/* How many adjacent pages from `first` on are neither there nor claimed: so many frames are worth taking. */
static int empty_run(struct cache *cache, struct cache_inode *inode, uint64_t id, uint64_t first, uint32_t count,
                     uint32_t *run)
{
    int      rc = 0;
    uint32_t n = 0;
    seg_epoch_enter(cache->seg);
    while (n < count) {
        _Atomic uint64_t *word = cache_word(cache, inode, id, first + n);
        rc = word ? word_answer(atomic_load_explicit(word, memory_order_acquire)) : 0;
        if (rc)
            break;
        n++;
    }
    seg_epoch_exit(cache->seg);
    *run = n;
    return n ? 0 : rc;
}

/* One try. -EAGAIN: again at once; -ENOMEM: no chunk. */
static int page_claim_once(struct cache *cache, struct cache_inode *inode, uint64_t id, uint64_t page, uint64_t *claim)
{
    _Atomic uint64_t *word;
    seg_epoch_enter(cache->seg);
    int rc = cache_word_get(cache, inode, id, page, &word);
    if (rc == 0) {
        uint64_t w = atomic_load_explicit(word, memory_order_acquire);
        rc = word_answer(w);
        if (rc == 0) {
            uint64_t next = cache_word_next(w, CACHE_CLAIM, cache_claim_own(cache, CACHE_CLAIM_FILL));
            if (cache_word_tag(w) == CACHE_EMPTY && cache_word_cas(word, w, next))
                *claim = next;
            else
                rc = -EAGAIN;
        }
    }
    seg_epoch_exit(cache->seg);
    return rc;
}

static int page_claim(struct cache *cache, struct cache_inode *inode, uint64_t id, uint64_t page, uint64_t *claim)
{
    unsigned evictions = 0;
    for (unsigned tries = 0; tries < CLAIM_TRIES; tries++) {
        int rc = page_claim_once(cache, inode, id, page, claim);
        if (rc == -ENOMEM && evictions++ < CHUNK_EVICTIONS)
            cache_chunks_room(cache);
        else if (rc != -EAGAIN)
            return rc;
        else if (tries)
            sched_yield(); /* its closer is at work; a dead one is settled by recovery */
    }
    return -ENOMEM;
}

static uint32_t iov_build(struct cache *cache, const uint32_t *frame, uint32_t count, struct iovec *iov)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < count; i++) {
        unsigned char *data = cache_frame_data(cache, frame[i]);
        if (n && (unsigned char *)iov[n - 1].iov_base + iov[n - 1].iov_len == data)
            iov[n - 1].iov_len += CACHE_PAGE;
        else
            iov[n++] = (struct iovec){data, CACHE_PAGE};
    }
    return n;
}

int cache_fill_begin(struct cache *cache, uint64_t id, uint64_t first, uint32_t count, struct cache_fill *fill)
{
    struct cache_inode *inode = cache_inode_at(cache, id);
    uint32_t            run, n = 0;

    if (!inode)
        return -ESTALE;
    if (!count || first > UINT64_MAX - CACHE_FILL_MAX)
        return -EINVAL;
    int rc = empty_run(cache, inode, id, first, count < CACHE_FILL_MAX ? count : CACHE_FILL_MAX, &run);
    if (rc)
        return rc;
    uint32_t got = cache_frames_take(cache, run, fill->frame);
    if (!got)
        return -ENOMEM;
    while (n < got && (rc = page_claim(cache, inode, id, first + n, &fill->claim[n])) == 0)
        n++;
    for (uint32_t i = n; i < got; i++)
        cache_frame_drop(cache, fill->frame[i]);
    if (!n)
        return rc;
    fill->id = id;
    fill->first = first;
    fill->count = n;
    fill->stood = false;
    fill->iov_count = iov_build(cache, fill->frame, n, fill->iov);
    seg_count(cache->seg, SEG_COUNTER_fills, 1);
    return 0;
}

/* ---- end ---- */

/* Zeroes behind the last byte, sets the checksums. Returns how many pages hold something. */
static uint32_t pages_seal(struct cache *cache, const struct cache_fill *fill, ssize_t bytes)
{
    if (bytes <= 0)
        return 0;
    uint64_t limit = (uint64_t)fill->count * CACHE_PAGE;
    uint64_t have = (uint64_t)bytes < limit ? (uint64_t)bytes : limit;
    uint32_t pages = (uint32_t)((have + CACHE_PAGE - 1) / CACHE_PAGE);
    uint32_t tail = (uint32_t)(have % CACHE_PAGE);
    if (tail)
        memset((unsigned char *)cache_frame_data(cache, fill->frame[pages - 1]) + tail, 0, CACHE_PAGE - tail);
    for (uint32_t i = 0; i < pages; i++)
        cache_frame_seal(cache, fill->frame[i]);
    return pages;
}

void cache_fill_end(struct cache *cache, struct cache_fill *fill, ssize_t bytes)
{
    struct cache_inode *inode = cache_inode_at(cache, fill->id);
    uint32_t            pages = pages_seal(cache, fill, bytes);
    bool                stood = inode != NULL;

    assert(!seg_epoch_inside(cache->seg));
    seg_epoch_enter(cache->seg); /* until cache_fill_release */
    for (uint32_t i = 0; inode && i < fill->count; i++) {
        _Atomic uint64_t *word = cache_word(cache, inode, fill->id, fill->first + i);
        bool              keep = i < pages;
        uint64_t next = cache_word_next(fill->claim[i], keep ? CACHE_FRAME : CACHE_EMPTY, keep ? fill->frame[i] : 0);
        if (!word || !cache_word_cas(word, fill->claim[i], next)) {
            stood = false; /* overtaken; the frame is still ours, see release */
        } else if (keep) {
            seg_pool_publish(cache->frames, fill->frame[i]);
            fill->frame[i] = SEG_INDEX_NONE;
        }
    }
    fill->stood = stood;
    if (inode)
        lock_notify(cache->lock, &(struct lock_ref){fill->id, &inode->lock});
}

void cache_fill_release(struct cache *cache, struct cache_fill *fill)
{
    seg_epoch_exit(cache->seg);
    for (uint32_t i = 0; i < fill->count; i++)
        if (fill->frame[i] != SEG_INDEX_NONE)
            cache_frame_drop(cache, fill->frame[i]);
    fill->count = 0;
}
