/* SPDX-License-Identifier: Apache-2.0 */
/* test_cache_evict.c - eviction and the life of chunks: cache_evict.c, cache_chunk.c, and the taking of frames in cache_frame.c. */
#include "cache_data_tools.h"

TestSuite(cache_evict, .fini = fixture_remove);

enum { MIB = 1 << 20, THREADS = 4 };

/* Goal: eviction makes progress also where everything is marked used.
 * Method: all frames filled and read; then half are wanted back. */
Test(cache_evict, progress_when_all_is_used, .timeout = 20)
{
    struct fixture_shape shape = {.frames = 256, .inodes = 64, .names = 64, .chunks = 64};
    struct fixture      *f = fixture_open_shape(&shape);
    uint64_t             id = fixture_file(f->cache, 7, 250 * CACHE_PAGE), stamp;
    pages_fill(f->cache, id, 0, 250, 0);
    for (uint64_t page = 0; page < 250; page++)
        cr_assert_eq(page_read(f->cache, id, page, &stamp), 0);
    cr_assert_geq(cache_evict(f->cache, 125), 125);
    frames_account(f->cache);
    cr_assert_leq(frames_linked(f->cache), 125);
    frames_return(f->cache);
    fixture_close(f);
}

/* Goal: what is read stays, what is not read goes first; on direct words and in chunks alike.
 * Method: many small files and one large one; every second page is read between rounds of eviction. */
Test(cache_evict, used_pages_stay, .timeout = 20)
{
    enum { SMALL = 40, LARGE = 160 };
    struct fixture_shape shape = {.frames = 512, .inodes = 128, .names = 64, .chunks = 64};
    struct fixture      *f = fixture_open_shape(&shape);
    uint64_t             small[SMALL], large = fixture_file(f->cache, 7, LARGE * CACHE_PAGE), stamp;

    pages_fill(f->cache, large, 0, LARGE, 0);
    for (unsigned i = 0; i < SMALL; i++) {
        small[i] = fixture_file(f->cache, 100 + i, 4 * CACHE_PAGE);
        pages_fill(f->cache, small[i], 0, 4, 0);
    }
    for (unsigned round = 0; round < 8; round++) {
        for (uint64_t page = 0; page < LARGE; page += 2)
            page_read(f->cache, large, page, &stamp);
        for (unsigned i = 0; i < SMALL; i++)
            for (uint64_t page = 0; page < 4; page += 2)
                page_read(f->cache, small[i], page, &stamp);
        cache_evict(f->cache, (LARGE + 4 * SMALL) / 16);
    }
    unsigned used = 0, unused = 0;
    for (uint64_t page = 0; page < LARGE; page++)
        *(page % 2 ? &unused : &used) += page_read(f->cache, large, page, &stamp) == 0;
    for (unsigned i = 0; i < SMALL; i++)
        for (uint64_t page = 0; page < 4; page++)
            *(page % 2 ? &unused : &used) += page_read(f->cache, small[i], page, &stamp) == 0;
    cr_assert_geq(used, (LARGE + 4 * SMALL) / 2 * 9 / 10, "%u of the pages in use stayed", used);
    cr_assert_leq(unused, (LARGE + 4 * SMALL) / 8, "%u of the others stayed", unused);
    frames_return(f->cache);
    fixture_close(f);
}

/* Goal: claimed pages are passed by; what the claims pin is given back by their ends.
 * Method: everything is evicted while a fill and a write are at work. */
Test(cache_evict, claims_are_passed_by, .timeout = 20)
{
    struct fixture    *f = fixture_open(MIB);
    uint64_t           id = fixture_file(f->cache, 7, 100 * CACHE_PAGE), stamp;
    struct cache_attr  attr = attr_of_size(100 * CACHE_PAGE);
    struct cache_fill  fill;
    struct cache_write write;

    pages_fill(f->cache, id, 40, 2, 0x300);
    cr_assert_eq(cache_fill_begin(f->cache, id, 20, 4, &fill), 0);
    cr_assert_eq(cache_write_begin(f->cache, id, 40, 2, &write), 0);
    for (unsigned i = 0; i < 10; i++) {
        cache_evict(f->cache, 1000);
        cache_chunks_evict(f->cache, 1000);
    }
    cr_assert_eq(page_stamp_get(write.old[1]), 0x300 + 41);
    fill_stamp(&fill, 0x100);
    page_stamp(write.data[0], 0x200);
    page_stamp(write.data[1], 0x200);
    cache_write_end(f->cache, &write, 2, &attr);
    cache_fill_end(f->cache, &fill, 4 * CACHE_PAGE);
    cr_assert(fill.stood);
    cache_fill_release(f->cache, &fill);
    cr_assert_eq(page_read(f->cache, id, 22, &stamp), 0);
    cr_assert_eq(page_read(f->cache, id, 41, &stamp), 0);
    frames_return(f->cache);
    fixture_close(f);
}

/* Goal: what an epoch holds is not used anew: neither by eviction nor under pressure.
 * Method: a reader stays in its epoch with pages in its hand while all is evicted and every frame is taken that can be had. */
Test(cache_evict, readers_keep_what_they_hold, .timeout = 20)
{
    struct fixture_shape shape = {.frames = 64, .inodes = 64, .names = 64, .chunks = 16};
    struct fixture      *f = fixture_open_shape(&shape);
    uint64_t             id = fixture_file(f->cache, 7, 32 * CACHE_PAGE), missing;
    struct iovec         iov[32];
    unsigned             iov_count;
    size_t               bytes;
    uint32_t             frame[64];

    pages_fill(f->cache, id, 0, 32, 0x500);
    seg_epoch_enter(f->seg);
    cr_assert_eq(cache_read(f->cache, id, 0, 32 * CACHE_PAGE, iov, 32, &iov_count, &bytes, &missing), 0);
    cr_assert_geq(cache_evict(f->cache, 64), 32);
    uint32_t got = 0, n;
    while (got < 64 && (n = seg_pool_alloc(f->cache->frames, 64 - got, frame + got)) > 0)
        got += n;
    cr_assert_eq(got, 64 - 32 - 1, "%u frames were given out", got);
    for (uint32_t i = 0; i < got; i++)
        page_stamp(cache_frame_data(f->cache, frame[i]), 0xbad);
    uint64_t page = 0;
    for (unsigned i = 0; i < iov_count; i++)
        for (size_t at = 0; at < iov[i].iov_len; at += CACHE_PAGE)
            cr_assert_eq(page_stamp_get((char *)iov[i].iov_base + at), 0x500 + page++);
    seg_epoch_exit(f->seg);
    for (uint32_t i = 0; i < got; i++)
        cache_frame_drop(f->cache, frame[i]);
    frames_return(f->cache);
    fixture_close(f);
}

/* Goal: when every frame is in somebody's hands, taking ends with fewer or none, in bounded time.
 * Method: all frames taken; one more wanted; then one is given back. */
Test(cache_evict, nothing_to_be_had, .timeout = 20)
{
    struct fixture_shape shape = {.frames = 32, .inodes = 64, .names = 64, .chunks = 16};
    struct fixture      *f = fixture_open_shape(&shape);
    uint64_t             id = fixture_file(f->cache, 7, 32 * CACHE_PAGE);
    uint32_t             frame[40];
    struct cache_fill    fill;
    struct cache_write   write;
    struct cache_attr    attr = attr_of_size(32 * CACHE_PAGE);

    uint32_t got = cache_frames_take(f->cache, 40, frame);
    cr_assert_eq(got, 31);
    cr_assert_eq(cache_frames_take(f->cache, 1, frame + got), 0);
    cr_assert(cache_low(f->cache));
    cr_assert_eq(cache_fill_begin(f->cache, id, 0, 4, &fill), -ENOMEM);
    cr_assert_eq(cache_write_begin(f->cache, id, 0, 2, &write), 0, "a write goes on without frames");
    cr_assert_null(write.data[0]);
    cache_write_end(f->cache, &write, 2, &attr);
    cache_frame_drop(f->cache, frame[--got]);
    cr_assert_eq(cache_fill_begin(f->cache, id, 0, 4, &fill), 0);
    cr_assert_eq(fill.count, 1);
    cache_fill_end(f->cache, &fill, -EIO);
    cache_fill_release(f->cache, &fill);
    while (got > 0)
        cache_frame_drop(f->cache, frame[--got]);
    frames_return(f->cache);
    fixture_close(f);
}

/* Goal: low frames put one item into the shared queue, naming the low-water mark.
 * Method: frames taken until low; the queue read. */
Test(cache_evict, low_water_is_posted, .timeout = 20)
{
    struct fixture_shape shape = {.frames = 640, .inodes = 64, .names = 64, .chunks = 16};
    struct fixture      *f = fixture_open_shape(&shape);
    static uint32_t      frame[640];
    struct work_item     item;
    uint32_t             got = cache_frames_take(f->cache, 100, frame);

    cr_assert_eq(work_take_shared(f->member[0].work, &item), 0);
    got += cache_frames_take(f->cache, 530, frame + got);
    nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL); /* the count of free frames is some milliseconds old */
    for (unsigned i = 0; i < 16; i++)
        got += cache_frames_take(f->cache, 1, frame + got) && got < 639;
    cr_assert_eq(work_take_shared(f->member[0].work, &item), 1);
    cr_assert_eq(item.kind, WORK_EVICT);
    cr_assert_eq(item.key, 640 / 32);
    cr_assert_eq(work_take_shared(f->member[0].work, &item), 0, "equal items are merged");
    while (got > 0)
        cache_frame_drop(f->cache, frame[--got]);
    fixture_close(f);
}

/* ---- pressure ---- */

struct pressure {
    struct fixture  *f;
    struct cache    *cache[2]; /* threads take them by turns */
    uint64_t         id[8];
    _Atomic uint64_t hits, misses, passed, serial;
};
enum {
    PRESSURE_PAGES = 200,
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
    PRESSURE_ROUNDS = 6000,
#else
    PRESSURE_ROUNDS = 40000,
#endif
};

static void *presser(void *arg)
{
    struct pressure *p = arg;
    uint64_t         serial = atomic_fetch_add(&p->serial, 1), random = 0x77777 + serial * 0x10001, stamp;
    struct cache    *cache = p->cache[serial % 2];
    for (unsigned round = 0; round < PRESSURE_ROUNDS; round++) {
        unsigned file = tools_random(&random) % 8;
        uint64_t page = tools_random(&random) % PRESSURE_PAGES;
        if (page_read(cache, p->id[file], page, &stamp) == 0) {
            cr_assert_eq(stamp, file * 100000ull + page);
            atomic_fetch_add(&p->hits, 1);
            continue;
        }
        struct cache_fill fill;
        int               rc = cache_fill_begin(cache, p->id[file], page, 1 + tools_random(&random) % 8, &fill);
        if (rc == 0) {
            fill_stamp(&fill, file * 100000ull);
            cache_fill_end(cache, &fill, (ssize_t)fill.count * CACHE_PAGE);
            cr_assert(fill.stood);
            cache_fill_release(cache, &fill);
            atomic_fetch_add(&p->misses, 1);
        } else {
            cr_assert(rc == -EBUSY || rc == -EEXIST || rc == -ENOMEM, "fill_begin: %d", rc);
            atomic_fetch_add(&p->passed, rc == -ENOMEM);
        }
    }
    return NULL;
}

static void pressure(bool two_members)
{
    struct fixture_shape shape = {.frames = 200, .inodes = 64, .names = 64, .chunks = 24};
    struct pressure      p = {.f = fixture_open_shape(&shape)};
    pthread_t            thread[THREADS];

    p.cache[0] = p.cache[1] = p.f->cache;
    if (two_members)
        p.cache[1] = fixture_join(p.f)->cache;
    for (unsigned i = 0; i < 8; i++)
        p.id[i] = fixture_file(p.f->cache, 50 + i, PRESSURE_PAGES * CACHE_PAGE);
    for (unsigned i = 0; i < THREADS; i++)
        thread_start(&thread[i], presser, &p);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    fprintf(stderr, "%lu hits, %lu misses, %lu past the cache\n", p.hits, p.misses, p.passed);
    cr_assert_gt(atomic_load(&p.hits), 0);
    cr_assert_lt(atomic_load(&p.passed), (uint64_t)THREADS * PRESSURE_ROUNDS / 20, "%lu fetches found no room",
                 p.passed);
    limbo_drain(p.cache[1]);
    frames_return(p.f->cache);
    fixture_close(p.f);
}

/* Goal: many threads that read eight times what fits get right bytes, nobody starves, and nothing leaks.
 * Method: 4 threads, 8 files of 200 pages, 200 frames and 24 chunks. */
Test(cache_evict, four_threads_under_pressure, .timeout = 120)
{
    pressure(false);
}

#ifndef __SANITIZE_THREAD__ /* two mappings */
/* Goal: the same when the threads belong to two members, each with its own hands and its own limbo.
 * Method: as above, two threads each. */
Test(cache_evict, two_members_under_pressure, .timeout = 120)
{
    pressure(true);
}
#endif

/* ---- chunks ---- */

struct closing {
    struct fixture  *f;
    uint64_t         id;
    _Atomic bool     stop;
    _Atomic uint64_t freed, serial;
};

static void *closer(void *arg)
{
    struct closing *c = arg;
    while (!atomic_load(&c->stop)) {
        for (uint32_t i = 0; i < seg_pool_count(c->f->cache->chunks); i++) {
            seg_epoch_enter(c->f->seg);
            atomic_fetch_add(&c->freed, cache_chunk_free_if_empty(c->f->cache, i));
            seg_epoch_exit(c->f->seg);
        }
        seg_pool_reap(c->f->cache->chunks);
    }
    return NULL;
}

static void *claimer(void *arg)
{
    struct closing   *c = arg;
    uint64_t          mine = atomic_fetch_add(&c->serial, 1), stamp;
    struct cache_attr attr = attr_of_size(1000 * CACHE_PAGE);
    for (unsigned round = 0; round < PRESSURE_ROUNDS / 4; round++) {
        uint64_t page = 64 + round % 3 * 16 + mine; /* all claimers in the same chunks, each on its own pages */
        struct cache_fill fill;
        int               rc = cache_fill_begin(c->f->cache, c->id, page, 1, &fill);
        cr_assert(rc == 0 || rc == -ENOMEM, "fill_begin: %d", rc);
        if (rc)
            continue;
        fill_stamp(&fill, round);
        cache_fill_end(c->f->cache, &fill, round % 2 ? CACHE_PAGE : -EIO);
        cr_assert(fill.stood, "a claim went away, though nobody overtook it");
        cache_fill_release(c->f->cache, &fill);
        while ((rc = page_read(c->f->cache, c->id, page, &stamp)) == -EAGAIN) /* the other one is publishing */
            sched_yield();
        cr_assert_eq(rc, round % 2 ? 0 : -ENODATA, "page %lu: %d", page, rc);
        if (rc == 0)
            cr_assert_eq(cache_drop(c->f->cache, c->id, page, 1, &attr), 0);
    }
    return NULL;
}

/* Goal: closing never loses a claim, never frees a chunk with something in it, and no claim lands in a chunk that was unlinked.
 * Method: two threads close whatever is empty, two claim, publish and drop pages of the same three chunks. */
Test(cache_evict, closing_against_claiming, .timeout = 120)
{
    struct fixture_shape shape = {
        .frames = 4000, .inodes = 64, .names = 64, .chunks = 1500}; /* so many that nothing is evicted */
    struct closing c = {.f = fixture_open_shape(&shape)};
    pthread_t      close_thread[2], claim_thread[2];

    c.id = fixture_file(c.f->cache, 50, 1000 * CACHE_PAGE);
    for (unsigned i = 0; i < 2; i++) {
        thread_start(&close_thread[i], closer, &c);
        thread_start(&claim_thread[i], claimer, &c);
    }
    for (unsigned i = 0; i < 2; i++)
        pthread_join(claim_thread[i], NULL);
    atomic_store(&c.stop, true);
    for (unsigned i = 0; i < 2; i++)
        pthread_join(close_thread[i], NULL);
    cr_assert_gt(atomic_load(&c.freed), 0);
    frames_return(c.f->cache);
    fixture_close(c.f);
}

/* Goal: one key, one chunk: makers that race use the winner's, and a chunk in use cannot be closed.
 * Method: by hand: made, found again, claimed, freed, and not found any more. */
Test(cache_evict, life_of_a_chunk, .timeout = 20)
{
    struct fixture     *f = fixture_open(MIB);
    uint64_t            id = fixture_file(f->cache, 7, 1000 * CACHE_PAGE);
    struct cache_inode *inode = cache_inode_at(f->cache, id);
    _Atomic uint64_t   *one, *two;
    uint32_t            index = 0;

    seg_epoch_enter(f->seg);
    cr_assert_null(cache_word(f->cache, inode, id, 33));
    cr_assert_eq(cache_word_get(f->cache, inode, id, 33, &one), 0);
    cr_assert_eq(cache_word_get(f->cache, inode, id, 33, &two), 0);
    cr_assert_eq(one, two);
    cr_assert_eq(cache_word(f->cache, inode, id, 33), one);
    cr_assert_eq(inode->chunk_end, 3);
    cr_assert_not_null(cache_chunk_find(f->cache, id, 2, &index));
    cr_assert(cache_chunk_linked(f->cache, index));
    uint64_t w = *one, claim = cache_word_next(w, CACHE_CLAIM, cache_claim_own(f->cache, CACHE_CLAIM_FILL));
    cr_assert(cache_word_cas(one, w, claim));
    cr_assert_not(cache_chunk_free_if_empty(f->cache, index));
    cr_assert(cache_word_cas(one, claim, cache_word_next(claim, CACHE_EMPTY, 0)));
    cr_assert(cache_chunk_free_if_empty(f->cache, index));
    cr_assert_not(cache_word_cas(one, cache_word_next(claim, CACHE_EMPTY, 0), claim),
                  "a late CAS finds the word closed");
    cr_assert_null(cache_word(f->cache, inode, id, 33));
    cr_assert_not(cache_chunk_linked(f->cache, index));
    cr_assert_not(cache_chunk_free_if_empty(f->cache, 0), "index 0 is reserved");
    seg_epoch_exit(f->seg);
    frames_return(f->cache);
    fixture_close(f);
}
