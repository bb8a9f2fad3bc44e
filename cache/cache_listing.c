/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache_listing.c - what the origin said when it was asked for a directory's entries, kept in the directory's pages.
 *
 *   page 0                                 page 1
 *   [header][entry][entry]...[entry][ ]    [header][entry]...[entry]
 *
 * The header (cache_listing_page) bears the listing's own number, which is never used again, and how many pages there are.
 * Pages are frames like those of files: sealed, immutable, evicted one by one. So a reader believes a page only when its
 * number is the one that it began with; a page that is missing or of another listing ends what it gives, and the next call
 * asks the origin.
 *
 * Writer: collects into private frames, which nobody else sees, then under the directory's publish lock, if the version still
 * stands, drops what was there and links them one by one. The version does not move: a listing that was fetched under it adds
 * to what is known. A change of names (cache_names_publish) drops all pages and moves the version, so a listing fetched
 * before it is refused. If we die here: private frames become FREE; half a listing is linked: readers find its end missing
 * and ask the origin.
 *
 * Cookies are the origin's, in no order that we could know. A reader goes on after a cookie by finding the entry that bears
 * it: in the page that the table of hints names, else in all pages. The table is this process's alone, may be wrong in every
 * way, and costs one page to check.
 *
 * A page is copied before it is looked at: every number in it is a peer's word and must not change between check and use.
 */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <xxhash.h>

#include "cache_internal.h"

enum {
    HEADER = sizeof(struct cache_listing_page),
    ENTRY = offsetof(struct cache_listing_entry, name),
    NAME_MAX_BYTES = 255,
    PAGES_FIRST = 16,    /* room for frames, doubled as needed              */
    SHARE_OF_FRAMES = 4, /* a listing larger than this part of the cache is not kept */
    WORD_TRIES = 64,
};

struct cache_listing {
    struct cache *cache;
    uint64_t      dir, version, number, last_cookie;
    uint32_t     *frame;
    uint32_t      count, room;
    int           rc; /* why it cannot be kept; 0: so far it can */
};

static size_t entry_bytes(size_t length)
{
    return (ENTRY + length + 7) & ~(size_t)7;
}

/* ---- building ---- */

static struct cache_listing_page *page_of(const struct cache_listing *listing, uint32_t page)
{
    return cache_frame_data(listing->cache, listing->frame[page]);
}

static int page_add(struct cache_listing *listing)
{
    uint32_t frame, room = listing->room ? 2 * listing->room : PAGES_FIRST;

    if (listing->count >= CACHE_LISTING_PAGES_MAX ||
        listing->count >= seg_pool_count(listing->cache->frames) / SHARE_OF_FRAMES)
        return -EFBIG;
    if (listing->count == listing->room) {
        uint32_t *grown = realloc(listing->frame, room * sizeof *grown);
        if (!grown)
            return -ENOMEM;
        listing->frame = grown;
        listing->room = room;
    }
    if (cache_frames_take(listing->cache, 1, &frame) == 0)
        return -ENOMEM;
    listing->frame[listing->count++] = frame;
    struct cache_listing_page *page = page_of(listing, listing->count - 1);
    memset(page, 0, CACHE_PAGE);
    *page = (struct cache_listing_page){.listing = listing->number,
                                        .page = listing->count - 1,
                                        .bytes = HEADER,
                                        .first_cookie = listing->last_cookie};
    return 0;
}

struct cache_listing *cache_listing_begin(struct cache *cache, uint64_t dir)
{
    struct cache_listing *listing = calloc(1, sizeof *listing);

    if (!listing)
        return NULL;
    listing->cache = cache;
    listing->dir = dir;
    listing->version = cache_version(cache, dir);
    if (listing->version == 0)
        listing->rc = -ESTALE;
    else if (getrandom(&listing->number, sizeof listing->number, GRND_NONBLOCK) != sizeof listing->number)
        listing->rc = -ENOMEM;
    else
        listing->number ^= listing->version * 0x9e3779b97f4a7c15ull ^ dir;
    return listing;
}

int cache_listing_add(struct cache_listing *listing, const struct cache_dirent *entry)
{
    size_t bytes = entry_bytes(entry->length);

    if (entry->length < 1 || entry->length > NAME_MAX_BYTES)
        return -EINVAL;
    if (!listing->rc && (!listing->count || page_of(listing, listing->count - 1)->bytes + bytes > CACHE_PAGE))
        listing->rc = page_add(listing);
    if (listing->rc)
        return listing->rc;
    struct cache_listing_page *page = page_of(listing, listing->count - 1);
    unsigned char             *at = (unsigned char *)page + page->bytes;
    struct cache_listing_entry fixed = {.ino = entry->ino, .cookie = entry->cookie, .length = entry->length, .type = entry->type};
    memcpy(at, &fixed, ENTRY);
    memcpy(at + ENTRY, entry->name, entry->length);
    page->bytes += (uint32_t)bytes;
    listing->last_cookie = entry->cookie;
    return 0;
}

/* ---- installing ---- */

/* Links one sealed frame where nothing is. Under the publish lock of the directory. */
static int page_link(struct cache_listing *listing, struct cache_inode *inode, uint32_t page)
{
    struct cache *cache = listing->cache;
    int           rc = -EAGAIN;

    for (unsigned tries = 0; tries < WORD_TRIES && rc; tries++) {
        _Atomic uint64_t *word;
        seg_epoch_enter(cache->seg);
        rc = cache_word_get(cache, inode, listing->dir, page, &word);
        if (!rc) {
            uint64_t old = atomic_load_explicit(word, memory_order_acquire);
            bool     done = cache_word_tag(old) == CACHE_EMPTY &&
                        cache_word_cas(word, old, cache_word_next(old, CACHE_FRAME, listing->frame[page]));
            if (done)
                seg_pool_publish(cache->frames, listing->frame[page]);
            rc = done ? 0 : -EAGAIN;
        }
        seg_epoch_exit(cache->seg);
        if (rc == -ENOMEM && tries && !cache_chunks_evict(cache, 1))
            return rc;
        if (rc == -ENOMEM)
            seg_pool_reap(cache->chunks);
        else if (rc == -EAGAIN)
            sched_yield(); /* the chunk is being closed */
        else if (rc)
            return rc;
    }
    return rc;
}

/* 0: all pages are linked. Else none of this listing is, and frames that are still private stay in listing->frame[*linked...]. */
static int pages_link(struct cache_listing *listing, struct cache_inode *inode, uint32_t *linked)
{
    struct cache *cache = listing->cache;
    int           rc = 0;

    *linked = 0;
    seg_epoch_enter(cache->seg);
    cache_words_clear(cache, inode, listing->dir, 0, UINT64_MAX);
    seg_epoch_exit(cache->seg);
    while (*linked < listing->count && !rc) {
        rc = page_link(listing, inode, *linked);
        if (!rc)
            ++*linked;
    }
    if (rc) {
        seg_epoch_enter(cache->seg);
        cache_words_clear(cache, inode, listing->dir, 0, *linked);
        seg_epoch_exit(cache->seg);
    }
    return rc;
}

static int listing_install(struct cache_listing *listing, uint32_t *linked)
{
    struct cache       *cache = listing->cache;
    struct cache_inode *inode;
    int                 rc = 0;

    if (!listing->count)
        rc = page_add(listing); /* an empty directory is known to be empty */
    for (uint32_t i = 0; i < listing->count && !rc; i++) {
        page_of(listing, i)->page_count = listing->count;
        cache_frame_seal(cache, listing->frame[i]);
    }
    if (!rc)
        rc = cache_publish_enter(cache, listing->dir, &inode);
    if (rc)
        return rc;
    if (atomic_load_explicit(&inode->version, memory_order_relaxed) != listing->version)
        rc = -EAGAIN;
    else if ((rc = pages_link(listing, inode, linked)))
        rc = -ENOMEM;
    cache_publish_exit(cache, inode);
    return rc;
}

int cache_listing_end(struct cache_listing *listing, bool complete)
{
    uint32_t linked = 0;
    int      rc = listing->rc;

    if (complete && !rc)
        rc = listing_install(listing, &linked);
    while (listing->count > linked)
        cache_frame_drop(listing->cache, listing->frame[--listing->count]);
    free(listing->frame);
    free(listing);
    return rc;
}

/* ---- reading ---- */

struct listing_reader {
    struct cache       *cache;
    struct cache_inode *inode;
    uint64_t            dir;
    struct cache_listing_page head;             /* of the page that is loaded; listing 0: none yet */
    uint32_t            at;                     /* byte of the next entry                          */
    unsigned char       page[CACHE_PAGE];
};

/* Copies page n and checks its header against itself and against the page before. */
static int page_load(struct listing_reader *r, uint64_t n)
{
    struct cache_listing_page head;
    _Atomic uint64_t         *word = cache_word(r->cache, r->inode, r->dir, n);
    uint64_t                  w = word ? atomic_load_explicit(word, memory_order_acquire) : 0; /* pairs with cache_word_cas */

    if (cache_word_tag(w) != CACHE_FRAME)
        return -ENODATA;
    const void *data = cache_frame_data(r->cache, cache_word_value(w));
    if (!data)
        return -EUCLEAN;
    memcpy(r->page, data, CACHE_PAGE);
    memcpy(&head, r->page, HEADER);
    if (head.page != n || head.page >= head.page_count || head.page_count > CACHE_LISTING_PAGES_MAX || head.zero ||
        head.bytes < HEADER || head.bytes > CACHE_PAGE)
        return -EUCLEAN;
    if (r->head.page_count && (head.listing != r->head.listing || head.page_count != r->head.page_count))
        return -ENODATA; /* pages of two listings: one is being dropped */
    r->head = head;
    r->at = HEADER;
    cache_word_used(r->cache, r->inode, r->dir, n);
    return 0;
}

/* The entry at r->at, checked; moves on. 1; 0 at the end of the page; -EUCLEAN. */
static int entry_next(struct listing_reader *r, struct cache_dirent *entry)
{
    struct cache_listing_entry fixed;

    if (r->at == r->head.bytes)
        return 0;
    if (r->at + ENTRY > r->head.bytes)
        return -EUCLEAN;
    memcpy(&fixed, r->page + r->at, ENTRY);
    if (fixed.length < 1 || fixed.length > NAME_MAX_BYTES || r->at + entry_bytes(fixed.length) > r->head.bytes)
        return -EUCLEAN;
    const char *name = (const char *)r->page + r->at + ENTRY;
    if (memchr(name, 0, fixed.length) || memchr(name, '/', fixed.length))
        return -EUCLEAN;
    entry->ino = fixed.ino;
    entry->cookie = fixed.cookie;
    entry->type = fixed.type & 15; /* DT_* */
    entry->length = fixed.length;
    memcpy(entry->name, name, fixed.length);
    entry->name[fixed.length] = 0;
    r->at += (uint32_t)entry_bytes(fixed.length);
    return 1;
}

static struct cache_cookie_hint *hint_at(struct cache *cache, uint64_t dir, uint64_t cookie, uint64_t *tag)
{
    uint64_t key[2] = {dir, cookie};
    *tag = XXH3_64bits(key, sizeof key) | 1;
    return &cache->cookie[*tag >> 8 & (CACHE_COOKIE_HINTS - 1)];
}

static void hint_remember(struct listing_reader *r, uint64_t cookie, uint32_t page)
{
    uint64_t                  tag;
    struct cache_cookie_hint *hint = hint_at(r->cache, r->dir, cookie, &tag);
    atomic_store_explicit(&hint->position, (uint64_t)page << 32, memory_order_relaxed);
    atomic_store_explicit(&hint->tag, tag, memory_order_relaxed);
}

/* Stands behind the entry with this cookie, if page n has it. 1 found, 0 not here. */
static int cookie_seek_page(struct listing_reader *r, uint64_t n, uint64_t cookie)
{
    struct cache_dirent entry;
    int                 rc = page_load(r, n);

    if (rc)
        return rc;
    while ((rc = entry_next(r, &entry)) == 1)
        if (entry.cookie == cookie)
            return 1;
    return rc;
}

static int cookie_seek(struct listing_reader *r, uint64_t cookie)
{
    uint64_t                  tag;
    struct cache_cookie_hint *hint = hint_at(r->cache, r->dir, cookie, &tag);
    uint32_t                  count;
    int                       rc;

    if (atomic_load_explicit(&hint->tag, memory_order_relaxed) == tag) {
        uint64_t position = atomic_load_explicit(&hint->position, memory_order_relaxed);
        if (cookie_seek_page(r, position >> 32, cookie) == 1)
            return 0;
        r->head.page_count = 0; /* the hint was of another time */
    }
    rc = cookie_seek_page(r, 0, cookie);
    count = r->head.page_count;
    for (uint32_t n = 1; rc == 0 && n < count; n++) {
        rc = cookie_seek_page(r, n, cookie);
        if (rc == -ENODATA)
            rc = 0; /* evicted: it may be in another one */
    }
    return rc == 1 ? 0 : rc == 0 ? -ENODATA : rc;
}

/* From where the reader stands. *given: how many entries fn has seen. */
static int entries_give(struct listing_reader *r, int (*fn)(void *arg, const struct cache_dirent *entry), void *arg, uint64_t *given)
{
    struct cache_dirent entry;
    uint64_t            last = 0;
    uint32_t            last_page = 0;
    int                 rc;

    for (;;) {
        while ((rc = entry_next(r, &entry)) == 1) {
            if (fn(arg, &entry)) {
                if (*given)
                    hint_remember(r, last, last_page);
                return 0;
            }
            last = entry.cookie;
            last_page = r->head.page;
            ++*given;
        }
        if (rc)
            return rc;
        if (r->head.page + 1 == r->head.page_count) {
            if (*given) /* who asks again asks for the end */
                hint_remember(r, last, last_page);
            return 0;
        }
        rc = page_load(r, r->head.page + 1ull);
        if (rc)
            return rc;
    }
}

int cache_listing_read(struct cache *cache, uint64_t dir, uint64_t cookie, int (*fn)(void *arg, const struct cache_dirent *entry),
                       void *arg)
{
    struct listing_reader r;
    uint64_t              given = 0;
    int                   rc;

    r.cache = cache;
    r.dir = dir;
    r.inode = cache_inode_at(cache, dir);
    r.head.page_count = 0;
    r.at = HEADER;
    if (!r.inode)
        return -ESTALE;
    rc = cookie ? cookie_seek(&r, cookie) : page_load(&r, 0);
    if (!rc)
        rc = entries_give(&r, fn, arg, &given);
    if (given)
        rc = 0; /* what was given is good; what follows it is asked for again */
    seg_count(cache->seg, rc ? SEG_COUNTER_listing_misses : SEG_COUNTER_listing_hits, 1);
    return rc;
}
