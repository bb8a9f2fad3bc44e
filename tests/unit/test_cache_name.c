/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_cache_name.c - names: finding, filling against changes, publishing over two directories, long names, pins, the clock.
 *
 * Goal of all: what a name is found to be was so at that moment, and nothing that was asked before a change is found after it.
 */
#include "cache_tree_tools.h"

TestSuite(cache_name, .fini = fixture_remove);

static struct fixture *small(uint64_t names)
{
    struct fixture_shape shape = {.frames = 512, .inodes = 256, .names = names, .chunks = 64};
    return fixture_open_shape(&shape);
}

static int publish_one(struct cache *cache, uint64_t dir, const char *name, uint64_t child)
{
    struct cache_name_change change = {.dir = dir, .name = name, .length = strlen(name), .child = child};
    struct cache_attr        attr = {.mode = 0040755, .nlink = 2, .size_bytes = 4096};
    const uint64_t           dirs[2] = {dir, 0};
    const struct cache_attr *attrs[2] = {&attr, NULL};
    return cache_names_publish(cache, &change, 1, dirs, attrs);
}

/* Goal: positive, negative and unknown names are told apart, also in different directories. */
Test(cache_name, fill_and_find, .timeout = 20)
{
    struct fixture *f = small(128);
    uint64_t        dir = dir_make(f->cache, 1), other = dir_make(f->cache, 2), a = node_get(f->cache, 3, true), child = 0;
    cr_assert_eq(name_find(f->cache, dir, "a", &child), -ENODATA);
    cr_assert_eq(name_fill(f->cache, dir, "a", a), 0);
    cr_assert_eq(name_fill(f->cache, dir, "none", CACHE_NAME_NEGATIVE), 0);
    cr_assert_eq(name_find(f->cache, dir, "a", &child), 0);
    cr_assert_eq(child, a);
    cr_assert_eq(name_find(f->cache, dir, "none", &child), 0);
    cr_assert_eq(child, CACHE_NAME_NEGATIVE);
    cr_assert_eq(name_find(f->cache, other, "a", &child), -ENODATA);
    cr_assert_eq(name_find(f->cache, dir, "", &child), -ENODATA);
    cr_assert_eq(cache_name_fill(f->cache, dir, cache_version(f->cache, dir), "", 0, a), -EINVAL);
    cr_assert_eq(name_fill(f->cache, dir + (1ull << 32), "a", a), -ESTALE);
    check_clean(f->cache);
    fixture_close(f);
}

/* Goal: names up to 255 bytes, told apart by their last byte, at every length where a part begins; 256 is refused. */
Test(cache_name, every_length, .timeout = 60)
{
    struct fixture *f = small(2048);
    uint64_t        dir = dir_make(f->cache, 1), a = node_get(f->cache, 3, true), b = node_get(f->cache, 4, true), child, found_dir;
    char            name[300], back[256];
    size_t          length;
    for (size_t n = 1; n <= 255; n++) {
        memset(name, 'x', n);
        name[n] = 0;
        cr_assert_eq(name_fill(f->cache, dir, name, a), 0, "length %zu", n);
        name[n - 1] = 'y';
        cr_assert_eq(name_find(f->cache, dir, name, &child), -ENODATA, "length %zu", n);
        cr_assert_eq(name_fill(f->cache, dir, name, b), 0);
        cr_assert_eq(name_find(f->cache, dir, name, &child), 0);
        cr_assert_eq(child, b);
        cr_assert_eq(cache_name_of(f->cache, b, &found_dir, back, &length), 0);
        cr_assert_eq(found_dir, dir);
        cr_assert_eq(length, n);
        cr_assert_str_eq(back, name);
        name[n - 1] = 'x';
        cr_assert_eq(name_find(f->cache, dir, name, &child), 0);
        cr_assert_eq(child, a);
    }
    memset(name, 'z', 256);
    cr_assert_eq(cache_name_fill(f->cache, dir, cache_version(f->cache, dir), name, 256, a), -EINVAL);
    check_clean(f->cache);
    fixture_close(f);
}

/* Goal: a look-up that asked the origin before a change cannot bring the old answer back after it. */
Test(cache_name, fill_is_refused_after_a_publish, .timeout = 20)
{
    struct fixture *f = small(128);
    uint64_t        dir = dir_make(f->cache, 1), a = node_get(f->cache, 3, true), child = 1;
    uint64_t        version = cache_version(f->cache, dir);
    cr_assert_eq(publish_one(f->cache, dir, "a", CACHE_NAME_NEGATIVE), 0);
    cr_assert_eq(cache_name_fill(f->cache, dir, version, "a", 1, a), -EAGAIN);
    cr_assert_eq(name_find(f->cache, dir, "a", &child), 0);
    cr_assert_eq(child, CACHE_NAME_NEGATIVE);
    cr_assert_eq(cache_name_fill(f->cache, dir, version, "b", 1, a), -EAGAIN, "also for another name of that directory");
    cr_assert_eq(name_find(f->cache, dir, "b", &child), -ENODATA);
    cr_assert_eq(cache_version(f->cache, dir), version + 2);
    check_clean(f->cache);
    fixture_close(f);
}

/* Goal: a rename over two directories is one step; listings go; attributes come; hints follow the node. */
Test(cache_name, publish_over_two_directories, .timeout = 20)
{
    struct fixture *f = small(128);
    uint64_t        from = dir_make(f->cache, 1), to = dir_make(f->cache, 2), a = node_get(f->cache, 3, true), child, dir;
    char            back[256];
    size_t          length;
    cr_assert_eq(name_fill(f->cache, from, "a", a), 0);
    cr_assert_eq(name_fill(f->cache, to, "b", CACHE_NAME_NEGATIVE), 0);
    pages_fill(f->cache, from, 0, 20, 1); /* stand for a listing */
    uint64_t version[2] = {cache_version(f->cache, from), cache_version(f->cache, to)};

    struct cache_name_change change[2] = {{from, "a", 1, CACHE_NAME_NEGATIVE}, {to, "b", 1, a}};
    struct cache_attr        attr = {.mode = 0040755, .nlink = 3, .size_bytes = 77}, got;
    const uint64_t           dirs[2] = {to, from}; /* higher index first: it orders them itself */
    const struct cache_attr *attrs[2] = {&attr, NULL};
    cr_assert_eq(cache_names_publish(f->cache, change, 2, dirs, attrs), 0);

    cr_assert_eq(name_find(f->cache, from, "a", &child), 0);
    cr_assert_eq(child, CACHE_NAME_NEGATIVE);
    cr_assert_eq(name_find(f->cache, to, "b", &child), 0);
    cr_assert_eq(child, a);
    cr_assert_eq(cache_version(f->cache, from), version[0] + 2);
    cr_assert_eq(cache_version(f->cache, to), version[1] + 2);
    cr_assert_eq(cache_attr_get(f->cache, to, &got), 0);
    cr_assert_eq(got.size_bytes, 77);
    cr_assert_eq(cache_attr_get(f->cache, from, &got), -ENODATA, "no attributes given: unknown from now on");
    pools_drain(f->cache);
    cr_assert_eq(frames_linked(f->cache), 0, "the listing is gone");
    cr_assert_eq(cache_name_of(f->cache, a, &dir, back, &length), 0);
    cr_assert_eq(dir, to);
    cr_assert_str_eq(back, "b");

    struct cache_name_change wrong = {a, "a", 1, a};
    cr_assert_eq(cache_names_publish(f->cache, &wrong, 1, dirs, attrs), -EINVAL, "a directory that is not locked");
    cr_assert_eq(publish_one(f->cache, to, "b", CACHE_NAME_UNKNOWN), 0);
    cr_assert_eq(name_find(f->cache, to, "b", &child), -ENODATA);
    cr_assert_eq(cache_name_of(f->cache, a, &dir, back, &length), -ENOENT);
    cr_assert_eq(atomic_load(&cache_inode_at(f->cache, a)->name), SEG_INDEX_NONE, "the hint is cleared");
    cr_assert_eq(publish_one(f->cache, to + (1ull << 32), "b", a), -ESTALE);
    check_clean(f->cache);
    fixture_close(f);
}

/* Goal: when names run out the clock makes room; the pool is never lost; pinned ones stay. */
Test(cache_name, clock_makes_room_and_spares_pins, .timeout = 60)
{
    struct fixture *f = small(64);
    uint64_t        dir = dir_make(f->cache, 1), a = node_get(f->cache, 3, true), arg, found_dir, child;
    char            name[256], back[256];
    size_t          length;
    memset(name, 'p', 200);
    name[200] = 0;
    cr_assert_eq(cache_name_pin(f->cache, dir, name, 200, &arg), 0);
    unsigned refused = 0;
    for (unsigned i = 0; i < 2000; i++) {
        char other[256];
        int  n = snprintf(other, sizeof other, "%0*u", i % 3 ? 8 : 180, i);
        int  rc = cache_name_fill(f->cache, dir, cache_version(f->cache, dir), other, (size_t)n, a);
        cr_assert(rc == 0 || rc == -ENOMEM, "%d", rc);
        refused += rc != 0;
    }
    cr_assert_lt(refused, 20);
    cr_assert_eq(cache_name_get(f->cache, arg, &found_dir, back, &length), 0);
    cr_assert_eq(found_dir, dir);
    cr_assert_eq(length, 200);
    cr_assert_str_eq(back, name);
    cr_assert_eq(name_find(f->cache, dir, name, &child), -ENODATA, "it carries the name and says nothing");
    cache_name_unpin(f->cache, arg);
    cache_name_unpin(f->cache, arg); /* one too many does no harm */
    while (cache_names_evict(f->cache, 64))
        ;
    pools_drain(f->cache);
    cr_assert_eq(pool_count_state(f->cache->names, SEG_POOL_FREE), 63);
    cr_assert_eq(cache_name_get(f->cache, arg, &found_dir, back, &length), -ESTALE);
    check_clean(f->cache);
    fixture_close(f);
}

/* Goal: nonsense in a record or an argument is found out: bounded, no crash. */
Test(cache_name, nonsense_is_bounded, .timeout = 20)
{
    struct fixture *f = small(64);
    uint64_t        dir = dir_make(f->cache, 1), arg, found_dir, child;
    char            name[256], back[256];
    size_t          length;
    memset(name, 'q', 250);
    name[250] = 0;
    cr_assert_eq(cache_name_pin(f->cache, dir, name, 250, &arg), 0);
    struct cache_name *record = seg_pool_at(f->cache->names, (uint32_t)(arg >> 32));
    uint32_t           part = record->part;

    cr_assert_eq(cache_name_get(f->cache, UINT64_MAX, &found_dir, back, &length), -ESTALE);
    cr_assert_eq(cache_name_get(f->cache, (uint64_t)(part - 1) << 32 | (uint32_t)arg, &found_dir, back, &length), -EUCLEAN, "a part is no name");
    record->part = 60000;
    cr_assert_eq(cache_name_get(f->cache, arg, &found_dir, back, &length), -EUCLEAN);
    cr_assert_eq(name_find(f->cache, dir, name, &child), -ENODATA);
    record->part = (uint32_t)(arg >> 32) + 1; /* a ring: the head is not a part */
    cr_assert_eq(cache_name_get(f->cache, arg, &found_dir, back, &length), -EUCLEAN);
    record->part = part;
    record->length = 60000;
    cr_assert_eq(cache_name_get(f->cache, arg, &found_dir, back, &length), -EUCLEAN);
    record->length = 249;
    cr_assert_eq(cache_name_get(f->cache, arg, &found_dir, back, &length), -EUCLEAN, "the hash knows better");
    record->length = 250;
    cr_assert_eq(cache_name_get(f->cache, arg, &found_dir, back, &length), 0);
    cache_name_unpin(f->cache, arg);
    check_clean(f->cache);
    fixture_close(f);
}

/* ---- races ---- */

enum { NAMES = 8, WRITER_ROUNDS = 3000 };

struct name_race {
    struct cache *cache;
    uint64_t      dir, node[2];
    _Atomic uint64_t origin[NAMES]; /* what the origin says now: a node, or negative */
    _Atomic bool  stop;
    _Atomic int   stale, fills, hits;
};

static void name_number(char name[200], unsigned n)
{
    snprintf(name, 200, "%0*u", n % 2 ? 4 : 150, n);
}

/* Looks up as fs/ does: version, ask the origin, fill. Refused fills start over. */
static void *name_filler(void *arg)
{
    struct name_race *race = arg;
    uint64_t          random = 4711 + (uintptr_t)&random, child;
    char              name[200];
    while (!atomic_load(&race->stop)) {
        unsigned n = tools_random(&random) % NAMES;
        name_number(name, n);
        if (name_find(race->cache, race->dir, name, &child) == 0) {
            atomic_fetch_add(&race->hits, 1);
            if (tools_random(&random) % 8 == 0)
                cache_names_evict(race->cache, 4);
            continue;
        }
        uint64_t version = cache_version(race->cache, race->dir);
        child = atomic_load(&race->origin[n]);
        if (tools_random(&random) % 4 == 0)
            sched_yield();
        if (cache_name_fill(race->cache, race->dir, version, name, strlen(name), child) == 0)
            atomic_fetch_add(&race->fills, 1);
    }
    return NULL;
}

/* Goal: after a change has been published, its name is never found to be what it was, whoever fills and evicts meanwhile.
 * Method: one writer changes origin and cache in turn and looks at once; fillers and the clock run in other threads. */
static void name_race_run(struct fixture *f, struct cache *filler[3])
{
    struct name_race race[3];
    pthread_t        thread[3];
    char             name[200];
    uint64_t         dir = dir_make(f->cache, 1), random = 99, child;
    uint64_t         node[2] = {node_get(f->cache, 3, true), node_get(f->cache, 4, true)};

    for (unsigned i = 0; i < 3; i++) {
        memset(&race[i], 0, sizeof race[i]);
        race[i].cache = filler[i];
        race[i].dir = dir;
        thread_start(&thread[i], name_filler, &race[i]);
    }
    int fills = 0;
    for (unsigned round = 0; round < WRITER_ROUNDS || (fills < 100 && round < 100 * WRITER_ROUNDS); round++) {
        unsigned n = tools_random(&random) % NAMES;
        uint64_t now = round % 3 ? node[round % 2] : CACHE_NAME_NEGATIVE;
        name_number(name, n);
        for (unsigned i = 0; i < 3; i++)
            atomic_store(&race[i].origin[n], now);
        cr_assert_eq(publish_one(f->cache, dir, name, now), 0);
        int rc = name_find(f->cache, dir, name, &child);
        cr_assert(rc == -ENODATA || (rc == 0 && child == now), "round %u: %lx instead of %lx", round, child, now);
        if (round % 16 == 0)
            cr_assert_eq(publish_one(f->cache, dir, name, CACHE_NAME_UNKNOWN), 0);
        for (fills = 0, n = 0; n < 3; n++)
            fills += atomic_load(&race[n].fills);
    }
    for (unsigned i = 0; i < 3; i++) {
        atomic_store(&race[i].stop, true);
        pthread_join(thread[i], NULL);
    }
    cr_assert_gt(fills, 0, "the fillers filled nothing");
    for (unsigned n = 0; n < NAMES; n++) { /* and what is found in the end is what the origin says */
        name_number(name, n);
        if (name_find(f->cache, dir, name, &child) == 0)
            cr_assert_eq(child, atomic_load(&race[0].origin[n]));
    }
    for (unsigned i = 0; i < 3; i++)
        pools_drain(filler[i]);
    check_clean(f->cache);
}

Test(cache_name, changes_win_over_fills_by_threads, .timeout = 120)
{
    struct fixture *f = small(48);
    struct cache   *filler[3] = {f->cache, f->cache, f->cache};
    name_race_run(f, filler);
    fixture_close(f);
}

#ifndef __SANITIZE_THREAD__
Test(cache_name, changes_win_over_fills_by_members, .timeout = 120)
{
    struct fixture *f = small(96);
    struct cache   *filler[3];
    for (unsigned i = 0; i < 3; i++)
        filler[i] = fixture_join(f)->cache;
    name_race_run(f, filler);
    fixture_close(f);
}

/* Goal: a recall's argument made by one member is read by another. */
Test(cache_name, pins_travel_between_members, .timeout = 20)
{
    struct fixture        *f = small(64);
    struct fixture_member *b = fixture_join(f);
    uint64_t               dir = dir_make(f->cache, 1), arg, again, found_dir;
    char                   back[256];
    size_t                 length;
    cr_assert_eq(cache_name_pin(f->cache, dir, "travel", 6, &arg), 0);
    cr_assert_eq(cache_name_pin(b->cache, dir, "travel", 6, &again), 0);
    cr_assert_eq(arg, again);
    cache_name_unpin(f->cache, arg);
    cache_names_evict(f->cache, 64);
    cr_assert_eq(cache_name_get(b->cache, arg, &found_dir, back, &length), 0, "the other pin holds it");
    cr_assert_str_eq(back, "travel");
    cache_name_unpin(b->cache, arg);
    check_clean(f->cache);
    fixture_close(f);
}
#endif

struct odd_watch {
    struct cache_inode *inode;
    _Atomic bool        stop;
    _Atomic int         seen;
};

static void *odd_watcher(void *arg)
{
    struct odd_watch *watch = arg;
    while (!atomic_load(&watch->stop))
        if (atomic_load(&watch->inode->version) & 1)
            atomic_fetch_add(&watch->seen, 1);
    return NULL;
}

/* Goal: a change of names is one version step, open while it is made. Method: another thread watches the version while a change drops a long listing, until it has seen it odd. */
Test(cache_name, version_is_odd_during_a_publish, .timeout = 120)
{
    struct fixture  *f = small(64);
    uint64_t         dir = dir_make(f->cache, 1);
    struct odd_watch watch = {.inode = cache_inode_at(f->cache, dir)};
    pthread_t        thread;
    thread_start(&thread, odd_watcher, &watch);
    for (unsigned round = 0; !atomic_load(&watch.seen) && round < 5000; round++) {
        pages_fill(f->cache, dir, 0, 300, 1);
        cr_assert_eq(publish_one(f->cache, dir, "a", CACHE_NAME_NEGATIVE), 0);
        cr_assert_eq(atomic_load(&watch.inode->version) & 1, 0);
    }
    atomic_store(&watch.stop, true);
    pthread_join(thread, NULL);
    cr_assert_gt(atomic_load(&watch.seen), 0);
    check_clean(f->cache);
    fixture_close(f);
}

/* ---- pins against the clock ---- */

struct pin_race {
    struct cache *cache;
    uint64_t      dir;
    unsigned      number;
    _Atomic int  *wrong;
};

static void *name_pinner(void *arg)
{
    struct pin_race *race = arg;
    uint64_t         random = 31 + race->number, pin, dir;
    char             name[200], back[256];
    size_t           length;
    for (unsigned round = 0; round < 3000; round++) {
        name_number(name, tools_random(&random) % NAMES);
        if (cache_name_pin(race->cache, race->dir, name, strlen(name), &pin))
            continue; /* no memory: the caller recalls all names instead */
        cache_names_evict(race->cache, 8);
        if (cache_name_get(race->cache, pin, &dir, back, &length) || dir != race->dir || strcmp(back, name))
            atomic_fetch_add(race->wrong, 1);
        cache_name_unpin(race->cache, pin);
    }
    return NULL;
}

/* Goal: a pinned record keeps its bytes until it is unpinned, while the clock runs wild in a pool far too small. */
Test(cache_name, pins_hold_against_the_clock, .timeout = 120)
{
    struct fixture *f = small(20);
    struct pin_race race[4];
    pthread_t       thread[4];
    _Atomic int     wrong = 0;
    uint64_t        dir = dir_make(f->cache, 1);
    for (unsigned i = 0; i < 4; i++) {
        race[i] = (struct pin_race){f->cache, dir, i, &wrong};
        thread_start(&thread[i], name_pinner, &race[i]);
    }
    for (unsigned i = 0; i < 4; i++)
        pthread_join(thread[i], NULL);
    cr_assert_eq(atomic_load(&wrong), 0);
    while (cache_names_evict(f->cache, 64))
        ;
    pools_drain(f->cache);
    cr_assert_eq(pool_count_state(f->cache->names, SEG_POOL_FREE), 19);
    check_clean(f->cache);
    fixture_close(f);
}
