/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_cache_check.c - the check finds each kind of damage, says which, and finds nothing where nothing is wrong, also while others work.
 *
 * Method: a small cache with everything in it; one word is spoilt at a time, the check must say the expected words about it, and after the word has been put back
 * it must be silent again.
 */
#include <signal.h>
#include <sys/wait.h>

#include "cache_tree_tools.h"

TestSuite(cache_check, .fini = fixture_remove);

struct scene {
    struct fixture     *f;
    struct cache       *cache;
    struct cache_inode *dir, *file;
    struct cache_chunk *chunk;
    struct cache_name  *name, *long_name;
    struct cache_frame *frame; /* on page 0 of file */
    uint32_t            frame_index, name_index, chunk_index;
    uint64_t            dir_id, file_id;
};

static void scene_open(struct scene *s)
{
    struct fixture_shape shape = {.frames = 256, .inodes = 64, .names = 64, .chunks = 32};
    char                 name[256];
    uint64_t             arg;
    s->f = fixture_open_shape(&shape);
    s->cache = s->f->cache;
    s->dir_id = dir_make(s->cache, 1);
    s->file_id = fixture_file(s->cache, 2, 100 * CACHE_PAGE);
    s->dir = cache_inode_at(s->cache, s->dir_id);
    s->file = cache_inode_at(s->cache, s->file_id);
    pages_fill(s->cache, s->file_id, 0, 40, 100);
    cr_assert_eq(cache_name_pin(s->cache, s->dir_id, "file", 4, &arg), 0);
    cache_name_unpin(s->cache, arg);
    s->name_index = (uint32_t)(arg >> 32);
    s->name = seg_pool_at(s->cache->names, s->name_index);
    memset(name, 'n', 250);
    cr_assert_eq(cache_name_pin(s->cache, s->dir_id, name, 250, &arg), 0);
    cache_name_unpin(s->cache, arg);
    s->long_name = seg_pool_at(s->cache->names, (uint32_t)(arg >> 32));
    cr_assert_eq(name_fill(s->cache, s->dir_id, "file", s->file_id), 0);
    seg_epoch_enter(s->f->seg);
    s->chunk = cache_chunk_find(s->cache, s->file_id, 1, &s->chunk_index);
    seg_epoch_exit(s->f->seg);
    cr_assert_not_null(s->chunk);
    s->frame_index = cache_word_value(atomic_load(&s->file->direct[0]));
    s->frame = seg_pool_at(s->cache->frames, s->frame_index);
    check_clean(s->cache);
}

struct heard {
    const char *want;
    unsigned    lines, matches;
};

static void line_hear(void *arg, const char *line)
{
    struct heard *heard = arg;
    heard->lines++;
    heard->matches += strstr(line, heard->want) != NULL;
    if (!strstr(line, heard->want))
        fprintf(stderr, "also: %s\n", line);
}

/* Both when quiet and when not, something is said that contains `want`. */
static void expect_line(struct scene *s, const char *want, bool quiet_only)
{
    for (int quiet = quiet_only; quiet < 2; quiet++) {
        struct heard heard = {.want = want};
        int          broken = cache_check(s->cache, quiet, true, line_hear, &heard);
        cr_assert_gt(broken, 0, "nothing found, expected: %s", want);
        cr_assert_eq((unsigned)broken, heard.lines);
        cr_assert_gt(heard.matches, 0, "not said: %s", want);
    }
}

/* Sets an lvalue, expects the line, puts it back, expects silence. */
#define SPOIL(lvalue, value, want, quiet_only)                                                                         \
    do {                                                                                                               \
        uint64_t saved = (uint64_t)(lvalue);                                                                           \
        (lvalue) = (value);                                                                                            \
        expect_line(&s, (want), (quiet_only));                                                                         \
        (lvalue) = saved;                                                                                              \
        check_clean(s.cache);                                                                                          \
    } while (0)

Test(cache_check, damage_to_inodes_is_found, .timeout = 120)
{
    struct scene s;
    scene_open(&s);
    SPOIL(s.file->version, s.file->version | 1, "is odd though nobody publishes", false);
    SPOIL(s.file->version, 0, "version 0", false);
    SPOIL(s.file->flags, s.file->flags | 0x100, "flags", false);
    SPOIL(s.file->known, 1ull << 40, "known by members that are not at work", false);
    SPOIL(s.file->lock.interest, 1ull << 40, "interest bits", false);
    SPOIL(s.file->lock.publish, seg_who_make(9, 3), "publish lock held by slot 9", false);
    SPOIL(s.file->lock.owner, 200, "write lock word", false);
    SPOIL(s.file->lock.owed, 1, "owed though nobody is at work", true);
    SPOIL(s.file->ref[3], 77, "cannot be found by its reference", false);
    SPOIL(s.file->attr.size_bytes, UINT64_MAX, "size 0xffffffffffffffff", false);
    SPOIL(s.file->parent, 5000, "last seen in inode 5000", false);
    SPOIL(s.file->name, 5000, "as name 5000", false);
    SPOIL(s.file->pool, seg_pool_word(SEG_POOL_PRIVATE, 9, 1, 0), "state private of slot 9", false);
    SPOIL(s.file->pool, seg_pool_word(7, 0, 0, 0), "state 7 makes no sense", false);
    SPOIL(s.file->pool, seg_pool_word(SEG_POOL_FREE, 0, 0, 1), "free and still in a chain", false);
    SPOIL(s.file->pool, seg_pool_word(SEG_POOL_LIVE, 0, 0, 1), "is gone", false); /* its chunks are of another generation */
    fixture_close(s.f);
}

Test(cache_check, damage_to_words_and_frames_is_found, .timeout = 120)
{
    struct scene   s;
    unsigned char *data;
    scene_open(&s);
    data = cache_frame_data(s.cache, s.frame_index);
    SPOIL(s.file->direct[0], 3, "makes no sense", false);
    SPOIL(s.file->direct[0], cache_word_next(0, CACHE_FRAME, 100000), "frame 100000 is out of range", false);
    SPOIL(s.file->direct[0], 0, "references and hangs on 0 pages", false);
    SPOIL(s.file->direct[0], atomic_load(&s.file->direct[1]), "1 references and hangs on 2 pages", false);
    SPOIL(s.file->direct[0], cache_word_next(0, CACHE_CLAIM, cache_claim_value(9, 1, CACHE_CLAIM_FILL)), "claimed by slot 9", false);
    SPOIL(s.chunk->page[3], cache_word_next(0, CACHE_CLAIM, cache_claim_value(0, 1, CACHE_CLAIM_WRITE)), "though nobody is at work", true);
    SPOIL(s.chunk->page[3], cache_word_next(0, CACHE_CLAIM, cache_claim_value(0, 1, 9)), "claim of kind 9", false);
    SPOIL(s.file->direct[0], cache_word_next(0, CACHE_CLAIM, cache_claim_value(0, 1, CACHE_CLAIM_CLOSE)), "claim of kind 3", false);
    SPOIL(s.frame->checksum, s.frame->checksum + 1, "wrong checksum", false);
    SPOIL(data[4095], data[4095] + 1, "wrong checksum", false);
    SPOIL(s.frame->pool, seg_pool_word(SEG_POOL_FREE, 0, 0, 0), "is free and hangs on 1 pages", false);
    SPOIL(s.frame->pool, seg_pool_word(SEG_POOL_LIMBO, 0, 1, 0), "though nobody is at work", true);
    SPOIL(s.chunk->inode_id, s.dir_id, "is behind the end of inode", false);
    SPOIL(s.chunk->number, 2, "cannot be found", false);
    SPOIL(s.file->chunk_end, 1, "is behind the end of inode", false);
    struct seg_array  array = seg_section(s.f->seg, SEG_SECTION_FRAME_HINTS);
    _Atomic uint64_t *hint = seg_elem(&array, 3);
    SPOIL(*hint, 0, "is free and has no hint: lost", false);
    fixture_close(s.f);
}

Test(cache_check, damage_to_names_chains_and_intents_is_found, .timeout = 120)
{
    struct scene s;
    scene_open(&s);
    struct cache_name_part *part = seg_pool_at(s.cache->names, s.long_name->part - 1);
    struct seg_array        array = s.cache->inode_chain.buckets;
    _Atomic uint64_t       *bucket = seg_elem(&array, cache_ref_hash(s.file->ref) & (array.count - 1));
    struct cache_intents   *intents = seg_elem(&s.cache->intents, 9), *own = seg_elem(&s.cache->intents, 0);

    SPOIL(s.name->bytes[0], '/', "no name of a file", false);
    SPOIL(s.name->bytes[0], 'g', "its hash is not that of its bytes", false);
    SPOIL(s.name->length, 300, "make no sense", false);
    SPOIL(s.name->hash, s.name->hash + 1, "its hash is not that of its bytes", false);
    SPOIL(s.name->parent, 9000, "its directory 0x2328 is out of range", false);
    SPOIL(s.name->child, 9000, "its node 0x2328 is out of range", false);
    SPOIL(s.name->pins, 2, "pinned 2 times though nobody is at work", true);
    SPOIL(s.long_name->part, 60000, "make no sense", false);
    SPOIL(part->head, s.name_index, "which does not lead to it", false);
    SPOIL(*bucket, 0, "cannot be found by its reference", false);
    SPOIL(*bucket, 1000000, "is a ring or leads out of range", false);
    SPOIL(s.file->link, cache_id_index(s.file_id) + 1, "is a ring or leads out of range", false);
    SPOIL(intents->intent[2].op, CACHE_INTENT_DATA, "intent 2 of slot 9 stands though that member is not at work", false);
    SPOIL(intents->intent[2].op, 77, "77 makes no sense", false);
    SPOIL(own->intent[2].op, CACHE_INTENT_NAMES, "intent 2 of slot 0", true);
    fixture_close(s.f);
}

/* Goal: steps that are just being made are no findings. Method: another thread fills, drops, names and interns while the check runs, ten times. */
struct busy {
    struct cache *cache;
    uint64_t      dir, file;
    _Atomic bool  stop;
};

static void *busy_work(void *arg)
{
    static struct cache_fill fill;
    struct busy             *busy = arg;
    struct cache_attr        attr = attr_of_size(100 * CACHE_PAGE);
    char                     name[256];
    for (uint64_t i = 0; !atomic_load(&busy->stop); i++) {
        uint64_t id = node_get(busy->cache, 1000 + i % 200, false);
        int      length = snprintf(name, sizeof name, "%0*lu", i % 2 ? 8 : 200, i % 100);
        cache_name_fill(busy->cache, busy->dir, cache_version(busy->cache, busy->dir), name, (size_t)length, id);
        if (cache_fill_begin(busy->cache, busy->file, i % 90, 10, &fill) == 0) {
            fill_stamp(&fill, i);
            cache_fill_end(busy->cache, &fill, (ssize_t)fill.count * CACHE_PAGE);
            cache_fill_release(busy->cache, &fill);
        }
        if (i % 3 == 0)
            cache_drop(busy->cache, busy->file, i % 80, 20, &attr);
    }
    return NULL;
}

Test(cache_check, work_in_progress_is_no_finding, .timeout = 300)
{
    struct scene s;
    pthread_t    thread;
    scene_open(&s);
    struct busy busy = {.cache = s.cache, .dir = s.dir_id, .file = s.file_id};
    thread_start(&thread, busy_work, &busy);
    for (unsigned i = 0; i < 10; i++)
        cr_assert_eq(cache_check(s.cache, false, true, check_line, NULL), 0);
    atomic_store(&busy.stop, true);
    pthread_join(thread, NULL);
    check_clean(s.cache);
    fixture_close(s.f);
}

#ifndef __SANITIZE_THREAD__
/* Goal: a tool that is no member, on a mapping that it may not write, can check: it writes nothing, or it would die. */
Test(cache_check, works_read_only_without_a_membership, .timeout = 60)
{
    struct scene  s;
    struct seg   *seg = NULL;
    struct cache *cache = NULL;
    char          err[SEG_ERR_BYTES] = "", path[128];
    scene_open(&s);
    snprintf(path, sizeof path, "%s", s.f->path);
    cr_assert_eq(seg_open(path, NULL, SEG_OPEN_RDONLY, &seg, NULL, err), 0, "%s", err);
    cr_assert_eq(cache_open(seg, NULL, NULL, &cache), 0);
    cr_assert_eq(cache_check(cache, false, true, check_line, NULL), 0);
    cr_assert_gt(cache_check(cache, true, true, NULL, NULL), -1);
    s.frame->checksum++;
    cr_assert_eq(cache_check(cache, false, true, check_line, NULL), 1);
    s.frame->checksum--;
    cache_close(cache);
    seg_close(seg);
    fixture_close(s.f);
}

/* Goal: members that leave in order leave nothing: the check of a segment at rest is clean. */
Test(cache_check, segment_at_rest_is_clean, .timeout = 60)
{
    struct scene           s;
    struct seg            *seg = NULL;
    struct cache          *cache = NULL;
    char                   err[SEG_ERR_BYTES] = "", path[128];
    scene_open(&s);
    struct fixture_member *b = fixture_join(s.f);
    pages_fill(b->cache, s.file_id, 50, 40, 1);
    cache_drop(b->cache, s.file_id, 0, 60, NULL);
    for (uint64_t i = 0; i < 200; i++)
        node_get(b->cache, 100 + i, false);
    fixture_leave(s.f, b);
    snprintf(path, sizeof path, "%s", s.f->path);
    cr_assert_eq(seg_open(path, NULL, SEG_OPEN_RDONLY, &seg, NULL, err), 0, "%s", err);
    cache_known_drop(s.cache, s.dir_id);
    cache_known_drop(s.cache, s.file_id);
    fixture_leave(s.f, &s.f->member[0]);
    cr_assert_eq(cache_open(seg, NULL, NULL, &cache), 0);
    cr_assert_eq(cache_check(cache, true, true, check_line, NULL), 0);
    cache_close(cache);
    seg_close(seg);
    fixture_close(s.f);
}
#endif
