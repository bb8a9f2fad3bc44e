/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of seg_chain.c: finding while others change, duplicates, broken chains, dead owners. */
#include <pthread.h>
#include <sched.h>

#include "seg_fixture.h"

TestSuite(seg_chain, .fini = fixture_remove, .timeout = 60);

static bool key_matches(const void *e, const void *key)
{
    const struct fixture_element *element = e;
    return atomic_load_explicit(&element->key, memory_order_relaxed) == *(const uint64_t *)key;
}

static bool never_matches(const void *e, const void *key)
{
    (void)e;
    (void)key;
    return false;
}

static uint32_t find(const struct seg_chain *chain, uint64_t key)
{
    seg_epoch_enter(chain->seg);
    uint32_t index = seg_chain_find(chain, key, key_matches, &key);
    seg_epoch_exit(chain->seg);
    return index;
}

/* Makes an element with this key and links it; -EEXIST leaves nothing behind. */
static int insert(struct seg_chain *chain, uint64_t key, uint32_t *index)
{
    uint32_t mine;
    while (!seg_pool_alloc(chain->pool, 1, &mine))
        sched_yield();
    fixture_fill(seg_pool_at(chain->pool, mine), key);
    int rc = seg_chain_insert(chain, key, mine, key_matches, &key, index);
    if (rc) {
        seg_pool_free(chain->pool, mine);
        return rc;
    }
    seg_pool_publish(chain->pool, mine);
    *index = mine;
    return 0;
}

static int collect(void *arg, uint64_t bucket, uint32_t index)
{
    (void)bucket;
    (void)index;
    ++*(uint32_t *)arg;
    return 0;
}

static int stop_at_once(void *arg, uint64_t bucket, uint32_t index)
{
    (void)arg;
    (void)bucket;
    (void)index;
    return 42;
}

/* Goal:   what is inserted is found, what is removed is not, from the head, the middle and the end of a chain.
 * Method: 60 keys in 16 buckets; remove in three orders; count by a walk. */
Test(seg_chain, insert_find_remove)
{
    struct seg      *seg = fixture_open(fixture_path(), 100);
    struct seg_pool *pool = fixture_pool(seg, true);
    struct seg_chain chain = fixture_chain(seg, pool);
    uint32_t         index[60], other, n;

    fixture_join(seg, 1);
    cr_assert_eq(find(&chain, 1), SEG_INDEX_NONE);
    for (int order = 0; order < 3; order++) {
        for (uint64_t key = 0; key < 60; key++)
            cr_assert_eq(insert(&chain, key, &index[key]), 0);
        for (uint64_t key = 0; key < 60; key++) {
            cr_assert_eq(find(&chain, key), index[key]);
            cr_assert_eq(insert(&chain, key, &other), -EEXIST);
            cr_assert_eq(other, index[key]);
        }
        cr_assert_eq(seg_chain_insert(&chain, 5, index[5], never_matches, NULL, &other), -EEXIST); /* linked already */
        n = 0;
        cr_assert_eq(seg_chain_walk(&chain, collect, &n), 0);
        cr_assert_eq(n, 60);
        cr_assert_eq(seg_chain_walk(&chain, stop_at_once, NULL), 42);
        for (uint64_t i = 0; i < 60; i++) {
            uint64_t key = order == 0 ? i : order == 1 ? 59 - i : i * 37 % 60;
            cr_assert(seg_pool_claim(pool, index[key]));
            cr_assert_eq(seg_chain_remove(&chain, key + 1, index[key]), -ENOENT); /* another bucket */
            cr_assert_eq(seg_chain_remove(&chain, key, index[key]), 0);
            cr_assert_eq(seg_chain_remove(&chain, key, index[key]), -ENOENT);
            cr_assert_eq(find(&chain, key), SEG_INDEX_NONE);
            seg_pool_retire(pool, index[key]);
        }
        n = 0;
        cr_assert_eq(seg_chain_walk(&chain, collect, &n), 0);
        cr_assert_eq(n, 0);
    }
    seg_pool_close(pool);
    seg_member_leave(seg);
    seg_close(seg);
}

/* Goal:   tables of the wrong shape and callers that are no members are refused.
 * Method: one each. */
Test(seg_chain, refusals)
{
    struct seg      *seg = fixture_open(fixture_path(), 100);
    struct seg_pool *pool = fixture_pool(seg, true);
    struct seg_chain chain = fixture_chain(seg, pool), bad;
    uint64_t         key = 1;
    uint32_t         found;

    cr_assert_eq(seg_chain_open(&bad, seg, pool, SEG_SECTION_NAME_BUCKETS, 8), -EINVAL);
    cr_assert_eq(seg_chain_open(&bad, seg, pool, SEG_SECTION_MEMBERS, 8), -EINVAL);
    cr_assert_eq(seg_chain_open(&bad, seg, pool, SEG_SECTION_CHUNK_BUCKETS, 4), -EINVAL);
    cr_assert_eq(seg_chain_open(&bad, seg, pool, SEG_SECTION_CHUNK_BUCKETS, 10), -EINVAL);
    cr_assert_eq(seg_chain_open(&bad, seg, pool, SEG_SECTION_CHUNK_BUCKETS, 64), -EINVAL);
    cr_assert_eq(seg_chain_insert(&chain, 1, 0, key_matches, &key, &found), -ESTALE);
    cr_assert_eq(seg_chain_remove(&chain, 1, 0), -ESTALE);
    fixture_join(seg, 1);
    cr_assert_eq(seg_chain_insert(&chain, 1, 100, key_matches, &key, &found), -EUCLEAN);
    seg_pool_close(pool);
    seg_member_leave(seg);
    seg_close(seg);
}

static void link_set(struct seg_pool *pool, uint32_t index, uint32_t link)
{
    struct fixture_element *element = seg_pool_at(pool, index);
    atomic_store(&element->link, link);
}

/* Goal:   chains that a peer broke end every walk soon, with "not found" or -EUCLEAN, the bucket is left free.
 * Method: cycles of length 1 to 9 behind tails of length 0 to 9; a link and a head out of range. */
Test(seg_chain, broken_chains)
{
    struct seg       *seg = fixture_open(fixture_path(), 100);
    struct seg_pool  *pool = fixture_pool(seg, true);
    struct seg_chain  chain = fixture_chain(seg, pool);
    _Atomic uint64_t *bucket = (_Atomic uint64_t *)seg_elem(&chain.buckets, 3);
    uint32_t          n, found, mine;
    uint64_t          absent = 3 + 1600;

    fixture_join(seg, 1);
    cr_assert_eq(seg_pool_alloc(pool, 1, &mine), 1);
    for (uint32_t cycle = 1; cycle < 10; cycle++) {
        for (uint32_t tail = 0; tail < 10; tail++) {
            for (uint32_t i = 0; i < tail + cycle; i++)
                link_set(pool, 40 + i, 40 + i + 2);
            link_set(pool, 40 + tail + cycle - 1, 40 + tail + 1);
            atomic_store(bucket, 41);
            n = 0;
            cr_assert_eq(seg_chain_walk(&chain, collect, &n), -EUCLEAN);
            cr_assert_leq(n, 4 * (tail + cycle) + 4);
            cr_assert_eq(find(&chain, absent), SEG_INDEX_NONE);
            cr_assert_eq(seg_chain_remove(&chain, 3, 99), -EUCLEAN);
            cr_assert_eq(seg_chain_insert(&chain, 3, mine, never_matches, NULL, &found), -EUCLEAN);
            cr_assert_eq(atomic_load(bucket), 41);
        }
    }
    link_set(pool, 40, 101);
    cr_assert_eq(seg_chain_walk(&chain, collect, &n), -EUCLEAN);
    cr_assert_eq(find(&chain, absent), SEG_INDEX_NONE);
    cr_assert_eq(seg_chain_remove(&chain, 3, 99), -EUCLEAN);
    atomic_store(bucket, UINT32_MAX);
    cr_assert_eq(seg_chain_walk(&chain, collect, &n), -EUCLEAN);
    cr_assert_eq(find(&chain, absent), SEG_INDEX_NONE);
    cr_assert_eq(seg_chain_insert(&chain, 3, mine, never_matches, NULL, &found), -EUCLEAN);
    cr_assert_eq(atomic_load(bucket), UINT32_MAX);
    seg_pool_close(pool);
    seg_member_leave(seg);
    seg_close(seg);
}

static void *clear_soon(void *arg)
{
    struct seg_chain *chain = arg;
    usleep(20000);
    seg_chain_recover(chain, 6); /* not the owner */
    usleep(20000);
    seg_chain_recover(chain, 5);
    return NULL;
}

/* Goal:   a bucket owned by a dead member is free after recovery, and a waiter then goes on; a fenced waiter gives up.
 * Method: write an owner into the bucket; insert while another thread recovers; insert while fenced. */
Test(seg_chain, dead_owner)
{
    struct seg       *seg = fixture_open(fixture_path(), 100);
    struct seg_pool  *pool = fixture_pool(seg, true);
    struct seg_chain  chain = fixture_chain(seg, pool);
    _Atomic uint64_t *bucket = (_Atomic uint64_t *)seg_elem(&chain.buckets, 7);
    pthread_t         thread;
    uint32_t          first, second;

    fixture_join(seg, 1);
    cr_assert_eq(insert(&chain, 7, &first), 0);
    atomic_store(bucket, atomic_load(bucket) | 6ull << 32 | 77ull << 40); /* slot 5, incarnation 77 */
    cr_assert_eq(find(&chain, 7), first);                                 /* readers do not care */
    cr_assert_eq(pthread_create(&thread, NULL, clear_soon, &chain), 0);
    cr_assert_eq(insert(&chain, 7 + FIXTURE_BUCKETS, &second), 0);
    pthread_join(thread, NULL);
    cr_assert_eq(find(&chain, 7), first);
    cr_assert_eq(find(&chain, 7 + FIXTURE_BUCKETS), second);
    cr_assert_eq(atomic_load(bucket), second + 1);
    seg_chain_recover(&chain, 5);
    seg_chain_recover(&chain, 64);
    cr_assert_eq(atomic_load(bucket), second + 1);

    atomic_store(bucket, atomic_load(bucket) | 6ull << 32);
    cr_assert(seg_member_fence(seg, 0, 1));
    cr_assert_eq(seg_chain_remove(&chain, 7, first), -ESTALE);
    cr_assert_eq(atomic_load(bucket), (second + 1) | 6ull << 32);
    seg_pool_close(pool);
    seg_member_leave(seg);
    seg_close(seg);
}

enum { KEYS = 48, STABLE = 16, CHANGERS = 3, LOOKERS = 2, CHANGES = 6000 };

struct bustle {
    struct seg_chain chain[FIXTURE_MAPPINGS];
    _Atomic int      changers;
    _Atomic uint32_t inserted[KEYS]; /* successful inserts minus successful removes */
    _Atomic uint32_t wrong;
};
struct bustle_thread {
    struct bustle *bustle;
    uint32_t       number;
};

static void *changer(void *arg)
{
    struct bustle_thread *me = arg;
    struct seg_chain     *chain = &me->bustle->chain[me->number % FIXTURE_MAPPINGS];
    uint64_t              seed = me->number + 11;

    for (int i = 0; i < CHANGES; i++) {
        uint64_t key = STABLE + fixture_random(&seed) % (KEYS - STABLE);
        uint32_t index;
        if (fixture_random(&seed) >> 63) {
            int rc = insert(chain, key, &index);
            if (rc == 0)
                atomic_fetch_add(&me->bustle->inserted[key], 1);
            else if (rc != -EEXIST)
                atomic_fetch_add(&me->bustle->wrong, 1);
            continue;
        }
        seg_epoch_enter(chain->seg); /* so that the index cannot become another element before it is claimed */
        index = seg_chain_find(chain, key, key_matches, &key);
        bool claimed = index != SEG_INDEX_NONE && seg_pool_claim(chain->pool, index);
        seg_epoch_exit(chain->seg);
        if (!claimed)
            continue;
        if (seg_chain_remove(chain, key, index))
            atomic_fetch_add(&me->bustle->wrong, 1);
        atomic_fetch_sub(&me->bustle->inserted[key], 1);
        seg_pool_retire(chain->pool, index);
    }
    atomic_fetch_sub(&me->bustle->changers, 1);
    return NULL;
}

static void *looker(void *arg)
{
    struct bustle_thread *me = arg;
    struct seg_chain     *chain = &me->bustle->chain[me->number % FIXTURE_MAPPINGS];
    uint64_t              seed = me->number + 99, seen;

    while (atomic_load(&me->bustle->changers)) {
        uint64_t key = fixture_random(&seed) % KEYS;
        seg_epoch_enter(chain->seg);
        uint32_t index = seg_chain_find(chain, key, key_matches, &key);
        if (index == SEG_INDEX_NONE ? key < STABLE
                                    : !fixture_read(seg_pool_at(chain->pool, index), &seen) || seen != key)
            atomic_fetch_add(&me->bustle->wrong, 1);
        seg_epoch_exit(chain->seg);
    }
    return NULL;
}

/* Goal:   under concurrent changes no key is there twice, nothing is lost, untouched keys are always found.
 * Method: 3 changers and 2 lookers on 48 keys in 16 buckets over 2 mappings (1 under ThreadSanitizer); then a count
 *         by key. */
Test(seg_chain, bustle)
{
    static struct bustle bustle = {.changers = CHANGERS};
    struct bustle_thread me[CHANGERS + LOOKERS];
    pthread_t            thread[CHANGERS + LOOKERS];
    uint32_t             index, n = 0, expected = 0;

    for (int i = 0; i < FIXTURE_MAPPINGS; i++) {
        struct seg *seg = fixture_open(fixture_path(), 200);
        fixture_join(seg, (uint8_t)(i + 1));
        bustle.chain[i] = fixture_chain(seg, fixture_pool(seg, true));
    }
    for (uint64_t key = 0; key < STABLE; key++)
        cr_assert_eq(insert(&bustle.chain[0], key, &index), 0);
    for (uint32_t i = 0; i < CHANGERS + LOOKERS; i++) {
        me[i] = (struct bustle_thread){&bustle, i};
        cr_assert_eq(pthread_create(&thread[i], NULL, i < CHANGERS ? changer : looker, &me[i]), 0);
    }
    for (uint32_t i = 0; i < CHANGERS + LOOKERS; i++)
        pthread_join(thread[i], NULL);
    cr_assert_eq(atomic_load(&bustle.wrong), 0);
    for (uint64_t key = STABLE; key < KEYS; key++) {
        uint32_t there = atomic_load(&bustle.inserted[key]);
        cr_assert_leq(there, 1);
        cr_assert_eq(find(&bustle.chain[0], key) != SEG_INDEX_NONE, there);
        expected += there;
    }
    cr_assert_eq(seg_chain_walk(&bustle.chain[0], collect, &n), 0);
    cr_assert_eq(n, expected + STABLE);
    for (int i = 0; i < FIXTURE_MAPPINGS; i++) {
        struct seg *seg = bustle.chain[i].seg;
        seg_pool_close(bustle.chain[i].pool);
        seg_member_leave(seg);
        seg_close(seg);
    }
}
