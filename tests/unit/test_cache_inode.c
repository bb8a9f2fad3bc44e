/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_cache_inode.c - inodes and attributes: interning, pins against eviction, generations, the root, reclaiming, the attributes' version.
 *
 * Goal of all: a node id means one node or nothing; who holds it does not lose it; who asked before a change does not cover it.
 */
#include "cache_tree_tools.h"

TestSuite(cache_inode, .fini = fixture_remove);

static struct fixture *small(uint64_t inodes)
{
    struct fixture_shape shape = {.frames = 256, .inodes = inodes, .names = 256, .chunks = 64};
    return fixture_open_shape(&shape);
}

/* Goal: a new segment has a root and no node 0; formatting again changes nothing. */
Test(cache_inode, format_makes_a_root_and_is_repeatable, .timeout = 20)
{
    struct fixture    *f = small(64);
    struct cache_usage before, after;
    cr_assert_not_null(cache_inode_at(f->cache, CACHE_ROOT_ID));
    cr_assert_null(cache_inode_at(f->cache, 0));
    cr_assert_null(cache_inode_at(f->cache, 5));
    cr_assert_null(cache_inode_at(f->cache, UINT32_MAX));
    node_get(f->cache, 1, true);
    cache_usage_get(f->cache, &before);
    cache_format(f->seg);
    nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL); /* the free count is cached for a moment */
    cache_usage_get(f->cache, &after);
    cr_assert_eq(before.inodes, 64);
    cr_assert_eq(after.inodes_free, 64 - 3);
    cr_assert_eq(after.frames_free, 255);
    check_clean(f->cache);
    fixture_close(f);
}

/* Goal: one reference, one node; all of its bytes count. */
Test(cache_inode, intern_finds_what_it_made, .timeout = 20)
{
    struct fixture *f = small(64);
    uint8_t         ref[CACHE_REF_BYTES], back[CACHE_REF_BYTES];
    uint64_t        a = 0, b = 0;
    bool            created = false;
    ref_make(ref, 7);
    cr_assert_eq(cache_inode_find(f->cache, ref, &a), -ENODATA); /* and makes none */
    cr_assert_eq(cache_inode_intern(f->cache, ref, false, &a, &created), 0);
    cr_assert(created);
    cr_assert_eq(cache_inode_find(f->cache, ref, &b), 0);
    cr_assert_eq(a, b);
    for (unsigned i = 0; i < CACHE_REF_BYTES; i++) {
        ref[i] ^= 0x80;
        for (unsigned again = 0; again < 2; again++) {
            uint64_t was = b;
            cr_assert_eq(cache_inode_intern(f->cache, ref, false, &b, &created), 0);
            cr_assert_neq(a, b, "byte %u", i);
            cr_assert_eq(created, !again, "byte %u", i);
            cr_assert(!again || b == was, "byte %u", i);
        }
        cr_assert_eq(cache_ref_get(f->cache, b, back), 0);
        cr_assert_eq(memcmp(ref, back, sizeof ref), 0, "byte %u", i);
        ref[i] ^= 0x80;
    }
    cr_assert_eq(cache_inode_intern(f->cache, ref, false, &b, &created), 0);
    cr_assert(!created);
    cr_assert_eq(a, b);
    cr_assert_eq(cache_ref_get(f->cache, a, back), 0);
    cr_assert_eq(memcmp(ref, back, sizeof ref), 0);
    cr_assert_eq(cache_ref_get(f->cache, a + (1ull << 32), back), -ESTALE);
    check_clean(f->cache);
    fixture_close(f);
}

/* Goal: an inode that is known, locked or the root stays; one that nobody knows goes with its pages, and its id is stale ever after. */
Test(cache_inode, evict_takes_only_what_nobody_holds, .timeout = 20)
{
    struct fixture *f = small(64);
    uint64_t        id = fixture_file(f->cache, 9, 100 * CACHE_PAGE), child;
    pages_fill(f->cache, id, 0, 40, 1000);
    cr_assert_eq(name_fill(f->cache, CACHE_ROOT_ID, "file", id), 0);
    cr_assert_eq(cache_inode_evict(f->cache, id), -EBUSY);
    cr_assert_eq(cache_inode_evict(f->cache, CACHE_ROOT_ID), -EBUSY);
    cache_known_drop(f->cache, id);

    struct lock_ref ref = cache_lock_ref(f->cache, id);
    cr_assert_eq(lock_write_acquire(cache_lock(f->cache), &ref, 0, NULL, NULL), 0);
    cr_assert_eq(cache_inode_evict(f->cache, id), -EBUSY);
    cr_assert_not_null(cache_inode_at(f->cache, id));
    lock_write_release(cache_lock(f->cache), &ref);

    uint64_t version = cache_version(f->cache, id);
    cr_assert_eq(cache_inode_evict(f->cache, id), 0);
    cr_assert_eq(cache_inode_evict(f->cache, id), -ESTALE);
    cr_assert_null(cache_inode_at(f->cache, id));
    cr_assert_null(cache_lock_ref(f->cache, id).words);
    cr_assert_eq(cache_version(f->cache, id), 0);
    cr_assert_eq(cache_known_set(f->cache, id), -ESTALE);
    cr_assert_eq(name_find(f->cache, CACHE_ROOT_ID, "file", &child), -ENODATA);
    frames_return(f->cache);
    pools_drain(f->cache);

    for (unsigned i = 0; i < 200; i++) { /* the slot comes round again: another id, a higher version */
        uint64_t next = node_get(f->cache, 10, false);
        cr_assert_neq(next, id);
        if (cache_id_index(next) == cache_id_index(id)) {
            cr_assert_gt(cache_version(f->cache, next), version);
            cr_assert_eq(cache_version(f->cache, next) & 1, 0);
        }
        cr_assert_eq(cache_inode_evict(f->cache, next), 0);
        pools_drain(f->cache);
    }
    cache_names_evict(f->cache, 10);
    check_clean(f->cache);
    fixture_close(f);
}

/* Goal: an evictor that has claimed an inode and will find it pinned takes it from nobody meanwhile; one that has won has won. Method: its steps by hand. */
Test(cache_inode, claimed_inode_stands_while_it_is_pinned, .timeout = 20)
{
    struct fixture     *f = small(64);
    uint64_t            id = node_get(f->cache, 1, true);
    struct cache_inode *inode = cache_inode_at(f->cache, id);
    struct cache_attr   attr = attr_of_size(1);
    cr_assert(seg_pool_claim(f->cache->inodes, cache_id_index(id)));
    cr_assert_eq(cache_inode_at(f->cache, id), inode);
    cr_assert_eq(cache_attr_publish(f->cache, id, &attr), 0);
    cr_assert_eq(cache_known_set(f->cache, id), 0);
    cache_known_drop(f->cache, id);
    cr_assert_null(cache_inode_at(f->cache, id));
    cr_assert_eq(cache_known_set(f->cache, id), -ESTALE);
    atomic_store(&inode->known, CACHE_KNOWN_DYING);
    cr_assert_null(cache_inode_at(f->cache, id));
    cr_assert_eq(cache_attr_publish(f->cache, id, &attr), -ESTALE);
    cr_assert_eq(cache_known_set(f->cache, id), -ESTALE);
    cache_known_drop(f->cache, id); /* a member that never knew it says that it forgets it */
    cr_assert_eq(atomic_load(&inode->known), CACHE_KNOWN_DYING);
    atomic_store(&inode->known, 0);
    seg_pool_unclaim(f->cache->inodes, cache_id_index(id));
    cr_assert_eq(cache_known_set(f->cache, id), 0);
    check_clean(f->cache);
    fixture_close(f);
}

/* Goal: all members agree on one root; a second directory is refused. */
Test(cache_inode, root_is_set_once, .timeout = 20)
{
    struct fixture *f = small(64);
    uint8_t         ref[CACHE_REF_BYTES], other[CACHE_REF_BYTES];
    uint64_t        id = 0;
    bool            created = true;
    ref_make(ref, 1000);
    ref_make(other, 1001);
    cr_assert_eq(cache_root_set(f->cache, ref), 0);
    cr_assert_eq(cache_root_set(f->cache, ref), 0);
    cr_assert_eq(cache_root_set(f->cache, other), -EXDEV);
    cr_assert_eq(cache_inode_intern(f->cache, ref, true, &id, &created), 0);
    cr_assert_eq(id, CACHE_ROOT_ID);
    cr_assert(!created);
    check_clean(f->cache);
    fixture_close(f);
}

struct pruned {
    unsigned count;
    uint64_t known;
};

static void prune_note(void *arg, uint64_t id, uint64_t known)
{
    struct pruned *pruned = arg;
    cr_assert_neq(id, CACHE_ROOT_ID);
    pruned->count++;
    pruned->known |= known;
}

/* Goal: a full table makes room by itself; when kernels know all of it, they are asked to forget, and the caller is told. */
Test(cache_inode, full_table_reclaims_or_prunes, .timeout = 60)
{
    struct fixture *f = small(64);
    struct pruned   pruned = {0};
    uint8_t         ref[CACHE_REF_BYTES];
    uint64_t        id, held[64];
    cache_prune_set(f->cache, prune_note, &pruned);
    for (uint64_t i = 0; i < 1000; i++)
        node_get(f->cache, i, false);
    cr_assert_eq(pruned.count, 0);
    for (uint64_t i = 0; i < 62; i++)
        held[i] = node_get(f->cache, 5000 + i, true);
    ref_make(ref, 9999);
    cr_assert_eq(cache_inode_intern(f->cache, ref, true, &id, NULL), -ENOSPC);
    cr_assert_gt(pruned.count, 0);
    cr_assert_eq(pruned.known, seg_self_bit(f->seg));
    for (uint64_t i = 0; i < 62; i++)
        cr_assert_not_null(cache_inode_at(f->cache, held[i]));
    cache_known_drop(f->cache, held[3]);
    cr_assert_eq(cache_inode_intern(f->cache, ref, true, &id, NULL), 0);
    cr_assert_null(cache_inode_at(f->cache, held[3]));
    check_clean(f->cache);
    fixture_close(f);
}

/* ---- attributes ---- */

/* Goal: a fetch that began before a change does not cover it. */
Test(cache_inode, attr_fill_is_refused_after_a_change, .timeout = 20)
{
    struct fixture   *f = small(64);
    uint64_t          id = node_get(f->cache, 1, true), version = cache_version(f->cache, id);
    struct cache_attr got, old = attr_of_size(1), new = attr_of_size(2), other = attr_of_size(3);
    cr_assert_geq(version, 2);
    cr_assert_eq(cache_attr_get(f->cache, id, &got), -ENODATA);
    cr_assert_eq(cache_attr_fill(f->cache, id, version, &old), 0);
    cr_assert_eq(cache_version(f->cache, id), version, "a fill adds to what is known and changes nothing");
    cr_assert_eq(cache_attr_fill(f->cache, id, version, &other), 0); /* what is there is as good */
    cr_assert_eq(cache_attr_get(f->cache, id, &got), 0);
    cr_assert_eq(got.size_bytes, 1);
    cr_assert_eq(cache_attr_publish(f->cache, id, &new), 0);
    cr_assert_eq(cache_version(f->cache, id), version + 2);
    cr_assert_eq(cache_attr_fill(f->cache, id, version, &old), -EAGAIN);
    cr_assert_eq(cache_attr_get(f->cache, id, &got), 0);
    cr_assert_eq(got.size_bytes, 2);
    cr_assert_eq(cache_attr_publish(f->cache, id, NULL), 0);
    cr_assert_eq(cache_attr_get(f->cache, id, &got), -ENODATA);
    cr_assert_eq(cache_attr_fill(f->cache, id, version + 2, &old), -EAGAIN);
    new.nlink = 0;
    cr_assert_eq(cache_attr_publish(f->cache, id, &new), 0);
    cr_assert(cache_inode_at(f->cache, id)->flags & CACHE_UNLINKED);
    cr_assert_eq(cache_attr_get(f->cache, id + (1ull << 32), &got), -ESTALE);
    cr_assert_eq(cache_attr_fill(f->cache, id + (1ull << 32), version, &old), -ESTALE);
    check_clean(f->cache);
    fixture_close(f);
}

struct attr_race {
    struct cache *cache;
    uint64_t      id;
    _Atomic bool  stop;
    _Atomic int   torn, reads;
};

static void attr_numbered(struct cache_attr *attr, uint64_t n)
{
    *attr = (struct cache_attr){.ino = n, .size_bytes = n, .blocks = n, .rdev = n, .mode = (uint32_t)n, .nlink = 1, .uid = (uint32_t)n,
                                .gid = (uint32_t)n, .blksize = (uint32_t)n, .atime = {.sec = (int64_t)n}, .btime = {.nsec = (uint32_t)n}};
}

static void *attr_reader(void *arg)
{
    struct attr_race *race = arg;
    struct cache_attr got, want;
    uint64_t          last = 0;
    while (!atomic_load(&race->stop)) {
        seg_epoch_enter(cache_seg(race->cache));
        int rc = cache_attr_get(race->cache, race->id, &got);
        seg_epoch_exit(cache_seg(race->cache));
        if (rc)
            continue;
        attr_numbered(&want, got.ino);
        if (memcmp(&want, &got, sizeof got) || got.ino < last)
            atomic_fetch_add(&race->torn, 1);
        last = got.ino;
        atomic_fetch_add(&race->reads, 1);
    }
    return NULL;
}

/* Goal: attributes are read whole and never go back. Method: two readers against a writer whose every field bears one number. */
Test(cache_inode, attr_reads_are_never_torn, .timeout = 60)
{
    struct fixture   *f = small(64);
    struct attr_race  race = {.cache = f->cache, .id = node_get(f->cache, 1, true)};
    struct cache_attr attr;
    pthread_t         thread[2];
    for (unsigned i = 0; i < 2; i++)
        thread_start(&thread[i], attr_reader, &race);
    for (uint64_t n = 1; n < 40000 || (atomic_load(&race.reads) < 1000 && n < 4000000); n++) {
        const uint64_t           dirs[2] = {race.id, CACHE_ROOT_ID};
        const struct cache_attr *attrs[2] = {&attr, NULL};
        attr_numbered(&attr, n);
        cr_assert_eq(n % 2 ? cache_attr_publish(f->cache, race.id, &attr) : cache_names_publish(f->cache, NULL, 0, dirs, attrs), 0);
    }
    atomic_store(&race.stop, true);
    for (unsigned i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
    cr_assert_eq(atomic_load(&race.torn), 0);
    cr_assert_gt(atomic_load(&race.reads), 0);
    check_clean(f->cache);
    fixture_close(f);
}

/* ---- races of pins against eviction ---- */

enum { RACE_THREADS = 4, RACE_REFS = 24, RACE_ROUNDS = 4000 };

struct pin_race {
    struct cache *cache;
    unsigned      number;
    bool          own_refs; /* one member for all threads: each pins its own references only, as fs/ orders its threads */
    _Atomic int  *wrong;
};

static void *pin_racer(void *arg)
{
    struct pin_race *race = arg;
    uint64_t         random = 88172645463325252ull + race->number, id = 0, other = 0;
    uint8_t          ref[CACHE_REF_BYTES], back[CACHE_REF_BYTES];

    for (unsigned round = 0; round < RACE_ROUNDS; round++) {
        uint64_t serial = tools_random(&random) % RACE_REFS;
        uint64_t victim = tools_random(&random) % RACE_REFS;
        if (race->own_refs)
            serial = serial / RACE_THREADS * RACE_THREADS + race->number;
        ref_make(ref, serial);
        if (cache_inode_intern(race->cache, ref, true, &id, NULL)) {
            atomic_fetch_add(race->wrong, 1);
            continue;
        }
        uint8_t victim_ref[CACHE_REF_BYTES];
        ref_make(victim_ref, victim);
        if (cache_inode_intern(race->cache, victim_ref, false, &other, NULL) == 0)
            cache_inode_evict(race->cache, other);
        cache_inode_evict(race->cache, id);
        /* still ours, still the same node, also for a second look-up */
        if (!cache_inode_at(race->cache, id) || cache_ref_get(race->cache, id, back) || memcmp(ref, back, sizeof ref) ||
            cache_known_set(race->cache, id) || cache_inode_intern(race->cache, ref, true, &other, NULL) || other != id)
            atomic_fetch_add(race->wrong, 1);
        struct cache_attr attr = attr_of_size(serial);
        if (cache_attr_publish(race->cache, id, &attr))
            atomic_fetch_add(race->wrong, 1);
        cache_known_drop(race->cache, id);
        if (round % 3 == 0)
            cache_inode_evict(race->cache, id);
    }
    return NULL;
}

static void pin_race_run(struct fixture *f, struct cache *cache[RACE_THREADS], bool own_refs)
{
    struct pin_race race[RACE_THREADS];
    pthread_t       thread[RACE_THREADS];
    _Atomic int     wrong = 0;
    for (unsigned i = 0; i < RACE_THREADS; i++) {
        race[i] = (struct pin_race){cache[i], i, own_refs, &wrong};
        thread_start(&thread[i], pin_racer, &race[i]);
    }
    for (unsigned i = 0; i < RACE_THREADS; i++)
        pthread_join(thread[i], NULL);
    cr_assert_eq(atomic_load(&wrong), 0);
    for (uint64_t serial = 0; serial < RACE_REFS; serial++)
        cr_assert_eq(cache_inode_evict(f->cache, node_get(f->cache, serial, false)), 0, "somebody still knows node %lu", serial);
    for (unsigned i = 0; i < RACE_THREADS; i++)
        pools_drain(cache[i]);
    cr_assert_eq(pool_count_state(f->cache->inodes, SEG_POOL_FREE), seg_pool_count(f->cache->inodes) - 2);
    check_clean(f->cache);
}

/* Goal: a pinned inode is never lost, there is never a second one for a reference, and nothing leaks. Method: four threads of one member intern, pin, drop and evict. */
Test(cache_inode, pins_hold_against_eviction_by_threads, .timeout = 120)
{
    struct fixture *f = small(64);
    struct cache   *cache[RACE_THREADS] = {f->cache, f->cache, f->cache, f->cache};
    pin_race_run(f, cache, true);
    fixture_close(f);
}

#ifndef __SANITIZE_THREAD__
/* The same by four members, who all pin the same nodes. */
Test(cache_inode, pins_hold_against_eviction_by_members, .timeout = 120)
{
    struct fixture *f = small(64);
    struct cache   *cache[RACE_THREADS] = {f->cache};
    for (unsigned i = 1; i < RACE_THREADS; i++)
        cache[i] = fixture_join(f)->cache;
    pin_race_run(f, cache, false);
    fixture_close(f);
}

/* Goal: two members see one node under one id, and each other's pins. */
Test(cache_inode, members_share_nodes, .timeout = 20)
{
    struct fixture        *f = small(64);
    struct fixture_member *b = fixture_join(f);
    uint64_t               id = node_get(f->cache, 77, true);
    struct cache_attr      attr = attr_of_size(123), got;
    cr_assert_eq(node_get(b->cache, 77, false), id);
    cr_assert_eq(cache_attr_publish(f->cache, id, &attr), 0);
    cr_assert_eq(cache_attr_get(b->cache, id, &got), 0);
    cr_assert_eq(got.size_bytes, 123);
    cr_assert_eq(cache_inode_evict(b->cache, id), -EBUSY);
    cr_assert_eq(cache_known_set(b->cache, id), 0);
    cache_known_drop(f->cache, id);
    cr_assert_eq(cache_inode_evict(f->cache, id), -EBUSY);
    cache_known_drop(b->cache, id);
    cr_assert_eq(cache_inode_evict(f->cache, id), 0);
    check_clean(f->cache);
    fixture_close(f);
}
#endif
