/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of cache_share.c: pages of a copy that are in the frames of their source. */
#include "cache_data_tools.h"
#include "cache_tree_tools.h"

TestSuite(cache_share, .fini = fixture_remove, .timeout = 30);

#define MIB (1ull << 20)
static struct cache_copy copy;

static uint32_t frame_of(struct fixture *f, uint64_t id, uint64_t page)
{
    seg_epoch_enter(f->seg);
    _Atomic uint64_t *word = cache_word(f->cache, cache_inode_at(f->cache, id), id, page);
    uint64_t          w = word ? atomic_load(word) : 0;
    seg_epoch_exit(f->seg);
    return cache_word_tag(w) == CACHE_FRAME ? cache_word_value(w) : 0;
}

static uint32_t references(struct fixture *f, uint32_t frame)
{
    return seg_pool_word_aux(seg_pool_load(f->cache->frames, frame));
}

static uint32_t share(struct fixture *f, uint64_t dst, uint64_t first, uint64_t src, uint64_t src_first, uint32_t count)
{
    struct cache_attr attr = attr_of_size(64 * CACHE_PAGE);
    cr_assert_eq(cache_copy_begin(f->cache, dst, first, count, src, src_first, &copy), 0);
    return cache_copy_end(f->cache, &copy, 0, count, &attr);
}

static void expect_stamp(struct fixture *f, uint64_t id, uint64_t page, uint64_t wanted)
{
    uint64_t stamp = 0;
    cr_assert_eq(page_read(f->cache, id, page, &stamp), 0, "page %lu", page);
    cr_assert_eq(stamp, wanted, "page %lu: %lx, wanted %lx", page, stamp, wanted);
}

/* Goal:   a copy takes no frame, reads as its source, and neither sees what is written to the other.
 * Method: direct pages and pages of chunks; a write to each side; all is given back in the end. */
Test(cache_share, copy_takes_no_frame)
{
    struct fixture   *f = fixture_open(MIB);
    uint64_t          src = fixture_file(f->cache, 7, 64 * CACHE_PAGE), dst = fixture_file(f->cache, 8, 64 * CACHE_PAGE);
    struct cache_attr attr = attr_of_size(64 * CACHE_PAGE);

    pages_fill(f->cache, src, 0, 20, 0x100);
    pages_fill(f->cache, dst, 3, 2, 0x900); /* what was there before goes */
    uint32_t live = pool_count_state(f->cache->frames, SEG_POOL_LIVE);
    cr_assert_eq(share(f, dst, 2, src, 2, 10), 10);
    cr_assert_eq(pool_count_state(f->cache->frames, SEG_POOL_LIVE), live - 2);
    for (unsigned page = 2; page < 12; page++) {
        cr_assert_eq(frame_of(f, dst, page), frame_of(f, src, page));
        cr_assert_eq(references(f, frame_of(f, src, page)), 2);
        expect_stamp(f, dst, page, 0x100 + page);
    }
    check_clean(f->cache);
    pages_write(f->cache, dst, 3, 1, 0x200, &attr);
    pages_write(f->cache, src, 6, 1, 0x300, &attr);
    expect_stamp(f, src, 3, 0x103);
    expect_stamp(f, dst, 3, 0x203);
    expect_stamp(f, src, 6, 0x306);
    expect_stamp(f, dst, 6, 0x106);
    cr_assert_eq(references(f, frame_of(f, src, 3)), 1);
    cr_assert_eq(share(f, dst, 30, dst, 2, 4), 4, "within one file, and of what is shared already");
    cr_assert_eq(references(f, frame_of(f, src, 2)), 3);
    check_clean(f->cache);
    cr_assert_eq(cache_drop(f->cache, src, 0, UINT64_MAX, &attr), 0);
    expect_stamp(f, dst, 2, 0x102);
    expect_stamp(f, dst, 30, 0x102);
    cr_assert_eq(cache_drop(f->cache, dst, 0, UINT64_MAX, &attr), 0);
    check_clean(f->cache);
    frames_return(f->cache);
    fixture_close(f);
}

/* Goal:   a merge gets the old bytes of a shared page; only what fits, is cached and has not changed is shared.
 * Method: a partial write; a source that is written, dropped or missing between begin and end; pages outside [from, to). */
Test(cache_share, only_what_stood_is_shared)
{
    struct fixture    *f = fixture_open(MIB);
    uint64_t           src = fixture_file(f->cache, 7, 64 * CACHE_PAGE), dst = fixture_file(f->cache, 8, 64 * CACHE_PAGE), stamp;
    struct cache_attr  attr = attr_of_size(64 * CACHE_PAGE);
    struct cache_write write;

    pages_fill(f->cache, src, 10, 6, 0x100);
    cr_assert_eq(cache_copy_begin(f->cache, dst, 10, 8, src, 10, &copy), 0);
    pages_write(f->cache, src, 12, 1, 0x500, &attr);
    cr_assert_eq(cache_drop(f->cache, src, 13, 1, &attr), 0);
    cr_assert_eq(cache_copy_end(f->cache, &copy, 1, 8, &attr), 3, "pages 11, 14, 15");
    for (unsigned page = 10; page < 18; page++)
        cr_assert_eq(page_read(f->cache, dst, page, &stamp), page == 11 || page == 14 || page == 15 ? 0 : -ENODATA, "page %u", page);
    cr_assert_eq(cache_write_begin(f->cache, dst, 11, 1, &write), 0);
    cr_assert_not_null(write.old[0]);
    cr_assert_eq(page_stamp_get(write.old[0]), 0x10b);
    cr_assert_eq(references(f, frame_of(f, src, 11)), 1, "it is not held for the time of the write");
    page_stamp(write.data[0], 0x77);
    cache_write_end(f->cache, &write, 1, &attr);
    expect_stamp(f, dst, 11, 0x77);
    expect_stamp(f, src, 11, 0x10b);
    for (unsigned i = 0; i < 300; i++)
        share(f, dst, 20 + i % 40, src, 11, 1);
    check_clean(f->cache);
    frames_return(f->cache);
    fixture_close(f);
}

/* Goal:   a frame that has come to hold another page since the copy began is not shared.
 * Method: the source's page is dropped in between and others are fetched until one gets that very frame. */
Test(cache_share, frame_used_anew)
{
    struct fixture   *f = fixture_open(MIB);
    uint64_t          src = fixture_file(f->cache, 7, 64 * CACHE_PAGE), dst = fixture_file(f->cache, 8, 64 * CACHE_PAGE), stamp;
    uint64_t          other = fixture_file(f->cache, 9, 4096ull * CACHE_PAGE), page = 0;
    struct cache_attr attr = attr_of_size(64 * CACHE_PAGE);

    pages_fill(f->cache, src, 10, 1, 0x100);
    uint32_t frame = frame_of(f, src, 10);
    cr_assert_eq(cache_copy_begin(f->cache, dst, 10, 1, src, 10, &copy), 0);
    cr_assert_eq(cache_drop(f->cache, src, 10, 1, &attr), 0);
    limbo_drain(f->cache);
    while (page < 4096 && (page == 0 || frame_of(f, other, page - 1) != frame))
        pages_fill(f->cache, other, page++, 1, 0x900);
    cr_assert_eq(frame_of(f, other, page - 1), frame, "the frame was not used again");
    cr_assert_eq(cache_copy_end(f->cache, &copy, 0, 1, &attr), 0);
    cr_assert_eq(page_read(f->cache, dst, 10, &stamp), -ENODATA);
    cr_assert_eq(references(f, frame), 1);
    check_clean(f->cache);
    frames_return(f->cache);
    fixture_close(f);
}

/* Goal:   a shared frame in the hands of the dead holds nobody up, and ends with as many references as words lead to it.
 * Method: member b seizes and raises by hand, as in steps 1 to 3, and is killed; others change their pages before it is settled and after. */
Test(cache_share, shared_frame_of_a_dead_member)
{
    struct fixture        *f = fixture_open(MIB);
    struct fixture_member *b = fixture_join(f);
    uint64_t               src = fixture_file(f->cache, 7, 64 * CACHE_PAGE), dst = fixture_file(f->cache, 8, 64 * CACHE_PAGE), stamp;
    struct cache_attr      attr = attr_of_size(64 * CACHE_PAGE);

    pages_fill(f->cache, src, 8, 4, 0x100);
    cr_assert_eq(share(f, dst, 9, src, 9, 3), 3);
    for (unsigned page = 8; page < 12; page++) { /* raised, and not installed */
        uint32_t frame = frame_of(f, src, page);
        cr_assert(seg_pool_claim(b->cache->frames, frame));
        cr_assert(seg_pool_aux_set(b->cache->frames, frame, seg_pool_word_aux(seg_pool_load(b->cache->frames, frame)) + 1));
    }
    unsigned slot = b->slot;
    fixture_kill(f, b, NULL);
    expect_stamp(f, dst, 9, 0x109);
    pages_write(f->cache, src, 10, 1, 0x200, &attr);
    cr_assert_eq(cache_drop(f->cache, dst, 11, 1, &attr), 0);
    cr_assert_eq(page_read(f->cache, dst, 11, &stamp), -ENODATA);
    seg_recovery_lock(f->seg, false);
    cr_assert_eq(cache_recover(f->cache, slot), 0);
    seg_recovery_unlock(f->seg);
    cr_assert_eq(references(f, frame_of(f, src, 8)), 1);
    cr_assert_eq(references(f, frame_of(f, src, 9)), 2);
    cr_assert_eq(references(f, frame_of(f, dst, 10)), 1);
    cr_assert_eq(references(f, frame_of(f, src, 11)), 1);
    expect_stamp(f, src, 10, 0x20a);
    expect_stamp(f, dst, 10, 0x10a);
    check_clean(f->cache);
    frames_return(f->cache);
    fixture_close(f);
}

/* Goal:   eviction takes the source's pages first, and a shared frame goes when its last page goes.
 * Method: everything is evicted. */
Test(cache_share, eviction)
{
    struct fixture *f = fixture_open(MIB);
    uint64_t        src = fixture_file(f->cache, 7, 64 * CACHE_PAGE), dst = fixture_file(f->cache, 8, 64 * CACHE_PAGE), stamp;

    pages_fill(f->cache, src, 16, 16, 0x100);
    for (unsigned page = 16; page < 32; page++)
        expect_stamp(f, src, page, 0x100 + page);
    cr_assert_eq(share(f, dst, 16, src, 16, 16), 16);
    for (unsigned page = 16; page < 32; page++)
        expect_stamp(f, dst, page, 0x100 + page);
    cache_evict(f->cache, 16);
    unsigned left = 0;
    for (unsigned page = 16; page < 32; page++)
        left += page_read(f->cache, dst, page, &stamp) == 0;
    cr_assert_eq(left, 16, "the copy was used last");
    frames_return(f->cache);
    check_clean(f->cache);
    fixture_close(f);
}
