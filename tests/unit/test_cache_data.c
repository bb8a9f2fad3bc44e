/* SPDX-License-Identifier: Apache-2.0 */
/* test_cache_data.c - hits, fills, changes and drops of cached pages: cache_read.c, cache_fill.c, cache_write.c, cache_frame.c. */
#include "cache_data_tools.h"

TestSuite(cache_data, .fini = fixture_remove);

enum { MIB = 1 << 20 };

static int range_read(struct cache *cache, uint64_t id, uint64_t off, size_t size, struct iovec *iov,
                      unsigned *iov_count, size_t *bytes, uint64_t *missing)
{
    return cache_read(cache, id, off, size, iov, TOOLS_IOV, iov_count, bytes, missing);
}

/* Goal: a miss names the first missing page; after the fill the same range is a hit, cut at the file's size.
 * Method: a file of 10 pages and 100 bytes, read before and after a fill of all. */
Test(cache_data, miss_then_fill_then_hit, .timeout = 20)
{
    struct fixture *f = fixture_open(4 * MIB);
    uint64_t        size = 10 * CACHE_PAGE + 100, id = fixture_file(f->cache, 7, size), missing = 0;
    struct iovec    iov[TOOLS_IOV];
    unsigned        iov_count = 99;
    size_t          bytes = 99;

    seg_epoch_enter(f->seg);
    cr_assert_eq(range_read(f->cache, id, 5000, 100000, iov, &iov_count, &bytes, &missing), -ENODATA);
    cr_assert_eq(missing, 1);
    cr_assert_eq(bytes, 99, "results are untouched on failure");
    seg_epoch_exit(f->seg);

    struct cache_fill fill;
    cr_assert_eq(cache_fill_begin(f->cache, id, 0, 11, &fill), 0);
    cr_assert_eq(fill.count, 11);
    fill_stamp(&fill, 1000);
    cache_fill_end(f->cache, &fill, (ssize_t)size);
    cr_assert(fill.stood);
    cache_fill_release(f->cache, &fill);

    seg_epoch_enter(f->seg);
    cr_assert_eq(range_read(f->cache, id, 5000, 100000, iov, &iov_count, &bytes, &missing), 0);
    cr_assert_eq(bytes, size - 5000);
    size_t sum = 0;
    for (unsigned i = 0; i < iov_count; i++)
        sum += iov[i].iov_len;
    cr_assert_eq(sum, bytes);
    cr_assert_lt(iov_count, 10, "a run of adjacent frames is one element");
    uint64_t word;
    memcpy(&word, (char *)iov[0].iov_base + 8192 - 5000, sizeof word);
    cr_assert_eq(word, 1002);
    cr_assert_eq(range_read(f->cache, id, size, 1, iov, &iov_count, &bytes, &missing), 0);
    cr_assert_eq(bytes, 0);
    cr_assert_eq(cache_read(f->cache, id + (1ull << 32), 0, 1, iov, 1, &iov_count, &bytes, &missing), -ESTALE);
    seg_epoch_exit(f->seg);
    frames_return(f->cache);
    fixture_close(f);
}

/* Goal: without valid attributes nothing is a hit, and the answer says that it is the attributes that are missing.
 * Method: cached pages, attributes made unknown. */
Test(cache_data, attributes_unknown, .timeout = 20)
{
    struct fixture *f = fixture_open(MIB);
    uint64_t        id = fixture_file(f->cache, 7, CACHE_PAGE), stamp, missing = 0;
    struct iovec    iov[1];
    unsigned        iov_count;
    size_t          bytes;
    pages_fill(f->cache, id, 0, 1, 5);
    cr_assert_eq(page_read(f->cache, id, 0, &stamp), 0);
    cr_assert_eq(cache_attr_publish(f->cache, id, NULL), 0);
    seg_epoch_enter(f->seg);
    cr_assert_eq(cache_read(f->cache, id, 0, 10, iov, 1, &iov_count, &bytes, &missing), -ENODATA);
    cr_assert_eq(missing, UINT64_MAX);
    seg_epoch_exit(f->seg);
    fixture_close(f);
}

/* Goal: a short fetch publishes what it got with a zeroed tail and gives back the rest; a failed one gives back all.
 * Method: fills of 8 pages that read 2.5 pages, and that fail. */
Test(cache_data, short_and_failed_fills, .timeout = 20)
{
    struct fixture   *f = fixture_open(MIB);
    uint64_t          id = fixture_file(f->cache, 7, 100 * CACHE_PAGE), stamp, missing;
    struct cache_fill fill;
    struct iovec      iov[TOOLS_IOV];
    unsigned          iov_count;
    size_t            bytes;

    cr_assert_eq(cache_fill_begin(f->cache, id, 20, 8, &fill), 0);
    fill_stamp(&fill, 0x1111);
    cache_fill_end(f->cache, &fill, -EIO);
    cache_fill_release(f->cache, &fill);
    cr_assert_eq(page_read(f->cache, id, 20, &stamp), -ENODATA);
    frames_account(f->cache);
    cr_assert_eq(frames_linked(f->cache), 0);

    cr_assert_eq(cache_fill_begin(f->cache, id, 20, 8, &fill), 0);
    fill_stamp(&fill, 0x1111);
    cache_fill_end(f->cache, &fill, 2 * CACHE_PAGE + 2048);
    cache_fill_release(f->cache, &fill);
    seg_epoch_enter(f->seg);
    cr_assert_eq(range_read(f->cache, id, 20 * CACHE_PAGE, 3 * CACHE_PAGE, iov, &iov_count, &bytes, &missing), 0);
    const unsigned char *end = (unsigned char *)iov[iov_count - 1].iov_base + iov[iov_count - 1].iov_len;
    for (unsigned i = 1; i <= 2048; i++)
        cr_assert_eq(end[-(ptrdiff_t)i], 0);
    cr_assert_neq(end[-2056], 0);
    cr_assert_eq(range_read(f->cache, id, 20 * CACHE_PAGE, 4 * CACHE_PAGE, iov, &iov_count, &bytes, &missing),
                 -ENODATA);
    cr_assert_eq(missing, 23);
    seg_epoch_exit(f->seg);
    cr_assert_eq(frames_linked(f->cache), 3);
    frames_return(f->cache);
    fixture_close(f);
}

/* Goal: every frame that is published bears the checksum of its contents.
 * Method: a fill and a write; the sums are computed again. */
Test(cache_data, checksums_are_set, .timeout = 20)
{
    struct fixture   *f = fixture_open(MIB);
    uint64_t          id = fixture_file(f->cache, 7, 100 * CACHE_PAGE);
    struct cache_attr attr = attr_of_size(100 * CACHE_PAGE);
    unsigned          seen = 0;
    pages_fill(f->cache, id, 0, 20, 77);
    pages_write(f->cache, id, 3, 4, 99, &attr);
    for (uint32_t i = 1; i < seg_pool_count(f->cache->frames); i++) {
        if (seg_pool_word_state(seg_pool_load(f->cache->frames, i)) != SEG_POOL_LIVE)
            continue;
        struct cache_frame *frame = seg_pool_at(f->cache->frames, i);
        cr_assert_eq(frame->checksum, cache_frame_sum(cache_frame_data(f->cache, i)));
        seen++;
    }
    cr_assert_geq(seen, 20);
    fixture_close(f);
}

/* Goal: one fetch per page: who comes second finds the claim, who comes after the end finds the page; a run stops at what is there.
 * Method: overlapping fill_begins by hand. */
Test(cache_data, single_flight, .timeout = 20)
{
    struct fixture   *f = fixture_open(MIB);
    uint64_t          id = fixture_file(f->cache, 7, 100 * CACHE_PAGE), stamp;
    struct cache_fill one, two;

    cr_assert_eq(cache_fill_begin(f->cache, id, 8, 4, &one), 0);
    cr_assert_eq(one.count, 4);
    cr_assert_eq(cache_fill_begin(f->cache, id, 10, 4, &two), -EBUSY);
    cr_assert_eq(page_read(f->cache, id, 10, &stamp), -EBUSY);
    cr_assert_eq(cache_claim_wait(f->cache, id, 10, 50, NULL, NULL), -ETIMEDOUT);
    cr_assert_eq(cache_fill_begin(f->cache, id, 2, 20, &two), 0);
    cr_assert_eq(two.count, 6, "stops at the first claim");
    fill_stamp(&two, 0);
    cache_fill_end(f->cache, &two, 6 * CACHE_PAGE);
    cache_fill_release(f->cache, &two);
    fill_stamp(&one, 0);
    cache_fill_end(f->cache, &one, 4 * CACHE_PAGE);
    cr_assert(one.stood);
    cache_fill_release(f->cache, &one);
    cr_assert_eq(cache_claim_wait(f->cache, id, 10, 50, NULL, NULL), 0);
    cr_assert_eq(cache_fill_begin(f->cache, id, 10, 4, &two), -EEXIST);
    for (uint64_t page = 2; page < 12; page++) {
        cr_assert_eq(page_read(f->cache, id, page, &stamp), 0);
        cr_assert_eq(stamp, page);
    }
    frames_return(f->cache);
    fixture_close(f);
}

/* Goal: a fetch that began before a change never covers it, whether a write or a drop came between.
 * Method: fill_begin; write or drop of some of its pages; fill_end with old data. */
Test(cache_data, overtaken_fill_is_dropped, .timeout = 20)
{
    struct fixture   *f = fixture_open(MIB);
    uint64_t          id = fixture_file(f->cache, 7, 100 * CACHE_PAGE), stamp;
    struct cache_attr attr = attr_of_size(100 * CACHE_PAGE);
    struct cache_fill fill;

    for (uint64_t first = 1; first <= 30; first += 29) { /* direct words and chunks */
        cr_assert_eq(cache_fill_begin(f->cache, id, first, 3, &fill), 0);
        fill_stamp(&fill, 0xa000);
        pages_write(f->cache, id, first + 1, 1, 0xb000, &attr);
        cache_fill_end(f->cache, &fill, 3 * CACHE_PAGE);
        cr_assert_not(fill.stood);
        cache_fill_release(f->cache, &fill);
        cr_assert_eq(page_read(f->cache, id, first, &stamp), 0);
        cr_assert_eq(stamp, 0xa000 + first);
        cr_assert_eq(page_read(f->cache, id, first + 1, &stamp), 0);
        cr_assert_eq(stamp, 0xb000 + first + 1);

        cr_assert_eq(cache_drop(f->cache, id, 0, UINT64_MAX, &attr), 0);
        cr_assert_eq(cache_fill_begin(f->cache, id, first, 3, &fill), 0);
        cr_assert_eq(cache_drop(f->cache, id, first + 2, UINT64_MAX, &attr), 0);
        fill_stamp(&fill, 0xc000);
        cache_fill_end(f->cache, &fill, 3 * CACHE_PAGE);
        cr_assert_not(fill.stood);
        cache_fill_release(f->cache, &fill);
        cr_assert_eq(page_read(f->cache, id, first + 1, &stamp), 0);
        cr_assert_eq(page_read(f->cache, id, first + 2, &stamp), -ENODATA);
    }
    frames_return(f->cache);
    fixture_close(f);
}

/* Goal: during a change the old bytes are there for merging, readers of its pages wait; after it all is new in one version step.
 * Method: a write over 5 pages of which 3 are cached, looked at in the middle and at the end. */
Test(cache_data, write_over_cached_pages, .timeout = 20)
{
    struct fixture    *f = fixture_open(MIB);
    uint64_t           id = fixture_file(f->cache, 7, 8 * CACHE_PAGE), stamp, version = cache_version(f->cache, id);
    struct cache_attr  attr = attr_of_size(9 * CACHE_PAGE), now;
    struct cache_write write;

    pages_fill(f->cache, id, 2, 3, 0x100);
    cr_assert_eq(cache_version(f->cache, id), version, "a fill moves no version");
    cr_assert_eq(cache_write_begin(f->cache, id, 2, 5, &write), 0);
    struct cache_intents *intents = seg_elem(&f->cache->intents, f->member[0].slot);
    cr_assert_eq(intents->intent[write.intent].op, CACHE_INTENT_DATA);
    cr_assert_eq(intents->intent[write.intent].first_page, 2);
    for (unsigned i = 0; i < 5; i++) {
        cr_assert_not_null(write.data[i]);
        if (i < 3)
            cr_assert_eq(page_stamp_get(write.old[i]), 0x102 + i);
        else
            cr_assert_null(write.old[i]);
        cr_assert_eq(page_read(f->cache, id, 2 + i, &stamp), -EBUSY);
        page_stamp(write.data[i], 0x200 + i);
    }
    cache_write_end(f->cache, &write, 5, &attr);
    cr_assert_eq(intents->intent[0].op, CACHE_INTENT_NONE);
    cr_assert_eq(cache_version(f->cache, id), version + 2);
    for (unsigned i = 0; i < 5; i++) {
        cr_assert_eq(page_read(f->cache, id, 2 + i, &stamp), 0);
        cr_assert_eq(stamp, 0x200 + i);
    }
    seg_epoch_enter(f->seg);
    cr_assert_eq(cache_attr_get(f->cache, id, &now), 0);
    seg_epoch_exit(f->seg);
    cr_assert_eq(now.size_bytes, 9 * CACHE_PAGE);
    frames_return(f->cache);
    fixture_close(f);
}

/* Goal: a short or failed change keeps its prefix and drops the rest, old pages included.
 * Method: a write of 6 cached pages of which 2 are good; attributes unknown afterwards. */
Test(cache_data, short_write_drops_the_rest, .timeout = 20)
{
    struct fixture    *f = fixture_open(MIB);
    uint64_t           id = fixture_file(f->cache, 7, 30 * CACHE_PAGE), stamp;
    struct cache_attr  attr = attr_of_size(30 * CACHE_PAGE);
    struct cache_write write;

    pages_fill(f->cache, id, 0, 24, 0x100);
    cr_assert_eq(cache_write_begin(f->cache, id, 14, 6, &write), 0);
    for (unsigned i = 0; i < 2; i++)
        page_stamp(write.data[i], 0x900);
    cache_write_end(f->cache, &write, 2, NULL);
    struct cache_attr none;
    seg_epoch_enter(f->seg);
    cr_assert_eq(cache_attr_get(f->cache, id, &none), -ENODATA);
    seg_epoch_exit(f->seg);
    cr_assert_eq(cache_attr_publish(f->cache, id, &attr), 0);
    for (uint64_t page = 13; page < 21; page++) {
        int rc = page_read(f->cache, id, page, &stamp);
        cr_assert_eq(rc, page >= 16 && page < 20 ? -ENODATA : 0, "page %lu: %d", page, rc);
        if (rc == 0)
            cr_assert_eq(stamp, page == 14 || page == 15 ? 0x900 : 0x100 + page);
    }
    cr_assert_eq(cache_write_begin(f->cache, id, 0, 0, &write), -EINVAL);
    cr_assert_eq(cache_write_begin(f->cache, id, 0, CACHE_WRITE_MAX + 1, &write), -EINVAL);
    cr_assert_eq(cache_write_begin(f->cache, id + (1ull << 32), 0, 1, &write), -ESTALE);
    frames_return(f->cache);
    fixture_close(f);
}

/* Goal: a drop takes exactly its range, also in a file with pages far apart, and frees the chunks.
 * Method: pages at 0..19 and at 10^9; ranges dropped one after the other. */
Test(cache_data, drop_takes_its_range, .timeout = 20)
{
    struct fixture *f = fixture_open(MIB);
    const uint64_t  far = 1000000000;
    uint64_t        id = fixture_file(f->cache, 7, (far + 10) * CACHE_PAGE),
             other = fixture_file(f->cache, 8, 40 * CACHE_PAGE), stamp;
    struct cache_attr attr = attr_of_size((far + 10) * CACHE_PAGE);

    pages_fill(f->cache, id, 0, 20, 0);
    pages_fill(f->cache, id, far, 2, 0);
    pages_fill(f->cache, other, 0, 40, 0);
    cr_assert_eq(cache_drop(f->cache, id, 2, 3, &attr), 0);
    for (uint64_t page = 0; page < 20; page++)
        cr_assert_eq(page_read(f->cache, id, page, &stamp), page >= 2 && page < 5 ? -ENODATA : 0);
    cr_assert_eq(cache_drop(f->cache, id, 18, UINT64_MAX, &attr), 0); /* walks the pool */
    cr_assert_eq(page_read(f->cache, id, far, &stamp), -ENODATA);
    cr_assert_eq(page_read(f->cache, id, far + 1, &stamp), -ENODATA);
    cr_assert_eq(page_read(f->cache, id, 17, &stamp), 0);
    cr_assert_eq(page_read(f->cache, id, 18, &stamp), -ENODATA);
    cr_assert_eq(cache_drop(f->cache, id, 0, UINT64_MAX, NULL), 0);
    limbo_drain(f->cache);
    cr_assert_eq(pool_count_state(f->cache->chunks, SEG_POOL_LIVE), 1 + 3, "the other file's three chunks are left");
    for (uint64_t page = 0; page < 40; page++)
        cr_assert_eq(page_read(f->cache, other, page, &stamp), 0);
    frames_return(f->cache);
    fixture_close(f);
}

/* Goal: a write whose page found no chunk still keeps an older fetch of that page out of the cache.
 * Method: the only chunk is pinned by a fill of another file; write_begin; then the chunk is given up, the page is fetched (old data) and
 * published before write_end, and another fetch is still at work at write_end. */
Test(cache_data, write_without_a_chunk, .timeout = 20)
{
    struct fixture_shape shape = {.frames = 256, .inodes = 64, .names = 64, .chunks = 2};
    struct fixture      *f = fixture_open_shape(&shape);
    uint64_t id = fixture_file(f->cache, 7, 64 * CACHE_PAGE), other = fixture_file(f->cache, 8, 64 * CACHE_PAGE), stamp;
    struct cache_attr  attr = attr_of_size(64 * CACHE_PAGE);
    struct cache_fill  pin, fill;
    struct cache_write write;

    cr_assert_eq(cache_fill_begin(f->cache, other, 20, 1, &pin), 0);
    cr_assert_eq(cache_fill_begin(f->cache, id, 20, 1, &fill), -ENOMEM);
    cr_assert_eq(cache_write_begin(f->cache, id, 20, 2, &write), 0);
    cr_assert_eq(write.claim[0], 0);
    cr_assert_null(write.data[0]);
    cache_fill_end(f->cache, &pin, -EIO);
    cache_fill_release(f->cache, &pin);
    cr_assert_geq(cache_chunks_evict(f->cache, 1), 1);
    limbo_drain(f->cache);

    pages_fill(f->cache, id, 20, 1, 0x01d);                        /* published before the change ends */
    cr_assert_eq(cache_fill_begin(f->cache, id, 21, 1, &fill), 0); /* at work when it ends */
    fill_stamp(&fill, 0x01d);
    cache_write_end(f->cache, &write, 2, &attr);
    cache_fill_end(f->cache, &fill, CACHE_PAGE);
    cr_assert_not(fill.stood);
    cache_fill_release(f->cache, &fill);
    cr_assert_eq(page_read(f->cache, id, 20, &stamp), -ENODATA);
    cr_assert_eq(page_read(f->cache, id, 21, &stamp), -ENODATA);
    frames_return(f->cache);
    fixture_close(f);
}

struct writer {
    struct cache *cache;
    uint64_t      id, seen_old;
    _Atomic bool  begun;
};

static void *second_writer(void *arg)
{
    struct writer     *w = arg;
    struct cache_attr  attr = attr_of_size(8 * CACHE_PAGE);
    struct cache_write write;
    cr_assert_eq(cache_write_begin(w->cache, w->id, 1, 3, &write), 0);
    atomic_store(&w->begun, true);
    w->seen_old = write.old[1] ? page_stamp_get(write.old[1]) : 0;
    for (unsigned i = 0; i < 3; i++)
        page_stamp(write.data[i], 0x2000);
    cache_write_end(w->cache, &write, 3, &attr);
    return NULL;
}

/* Goal: two writers of one page come one after the other, and the second merges with what the first has written.
 * Method: the second begins in a thread while the first holds its claims. */
Test(cache_data, second_writer_waits, .timeout = 20)
{
    struct fixture    *f = fixture_open(MIB);
    struct writer      w = {.cache = f->cache, .id = fixture_file(f->cache, 7, 8 * CACHE_PAGE)};
    struct cache_attr  attr = attr_of_size(8 * CACHE_PAGE);
    struct cache_write write;
    pthread_t          thread;
    uint64_t           stamp;

    cr_assert_eq(cache_write_begin(f->cache, w.id, 2, 1, &write), 0);
    thread_start(&thread, second_writer, &w);
    nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    cr_assert_not(atomic_load(&w.begun));
    page_stamp(write.data[0], 0x1000);
    cache_write_end(f->cache, &write, 1, &attr);
    pthread_join(thread, NULL);
    cr_assert_eq(w.seen_old, 0x1000);
    cr_assert_eq(page_read(f->cache, w.id, 2, &stamp), 0);
    cr_assert_eq(stamp, 0x2000);
    frames_return(f->cache);
    fixture_close(f);
}

/* Goal: the claim of a member that died is void: a reader's wait ends and it can fetch; a writer goes on and can publish.
 * Method: a second member claims by fill and by write, and is gone without having left. */
Test(cache_data, dead_claimer_is_voided, .timeout = 20)
{
    struct fixture        *f = fixture_open(MIB);
    struct fixture_member *b = fixture_join(f);
    uint64_t               id = fixture_file(f->cache, 7, 64 * CACHE_PAGE), stamp;
    struct cache_attr      attr = attr_of_size(64 * CACHE_PAGE);
    struct cache_fill      fill;
    struct cache_write     write;

    cr_assert_eq(cache_fill_begin(b->cache, id, 20, 2, &fill), 0);
    cr_assert_eq(cache_write_begin(b->cache, id, 30, 2, &write), 0);
    cr_assert_eq(page_read(f->cache, id, 20, &stamp), -EBUSY);
    cr_assert_eq(cache_claim_wait(f->cache, id, 20, 60, NULL, NULL), -ETIMEDOUT, "its claimer lives");
    fixture_kill(f, b, NULL);

    cr_assert_eq(cache_claim_wait(f->cache, id, 20, 2000, NULL, NULL), 0);
    pages_fill(f->cache, id, 20, 1, 0x50);
    cr_assert_eq(page_read(f->cache, id, 20, &stamp), 0);
    cr_assert_eq(page_read(f->cache, id, 21, &stamp), -EBUSY);
    pages_write(f->cache, id, 21, 1, 0x60, &attr);
    pages_write(f->cache, id, 31, 1, 0x60, &attr);
    cr_assert_eq(page_read(f->cache, id, 21, &stamp), 0);
    cr_assert_eq(page_read(f->cache, id, 31, &stamp), 0);
    cr_assert_eq(stamp, 0x60 + 31);
    fixture_close(f);
}

/* Goal: a frame that a dead member left half-way out of its word can still be replaced, and is not lost.
 * Method: the member seizes the frame as an evictor does and dies before it changes the word; others write and drop the page. */
Test(cache_data, half_evicted_frame_of_a_dead_member, .timeout = 20)
{
    struct fixture        *f = fixture_open(MIB);
    struct fixture_member *b = fixture_join(f);
    uint64_t               id = fixture_file(f->cache, 7, 64 * CACHE_PAGE), stamp;
    struct cache_attr      attr = attr_of_size(64 * CACHE_PAGE);

    pages_fill(f->cache, id, 1, 2, 0x10);
    struct cache_inode *inode = cache_inode_at(f->cache, id);
    cr_assert(seg_pool_claim(b->cache->frames, cache_word_value(inode->direct[1])));
    cr_assert(seg_pool_claim(b->cache->frames, cache_word_value(inode->direct[2])));
    cr_assert_eq(page_read(f->cache, id, 1, &stamp), 0, "still readable");
    fixture_kill(f, b, NULL);
    pages_write(f->cache, id, 1, 1, 0x20, &attr);
    cr_assert_eq(page_read(f->cache, id, 1, &stamp), 0);
    cr_assert_eq(stamp, 0x21);
    cr_assert_eq(cache_drop(f->cache, id, 2, 1, &attr), 0);
    cr_assert_eq(page_read(f->cache, id, 2, &stamp), -ENODATA);
    frames_return(f->cache);
    fixture_close(f);
}

/* Goal: a version that stays odd, and a publish lock that stays held, end a read with -EAGAIN and not with a hang.
 * Method: both words set by hand. */
Test(cache_data, odd_version_is_bounded, .timeout = 20)
{
    struct fixture *f = fixture_open(MIB);
    uint64_t        id = fixture_file(f->cache, 7, CACHE_PAGE), stamp;
    pages_fill(f->cache, id, 0, 1, 5);
    struct cache_inode *inode = cache_inode_at(f->cache, id);
    atomic_fetch_add(&inode->version, 1);
    cr_assert_eq(page_read(f->cache, id, 0, &stamp), -EAGAIN);
    atomic_store(&inode->lock.publish, seg_self(f->seg));
    cr_assert_eq(page_read(f->cache, id, 0, &stamp), -EAGAIN);
    atomic_store(&inode->lock.publish, 0);
    atomic_fetch_add(&inode->version, 1);
    cr_assert_eq(page_read(f->cache, id, 0, &stamp), 0);
    fixture_close(f);
}

/* Goal: words that no member can have written are refused, never followed.
 * Method: a frame index behind the end, and tag 3, put into a page word. */
Test(cache_data, nonsense_words, .timeout = 20)
{
    struct fixture     *f = fixture_open(MIB);
    uint64_t            id = fixture_file(f->cache, 7, 4 * CACHE_PAGE), stamp;
    struct cache_attr   attr = attr_of_size(4 * CACHE_PAGE);
    struct cache_fill   fill;
    struct cache_inode *inode = cache_inode_at(f->cache, id);

    atomic_store(&inode->direct[1], cache_word_next(0, CACHE_FRAME, 0xfffffff0));
    cr_assert_eq(page_read(f->cache, id, 1, &stamp), -EUCLEAN);
    atomic_store(&inode->direct[2], cache_word_next(0, 3, 5));
    cr_assert_eq(page_read(f->cache, id, 2, &stamp), -EUCLEAN);
    cr_assert_eq(cache_fill_begin(f->cache, id, 2, 1, &fill), -EUCLEAN);
    pages_write(f->cache, id, 1, 1, 0x70, &attr);
    cr_assert_eq(page_read(f->cache, id, 1, &stamp), 0);
    cr_assert_eq(cache_drop(f->cache, id, 2, 1, &attr), 0);
    cr_assert_eq(page_read(f->cache, id, 2, &stamp), -ENODATA);
    atomic_store(&inode->direct[3], cache_word_next(0, CACHE_CLAIM, cache_claim_value(200, 1, CACHE_CLAIM_FILL)));
    cr_assert_eq(cache_claim_wait(f->cache, id, 3, 1000, NULL, NULL), 0, "no such member: void");
    frames_return(f->cache);
    fixture_close(f);
}

/* Goal: a member that dies in the middle of publishing stops nobody: the next change settles it and goes on.
 * Method: the publish lock bears a dead member, the version is odd; a page is dropped. */
Test(cache_data, publisher_dies, .timeout = 20)
{
    struct fixture        *f = fixture_open(MIB);
    struct fixture_member *b = fixture_join(f);
    uint64_t               id = fixture_file(f->cache, 7, 64 * CACHE_PAGE), stamp;
    struct cache_attr      attr = attr_of_size(64 * CACHE_PAGE);
    struct cache_inode    *inode = cache_inode_at(f->cache, id);

    pages_fill(f->cache, id, 1, 2, 0x10);
    atomic_store(&inode->lock.publish, seg_self(b->seg));
    atomic_fetch_add(&inode->version, 1);
    fixture_kill(f, b, NULL);
    cr_assert_eq(page_read(f->cache, id, 1, &stamp), -EAGAIN);
    cr_assert_eq(cache_drop(f->cache, id, 2, 1, &attr), 0);
    cr_assert_eq(cache_version(f->cache, id) % 2, 0);
    cr_assert_eq(page_read(f->cache, id, 2, &stamp), -ENODATA);
    cr_assert_eq(page_read(f->cache, id, 1, &stamp), -ENODATA, "half swapped, for all we know: dropped by recovery");
    frames_return(f->cache);
    fixture_close(f);
}

/* Goal: a chunk that a dead member was closing costs caching only, in bounded time, and recovery gives it back.
 * Method: the words are closed by hand in the dead member's name; a fill and a write of its pages; recovery; again. */
Test(cache_data, closer_dies, .timeout = 20)
{
    struct fixture        *f = fixture_open(MIB);
    struct fixture_member *b = fixture_join(f), was;
    uint64_t               id = fixture_file(f->cache, 7, 64 * CACHE_PAGE), stamp;
    struct cache_attr      attr = attr_of_size(64 * CACHE_PAGE);
    struct cache_inode    *inode = cache_inode_at(f->cache, id);
    struct cache_fill      fill;
    uint32_t               index = 0;
    _Atomic uint64_t      *word;

    seg_epoch_enter(b->seg);
    cr_assert_eq(cache_word_get(b->cache, inode, id, 32, &word), 0);
    cr_assert_not_null(cache_chunk_find(b->cache, id, 2, &index));
    cr_assert(seg_pool_claim(b->cache->chunks, index));
    for (unsigned i = 0; i < CACHE_CHUNK_PAGES; i++) {
        uint64_t w = atomic_load(&word[i]);
        cr_assert(
            cache_word_cas(&word[i], w, cache_word_next(w, CACHE_CLAIM, cache_claim_own(b->cache, CACHE_CLAIM_CLOSE))));
    }
    seg_epoch_exit(b->seg);
    fixture_kill(f, b, &was);

    cr_assert_eq(page_read(f->cache, id, 33, &stamp), -ENODATA, "nothing to wait for");
    cr_assert_eq(cache_claim_wait(f->cache, id, 33, 1000, NULL, NULL), 0);
    cr_assert_eq(cache_fill_begin(f->cache, id, 33, 1, &fill), -ENOMEM);
    pages_write(f->cache, id, 33, 1, 0x10, &attr);
    cr_assert_eq(page_read(f->cache, id, 33, &stamp), -ENODATA);
    fixture_settle(&f->member[0], was.slot, was.incarnation);
    pages_write(f->cache, id, 33, 1, 0x10, &attr);
    pages_fill(f->cache, id, 34, 1, 0x10);
    cr_assert_eq(page_read(f->cache, id, 33, &stamp), 0);
    cr_assert_eq(page_read(f->cache, id, 34, &stamp), 0);
    frames_return(f->cache);
    fixture_close(f);
}
