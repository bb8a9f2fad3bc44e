/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_cache_recover.c - a member dies at chosen points, another settles what it left.
 *
 * Goal of all: after recovery the check finds nothing, no element is lost, nothing half-done can be seen, and what was whole is still there.
 * Method: a child joins the segment, makes the first steps of something by the same functions that the cache uses, and kills itself with SIGKILL; the parent
 * finds it dead by its liveness lock and recovers. The points are those that the essays of the source files number.
 */
#include <signal.h>
#include <sys/wait.h>

#include "cache_tree_tools.h"

TestSuite(cache_recover, .fini = fixture_remove);

enum { OLD_DIR = 1, OLD_FILE = 2, OLD_CHILD = 3 };

struct scene { /* what was there before the child came; ids are the same in all processes */
    struct fixture *f;
    uint64_t        dir, file, child;
    uint32_t        free_inodes, free_names, free_chunks, free_frames;
};

static void free_note(struct scene *s)
{
    struct cache *cache = s->f->cache;
    pools_drain(cache);
    s->free_inodes = pool_count_state(cache->inodes, SEG_POOL_FREE);
    s->free_names = pool_count_state(cache->names, SEG_POOL_FREE);
    s->free_chunks = pool_count_state(cache->chunks, SEG_POOL_FREE);
    s->free_frames = pool_count_state(cache->frames, SEG_POOL_FREE);
}

/* A directory with a short and a long name, a file whose first 40 pages are cached, and a child node. */
static void scene_open(struct scene *s)
{
    struct fixture_shape shape = {.frames = 512, .inodes = 64, .names = 64, .chunks = 32};
    char                 name[201];
    s->f = fixture_open_shape(&shape);
    s->dir = dir_make(s->f->cache, OLD_DIR);
    s->file = fixture_file(s->f->cache, OLD_FILE, 400 * CACHE_PAGE);
    s->child = node_get(s->f->cache, OLD_CHILD, true);
    memset(name, 'n', 200);
    name[200] = 0;
    cr_assert_eq(name_fill(s->f->cache, s->dir, "short", s->child), 0);
    cr_assert_eq(name_fill(s->f->cache, s->dir, name, s->child), 0);
    pages_fill(s->f->cache, s->file, 0, 40, 5000);
    free_note(s);
}

static void scene_close(struct scene *s)
{
    fixture_close(s->f);
}

/* Joins in a child, lets it do `die`, which ends with its death, and returns the dead member's slot. */
static unsigned member_dies(struct scene *s, void (*die)(struct fixture_member *me, const struct scene *s))
{
    fflush(NULL);
    pid_t pid = fork();
    cr_assert_geq(pid, 0);
    if (pid == 0) {
        struct fixture_member *me = fixture_join(s->f);
        die(me, s);
        raise(SIGKILL);
    }
    int status = 0;
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "the child ended with status %#x", status);
    for (unsigned slot = 0; slot < SEG_MEMBERS_MAX; slot++)
        if (seg_member_state(s->f->seg, slot, NULL) == SEG_ACTIVE && seg_member_is_dead(s->f->seg, slot))
            return slot;
    cr_assert_fail("no member has died");
    return 0;
}

static void settle(struct scene *s, unsigned slot)
{
    uint32_t incarnation = 0;
    seg_member_state(s->f->seg, slot, &incarnation);
    fixture_settle(&s->f->member[0], slot, incarnation);
    cr_assert_eq(seg_member_state(s->f->seg, slot, NULL), SEG_PARKED);
}

/* Dies and is settled; nothing is broken. */
static void die_and_settle(struct scene *s, void (*die)(struct fixture_member *me, const struct scene *s))
{
    settle(s, member_dies(s, die));
    check_clean(s->f->cache);
}

static void expect_free(struct scene *s, uint32_t inodes, uint32_t names, uint32_t chunks, uint32_t frames)
{
    pools_drain(s->f->cache);
    cr_assert_eq(pool_count_state(s->f->cache->inodes, SEG_POOL_FREE), inodes);
    cr_assert_eq(pool_count_state(s->f->cache->names, SEG_POOL_FREE), names);
    cr_assert_eq(pool_count_state(s->f->cache->chunks, SEG_POOL_FREE), chunks);
    cr_assert_eq(pool_count_state(s->f->cache->frames, SEG_POOL_FREE), frames);
}

static void expect_unchanged(struct scene *s)
{
    uint64_t child = 0, stamp = 0;
    expect_free(s, s->free_inodes, s->free_names, s->free_chunks, s->free_frames);
    cr_assert_eq(name_find(s->f->cache, s->dir, "short", &child), 0);
    cr_assert_eq(child, s->child);
    cr_assert_eq(page_read(s->f->cache, s->file, 30, &stamp), 0);
    cr_assert_eq(stamp, 5030);
}

/* ---- inodes ---- */

static void die_allocated(struct fixture_member *me, const struct scene *s)
{
    uint32_t index[3];
    (void)s;
    if (seg_pool_alloc(me->cache->inodes, 2, index) != 2 || seg_pool_alloc(me->cache->names, 3, index) != 3 ||
        seg_pool_alloc(me->cache->chunks, 2, index) != 2 || seg_pool_alloc(me->cache->frames, 3, index) != 3)
        _exit(1);
}

Test(cache_recover, elements_that_were_only_allocated_are_free_again, .timeout = 30)
{
    struct scene s;
    scene_open(&s);
    die_and_settle(&s, die_allocated);
    expect_unchanged(&s);
    scene_close(&s);
}

static void word_make_private(struct fixture_member *me, struct seg_pool *pool, uint32_t index)
{
    _Atomic uint64_t *word = seg_pool_at(pool, index);
    atomic_store(word, seg_pool_word(SEG_POOL_PRIVATE, me->slot, me->incarnation, seg_pool_word_aux(*word)));
}

/* Linked and not yet published: an inode, a name of three elements, a chunk, a frame. */
static void die_linked(struct fixture_member *me, const struct scene *s)
{
    uint64_t id = node_get(me->cache, 50, false), arg;
    char     name[251];
    memset(name, 'l', 250);
    if (cache_name_pin(me->cache, s->dir, name, 250, &arg))
        _exit(1);
    struct cache_name      *head = seg_pool_at(me->cache->names, (uint32_t)(arg >> 32));
    struct cache_name_part *part = seg_pool_at(me->cache->names, head->part - 1);
    uint32_t                last = part->part - 1;
    pages_fill(me->cache, s->file, 100, 1, 6000);
    seg_epoch_enter(me->seg);
    uint32_t          chunk = 0;
    _Atomic uint64_t *word = cache_word(me->cache, cache_inode_at(me->cache, s->file), s->file, 100);
    cache_chunk_find(me->cache, s->file, 100 / CACHE_CHUNK_PAGES, &chunk);
    seg_epoch_exit(me->seg);
    word_make_private(me, me->cache->inodes, cache_id_index(id));
    word_make_private(me, me->cache->names, head->part - 1);
    word_make_private(me, me->cache->names, last);
    word_make_private(me, me->cache->names, (uint32_t)(arg >> 32));
    word_make_private(me, me->cache->chunks, chunk);
    word_make_private(me, me->cache->frames, cache_word_value(*word));
}

Test(cache_recover, what_was_linked_is_finished, .timeout = 30)
{
    struct scene s;
    uint64_t     stamp = 0;
    scene_open(&s);
    die_and_settle(&s, die_linked);
    expect_free(&s, s.free_inodes - 1, s.free_names - 3, s.free_chunks - 1, s.free_frames - 1);
    cr_assert_eq(page_read(s.f->cache, s.file, 100, &stamp), 0);
    cr_assert_eq(stamp, 6100);
    cr_assert_eq(cache_inode_evict(s.f->cache, node_get(s.f->cache, 50, false)), 0);
    scene_close(&s);
}

/* Claimed, still linked: the evictor had not come to the unlinking. The inode is at step 2 (dying), the chunk is closed. */
static void die_claimed(struct fixture_member *me, const struct scene *s)
{
    struct cache       *cache = me->cache;
    uint64_t            id = node_get(cache, 60, false);
    struct cache_inode *inode = cache_inode_at(cache, id), *file = cache_inode_at(cache, s->file);
    uint64_t            closed;
    uint32_t            chunk = 0;
    seg_pool_claim(cache->inodes, cache_id_index(id));
    atomic_store(&inode->known, CACHE_KNOWN_DYING);
    for (uint32_t i = 1; i < seg_pool_count(cache->names); i++)
        seg_pool_claim(cache->names, i);
    seg_pool_claim(cache->frames, cache_word_value(atomic_load(&file->direct[1])));
    seg_epoch_enter(me->seg);
    _Atomic uint64_t *word;
    if (cache_word_get(cache, file, s->file, 200, &word))
        _exit(1);
    cache_chunk_find(cache, s->file, 200 / CACHE_CHUNK_PAGES, &chunk);
    seg_pool_claim(cache->chunks, chunk);
    for (unsigned i = 0; i < 7; i++) {
        word = &((struct cache_chunk *)seg_pool_at(cache->chunks, chunk))->page[i];
        closed = cache_word_next(*word, CACHE_CLAIM, cache_claim_own(cache, CACHE_CLAIM_CLOSE));
        atomic_store(word, closed);
    }
    seg_epoch_exit(me->seg);
}

Test(cache_recover, what_was_claimed_stays, .timeout = 30)
{
    struct scene s;
    uint64_t     stamp = 0;
    scene_open(&s);
    unsigned slot = member_dies(&s, die_claimed);
    uint64_t dying = 0;
    for (uint32_t i = 2; i < seg_pool_count(s.f->cache->inodes); i++)
        if (atomic_load(&((struct cache_inode *)seg_pool_at(s.f->cache->inodes, i))->known) == CACHE_KNOWN_DYING)
            dying++;
    cr_assert_eq(dying, 1);
    settle(&s, slot);
    check_clean(s.f->cache);
    cr_assert_eq(page_read(s.f->cache, s.file, 1, &stamp), 0);
    uint64_t id = node_get(s.f->cache, 60, false);
    cr_assert_eq(atomic_load(&cache_inode_at(s.f->cache, id)->known), 0);
    cr_assert_eq(cache_inode_evict(s.f->cache, id), 0);
    pages_fill(s.f->cache, s.file, 200, 4, 1); /* the words of the chunk are open again */
    cr_assert_eq(page_read(s.f->cache, s.file, 200, &stamp), 0);
    cache_drop(s.f->cache, s.file, 192, 16, NULL);
    pools_drain(s.f->cache);
    expect_free(&s, s.free_inodes, s.free_names, s.free_chunks, s.free_frames);
    scene_close(&s);
}

/* Unlinked and not yet in anybody's limbo; retired, in the limbo of a process that is no more; and dead inside an epoch, which holds everybody's limbo back. */
static void die_unlinked(struct fixture_member *me, const struct scene *s)
{
    struct cache *cache = me->cache;
    uint64_t      id = node_get(cache, 70, false);
    seg_pool_claim(cache->inodes, cache_id_index(id));
    struct cache_inode *inode = seg_pool_at(cache->inodes, cache_id_index(id));
    atomic_store(&inode->known, CACHE_KNOWN_DYING);
    if (seg_chain_remove(&cache->inode_chain, cache_ref_hash(inode->ref), cache_id_index(id)))
        _exit(1);
    for (uint64_t serial = 72; serial < 80; serial++)
        cache_inode_evict(cache, node_get(cache, serial, false));
    cache_words_drop(cache, cache_inode_at(cache, s->file), s->file, 0, UINT64_MAX);
    seg_epoch_enter(me->seg);
}

Test(cache_recover, what_was_unlinked_is_given_back, .timeout = 30)
{
    struct scene s;
    scene_open(&s);
    die_and_settle(&s, die_unlinked);
    cr_assert_eq(pool_count_state(s.f->cache->inodes, SEG_POOL_FREE), s.free_inodes);
    cr_assert_eq(frames_linked(s.f->cache), 0);
    cr_assert_eq(pool_count_state(s.f->cache->frames, SEG_POOL_FREE), seg_pool_count(s.f->cache->frames) - 1);
    scene_close(&s);
}

static void die_in_bucket(struct fixture_member *me, const struct scene *s)
{
    struct cache *cache = me->cache;
    uint8_t       ref[CACHE_REF_BYTES];
    (void)s;
    ref_make(ref, 80);
    struct seg_array array = cache->inode_chain.buckets; /* the owner field, as seg_chain.h says */
    _Atomic uint64_t *bucket = seg_elem(&array, cache_ref_hash(ref) & (array.count - 1));
    atomic_fetch_or(bucket, (uint64_t)(me->slot + 1) << 32 | (uint64_t)(me->incarnation & 0xffffff) << 40);
}

Test(cache_recover, bucket_of_a_dead_owner_is_usable, .timeout = 30)
{
    struct scene s;
    scene_open(&s);
    die_and_settle(&s, die_in_bucket);
    cr_assert_eq(cache_inode_evict(s.f->cache, node_get(s.f->cache, 80, false)), 0);
    scene_close(&s);
}

/* ---- changes that were under way ---- */

static void die_known(struct fixture_member *me, const struct scene *s)
{
    if (cache_known_set(me->cache, s->file) || lock_read_begin(me->lock, &cache_inode_at(me->cache, s->file)->lock))
        _exit(1);
    node_get(me->cache, 90, true);
}

Test(cache_recover, bits_of_the_dead_are_cleared, .timeout = 30)
{
    struct scene s;
    scene_open(&s);
    die_and_settle(&s, die_known);
    struct cache_inode *file = cache_inode_at(s.f->cache, s.file);
    cr_assert_eq(atomic_load(&file->known), seg_self_bit(s.f->seg));
    cr_assert_eq(atomic_load(&file->lock.interest), 0);
    cr_assert_eq(cache_inode_evict(s.f->cache, node_get(s.f->cache, 90, false)), 0);
    expect_unchanged(&s);
    scene_close(&s);
}

/* The write lock in phase WRITING: the origin may have changed and the cache not. */
static void die_writing(struct fixture_member *me, const struct scene *s)
{
    const uint64_t id[2] = {s->dir, s->file};
    for (unsigned i = 0; i < 2; i++) {
        struct lock_ref    ref = cache_lock_ref(me->cache, id[i]);
        struct lock_recall recall = {.ref = ref, .kind = WORK_RECALL_DATA};
        if (lock_write_acquire(me->lock, &ref, 0, NULL, NULL) || lock_recall_all(me->lock, &recall, 1, 0))
            _exit(1);
    }
}

Test(cache_recover, everything_of_an_inode_being_written_is_dropped, .timeout = 30)
{
    struct scene      s;
    struct cache_attr attr;
    uint64_t          child, stamp;
    scene_open(&s);
    uint64_t version[2] = {cache_version(s.f->cache, s.dir), cache_version(s.f->cache, s.file)};
    die_and_settle(&s, die_writing);
    cr_assert_eq(name_find(s.f->cache, s.dir, "short", &child), -ENODATA);
    cr_assert_eq(cache_attr_get(s.f->cache, s.dir, &attr), -ENODATA);
    cr_assert_eq(cache_attr_get(s.f->cache, s.file, &attr), -ENODATA);
    cr_assert_neq(page_read(s.f->cache, s.file, 30, &stamp), 0);
    cr_assert_eq(frames_linked(s.f->cache), 0);
    cr_assert_eq(cache_name_fill(s.f->cache, s.dir, version[0], "short", 5, s.child), -EAGAIN, "asked before the death");
    cr_assert_eq(cache_attr_fill(s.f->cache, s.file, version[1], &attr), -EAGAIN);
    struct lock_ref ref = cache_lock_ref(s.f->cache, s.dir);
    cr_assert_eq(lock_write_acquire(cache_lock(s.f->cache), &ref, LOCK_TRY, NULL, NULL), 0);
    lock_write_release(cache_lock(s.f->cache), &ref);
    scene_close(&s);
}

static void die_recalling(struct fixture_member *me, const struct scene *s)
{
    struct lock_ref ref = cache_lock_ref(me->cache, s->dir);
    if (lock_write_acquire(me->lock, &ref, 0, NULL, NULL))
        _exit(1);
}

Test(cache_recover, nothing_is_dropped_when_nothing_had_begun, .timeout = 30)
{
    struct scene s;
    scene_open(&s);
    die_and_settle(&s, die_recalling);
    expect_unchanged(&s);
    struct lock_ref ref = cache_lock_ref(s.f->cache, s.dir);
    cr_assert_eq(lock_write_acquire(cache_lock(s.f->cache), &ref, LOCK_TRY, NULL, NULL), 0);
    lock_write_release(cache_lock(s.f->cache), &ref);
    scene_close(&s);
}

/* Inside a version step, half of the attributes stored. */
static void die_publishing(struct fixture_member *me, const struct scene *s)
{
    struct cache_inode *inode;
    if (cache_publish_enter(me->cache, s->file, &inode))
        _exit(1);
    cache_version_open(inode);
    inode->attr.size_bytes = 1;
}

Test(cache_recover, half_published_attributes_are_never_seen, .timeout = 30)
{
    struct scene      s;
    struct cache_attr attr;
    scene_open(&s);
    unsigned slot = member_dies(&s, die_publishing);
    seg_epoch_enter(s.f->seg);
    cr_assert_eq(cache_attr_get(s.f->cache, s.file, &attr), -EAGAIN);
    seg_epoch_exit(s.f->seg);
    settle(&s, slot);
    check_clean(s.f->cache);
    cr_assert_eq(cache_attr_get(s.f->cache, s.file, &attr), -ENODATA);
    attr = attr_of_size(400 * CACHE_PAGE);
    cr_assert_eq(cache_attr_fill(s.f->cache, s.file, cache_version(s.f->cache, s.file), &attr), 0);
    cr_assert_eq(cache_attr_get(s.f->cache, s.file, &attr), 0);
    scene_close(&s);
}

/* Goal: a survivor that runs into a lock of the dead settles it by itself, from inside its wait, whatever locks it holds. */
Test(cache_recover, who_waits_for_the_dead_settles_them, .timeout = 30)
{
    struct scene      s;
    struct cache_attr attr = attr_of_size(5), got;
    scene_open(&s);
    struct lock_ref ref = cache_lock_ref(s.f->cache, s.dir);
    cr_assert_eq(lock_write_acquire(cache_lock(s.f->cache), &ref, 0, NULL, NULL), 0);
    member_dies(&s, die_publishing);
    cr_assert_eq(cache_attr_publish(s.f->cache, s.file, &attr), 0);
    cr_assert_eq(cache_attr_get(s.f->cache, s.file, &got), 0);
    cr_assert_eq(got.size_bytes, 5);
    member_dies(&s, die_publishing);
    uint64_t version = cache_version(s.f->cache, s.file);
    cr_assert_eq(version & 1, 0);
    cr_assert_gt(version, 0);
    lock_write_release(cache_lock(s.f->cache), &ref);
    check_clean(s.f->cache);
    scene_close(&s);
}

static void die_in_write(struct fixture_member *me, const struct scene *s)
{
    struct cache_write write;
    if (cache_write_begin(me->cache, s->file, 8, 4, &write))
        _exit(1);
}

Test(cache_recover, range_of_a_write_is_dropped_and_no_more, .timeout = 30)
{
    struct scene s;
    uint64_t     stamp = 0;
    scene_open(&s);
    die_and_settle(&s, die_in_write);
    struct cache_attr attr = attr_of_size(400 * CACHE_PAGE);
    cr_assert_eq(cache_attr_fill(s.f->cache, s.file, cache_version(s.f->cache, s.file), &attr), 0);
    for (uint64_t page = 0; page < 40; page++)
        cr_assert_eq(page_read(s.f->cache, s.file, page, &stamp), page >= 8 && page < 12 ? -ENODATA : 0, "page %lu", page);
    expect_free(&s, s.free_inodes, s.free_names, s.free_chunks, s.free_frames + 4);
    pages_fill(s.f->cache, s.file, 8, 4, 1);
    scene_close(&s);
}

static void die_in_fill(struct fixture_member *me, const struct scene *s)
{
    static struct cache_fill fill;
    if (cache_fill_begin(me->cache, s->file, 40, 100, &fill) || fill.count < 50)
        _exit(1);
}

Test(cache_recover, claims_of_a_dead_filler_are_void, .timeout = 30)
{
    struct scene s;
    uint64_t     stamp = 0;
    scene_open(&s);
    die_and_settle(&s, die_in_fill);
    cr_assert_eq(pool_count_state(s.f->cache->frames, SEG_POOL_FREE), s.free_frames);
    pages_fill(s.f->cache, s.file, 40, 100, 5000);
    cr_assert_eq(page_read(s.f->cache, s.file, 20, &stamp), 0);
    scene_close(&s);
}

static void die_with_names_intent(struct fixture_member *me, const struct scene *s)
{
    const uint64_t id[4] = {s->dir, s->file, 0, 12345678};
    cache_intent_take(me->cache, CACHE_INTENT_NAMES, id, 0, 0);
}

Test(cache_recover, names_intent_drops_names_and_attributes, .timeout = 30)
{
    struct scene      s;
    struct cache_attr attr;
    uint64_t          child;
    scene_open(&s);
    die_and_settle(&s, die_with_names_intent);
    cr_assert_eq(name_find(s.f->cache, s.dir, "short", &child), -ENODATA);
    cr_assert_eq(cache_attr_get(s.f->cache, s.dir, &attr), -ENODATA);
    cr_assert_eq(cache_attr_get(s.f->cache, s.file, &attr), -ENODATA);
    scene_close(&s);
}

static void die_pinning(struct fixture_member *me, const struct scene *s)
{
    uint64_t arg;
    if (cache_name_pin(me->cache, s->dir, "short", 5, &arg))
        _exit(1);
}

/* Goal: pins of the dead go, and with them those of the living, who must bear it: a late unpin does nothing, a recall that comes back finds its record or says ESTALE. */
Test(cache_recover, pins_are_forgotten, .timeout = 30)
{
    struct scene s;
    uint64_t     arg, dir;
    char         name[256];
    size_t       length;
    scene_open(&s);
    cr_assert_eq(cache_name_pin(s.f->cache, s.dir, "short", 5, &arg), 0);
    die_and_settle(&s, die_pinning);
    cr_assert_eq(cache_name_get(s.f->cache, arg, &dir, name, &length), 0);
    while (cache_names_evict(s.f->cache, 64))
        ;
    pools_drain(s.f->cache);
    cr_assert_eq(cache_name_get(s.f->cache, arg, &dir, name, &length), -ESTALE);
    cr_assert_eq(name_fill(s.f->cache, s.dir, "short", s.child), 0);
    cache_name_unpin(s.f->cache, arg);
    check_clean(s.f->cache);
    scene_close(&s);
}

#ifndef __SANITIZE_THREAD__
/* Goal: a member that takes its slot back settles its own former life before it works. */
Test(cache_recover, former_life_is_settled_at_join, .timeout = 30)
{
    struct scene s;
    uint64_t     child;
    scene_open(&s);
    unsigned slot = member_dies(&s, die_writing);
    uint32_t incarnation = 0;
    seg_member_state(s.f->seg, slot, &incarnation);
    struct fixture_member *again = fixture_join(s.f);
    if (again->slot == slot) {
        cr_assert_eq(cache_recover(again->cache, again->slot), 0);
    } else {
        fixture_settle(again, slot, incarnation);
    }
    cr_assert_eq(name_find(again->cache, s.dir, "short", &child), -ENODATA);
    pools_drain(again->cache);
    check_clean(s.f->cache);
    scene_close(&s);
}
#endif

/* ---- any point ---- */

/* Everything that makes steps, at random. Without the locks of fs/ (one member at a time changes one directory and one file). */
static void work_at_random(struct cache *cache, const struct scene *s, uint64_t *random, unsigned rounds)
{
    static struct cache_fill  fill;
    static struct cache_write write;
    static struct cache_copy  copy;
    char                      name[256];
    uint64_t                  id, arg;
    uint8_t                   ref[CACHE_REF_BYTES];

    for (unsigned i = 0; i < rounds; i++) {
        unsigned n = tools_random(random) % 40;
        int      length = snprintf(name, sizeof name, "%0*u", n % 3 ? 10 : 240, n);
        uint64_t page = tools_random(random) % 300;
        struct cache_name_change change = {s->dir, name, (size_t)length, tools_random(random) % 2 ? s->child : CACHE_NAME_NEGATIVE};
        const uint64_t           dirs[2] = {s->dir, CACHE_ROOT_ID};
        struct cache_listing    *listing;
        struct cache_attr        attr = attr_of_size(300 * CACHE_PAGE);
        switch (tools_random(random) % 10) {
        case 0:
            ref_make(ref, 1000 + n);
            if (cache_inode_intern(cache, ref, true, &id, NULL) == 0)
                cache_known_drop(cache, id);
            break;
        case 1:
            ref_make(ref, 1000 + n);
            if (cache_inode_intern(cache, ref, false, &id, NULL) == 0)
                cache_inode_evict(cache, id);
            break;
        case 2:
            cache_name_fill(cache, s->dir, cache_version(cache, s->dir), name, (size_t)length, s->child);
            break;
        case 3:
            cache_names_publish(cache, &change, 1, dirs, NULL);
            break;
        case 4:
            if (cache_name_pin(cache, s->dir, name, (size_t)length, &arg) == 0)
                cache_name_unpin(cache, arg);
            cache_names_evict(cache, 4);
            break;
        case 5:
            if (cache_fill_begin(cache, s->file, page, 8, &fill) == 0) {
                fill_stamp(&fill, 5000);
                cache_fill_end(cache, &fill, (ssize_t)fill.count * CACHE_PAGE);
                cache_fill_release(cache, &fill);
            }
            break;
        case 6:
            if (cache_write_begin(cache, s->file, page, 5, &write) == 0) {
                for (unsigned k = 0; k < 5; k++)
                    if (write.data[k])
                        page_stamp(write.data[k], 5000 + page + k);
                cache_write_end(cache, &write, 5, &attr);
            }
            break;
        case 7:
            cache_drop(cache, s->file, page, 40, &attr);
            cache_evict(cache, 10);
            cache_chunks_evict(cache, 1);
            break;
        case 9:
            if (cache_copy_begin(cache, s->file, page, 8, s->file, (page + 100) % 300, &copy) == 0)
                cache_copy_end(cache, &copy, 0, 8, &attr);
            break;
        case 8:
            listing = cache_listing_begin(cache, s->dir);
            for (unsigned k = 0; listing && k < n * 10; k++) {
                struct cache_dirent entry = {.ino = k + 1, .cookie = k + 1, .length = (uint16_t)length};
                memcpy(entry.name, name, (size_t)length + 1);
                cache_listing_add(listing, &entry);
            }
            if (listing)
                cache_listing_end(listing, true);
            break;
        }
    }
}

static unsigned dead_find(struct fixture *f)
{
    for (unsigned slot = 0; slot < SEG_MEMBERS_MAX; slot++)
        if (seg_member_state(f->seg, slot, NULL) == SEG_ACTIVE && seg_member_is_dead(f->seg, slot))
            return slot;
    return SEG_MEMBERS_MAX;
}

/* A child that works until it is killed, or, where a slot is given, recovers that again and again. */
static pid_t child_start(struct scene *s, uint64_t seed, unsigned slot)
{
    int ready[2];
    cr_assert_eq(pipe(ready), 0);
    fflush(NULL);
    pid_t pid = fork();
    cr_assert_geq(pid, 0);
    if (pid == 0) {
        struct fixture_member *me = fixture_join(s->f);
        if (write(ready[1], "", 1) != 1)
            _exit(1);
        while (slot == SEG_MEMBERS_MAX)
            work_at_random(me->cache, s, &seed, 1);
        for (;;) {
            seg_recovery_lock(me->seg, false);
            cache_recover(me->cache, slot);
            seg_recovery_unlock(me->seg);
        }
    }
    char byte;
    cr_assert_eq(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    close(ready[1]);
    return pid;
}

static void child_kill(pid_t pid)
{
    int status = 0;
    kill(pid, SIGKILL);
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "the child ended by itself: %#x", status);
}

static void all_is_returned(struct scene *s)
{
    struct cache *cache = s->f->cache;
    check_clean(cache);
    while (cache_names_evict(cache, 64))
        ;
    cache_reclaim_inodes(cache, 64);
    cache_reclaim_inodes(cache, 64);
    frames_return(cache);
    pools_drain(cache);
    cr_assert_eq(pool_count_state(cache->names, SEG_POOL_FREE), seg_pool_count(cache->names) - 1);
    cr_assert_eq(pool_count_state(cache->inodes, SEG_POOL_FREE), seg_pool_count(cache->inodes) - 2 - 3);
    check_clean(cache);
}

/* Goal: killed anywhere, a member costs nothing for good, while another goes on working. Method: 150 children that do everything at random, each killed after a moment. */
Test(cache_recover, killed_anywhere, .timeout = 300)
{
    struct scene s;
    uint64_t     seed = 20240607;
    printf("seed %lu\n", seed);
    scene_open(&s);
    for (unsigned round = 0; round < 150; round++) {
        uint64_t child_seed = seed + round;
        pid_t    pid = child_start(&s, child_seed, SEG_MEMBERS_MAX);
        if (round % 2)
            work_at_random(s.f->cache, &s, &seed, 1 + tools_random(&seed) % 20);
        else
            nanosleep(&(struct timespec){.tv_nsec = 1 + tools_random(&seed) % 3000000}, NULL);
        child_kill(pid);
        unsigned slot = dead_find(s.f);
        if (slot < SEG_MEMBERS_MAX)
            settle(&s, slot); /* else the lock manager has done it already */
        check_clean(s.f->cache);
    }
    all_is_returned(&s);
    scene_close(&s);
}

/* Goal: recovery may die anywhere and be done again. Method: as above, then a second child recovers the first over and over and is killed in between; then both are recovered. */
Test(cache_recover, recoverer_is_killed_too, .timeout = 300)
{
    struct scene s;
    uint64_t     seed = 77;
    printf("seed %lu\n", seed);
    scene_open(&s);
    for (unsigned round = 0; round < 60; round++) {
        pid_t pid = child_start(&s, seed + round, SEG_MEMBERS_MAX);
        nanosleep(&(struct timespec){.tv_nsec = 1 + tools_random(&seed) % 2000000}, NULL);
        child_kill(pid);
        unsigned first = dead_find(s.f);
        cr_assert_lt(first, SEG_MEMBERS_MAX);
        uint32_t incarnation = 0;
        seg_member_state(s.f->seg, first, &incarnation);
        seg_member_fence(s.f->seg, first, incarnation);
        pid = child_start(&s, 0, first);
        nanosleep(&(struct timespec){.tv_nsec = 1 + tools_random(&seed) % 1500000}, NULL);
        child_kill(pid);
        unsigned second = dead_find(s.f);
        cr_assert_lt(second, SEG_MEMBERS_MAX);
        settle(&s, second);
        settle(&s, first);
        check_clean(s.f->cache);
    }
    all_is_returned(&s);
    scene_close(&s);
}
