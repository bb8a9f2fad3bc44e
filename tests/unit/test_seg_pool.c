/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of seg_pool.c: the life of elements, allocation by many, what the dead leave. */
#include <pthread.h>
#include <sched.h>

#include "seg_fixture.h"

TestSuite(seg_pool, .fini = fixture_remove, .timeout = 60);

static unsigned state_of(const struct seg_pool *pool, uint32_t index)
{
    return seg_pool_word_state(seg_pool_load(pool, index));
}

static uint32_t count_in(const struct seg_pool *pool, unsigned state)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < seg_pool_count(pool); i++)
        n += state_of(pool, i) == state;
    return n;
}

/* Goal:   the life of an element, step by step, for nodes and for frames.
 * Method: walk it, looking at the word; wrong steps on the way must change nothing. */
Test(seg_pool, life_of_an_element)
{
    struct seg *seg = fixture_open(fixture_path(), 100);
    fixture_join(seg, 1);
    for (int keep_aux = 0; keep_aux < 2; keep_aux++) {
        struct seg_pool *pool = fixture_pool(seg, keep_aux);
        uint32_t         i, held = keep_aux ? 0 : 1; /* aux: generation of a node, references of a frame */

        cr_assert_eq(seg_pool_alloc(pool, 1, &i), 1);
        cr_assert_eq(seg_pool_load(pool, i), seg_pool_word(SEG_POOL_PRIVATE, 0, 1, held));
        seg_pool_free(pool, i);
        held = keep_aux ? 1 : 0;
        cr_assert_eq(seg_pool_load(pool, i), seg_pool_word(SEG_POOL_FREE, 0, 0, held));
        seg_pool_free(pool, i);
        seg_pool_publish(pool, i);
        cr_assert_not(seg_pool_claim(pool, i));
        seg_pool_retire(pool, i);
        cr_assert_eq(seg_pool_load(pool, i), seg_pool_word(SEG_POOL_FREE, 0, 0, held));

        cr_assert_eq(seg_pool_alloc(pool, 1, &i), 1);
        held = seg_pool_word_aux(seg_pool_load(pool, i));
        cr_assert_not(seg_pool_claim(pool, i)); /* PRIVATE */
        seg_pool_publish(pool, i);
        cr_assert_eq(seg_pool_load(pool, i), seg_pool_word(SEG_POOL_LIVE, 0, 0, held));
        seg_pool_free(pool, i);
        seg_pool_retire(pool, i);
        seg_pool_unclaim(pool, i);
        cr_assert_eq(seg_pool_load(pool, i), seg_pool_word(SEG_POOL_LIVE, 0, 0, held));
        cr_assert(seg_pool_claim(pool, i));
        cr_assert_not(seg_pool_claim(pool, i));
        cr_assert_eq(seg_pool_load(pool, i), seg_pool_word(SEG_POOL_LIMBO, 0, 1, held));
        seg_pool_unclaim(pool, i);
        cr_assert_eq(state_of(pool, i), SEG_POOL_LIVE);

        seg_epoch_enter(seg);
        cr_assert(seg_pool_claim(pool, i));
        seg_pool_retire(pool, i);
        seg_pool_retire(pool, i); /* once is enough */
        seg_pool_free(pool, i);   /* it waits for its epoch */
        cr_assert_eq(seg_pool_limbo_count(pool), 1);
        cr_assert_eq(seg_pool_reap(pool), 0);
        cr_assert_eq(state_of(pool, i), SEG_POOL_LIMBO);
        seg_epoch_exit(seg);
        usleep(1000); /* scans are rate-limited */
        cr_assert_eq(seg_pool_reap(pool), 1);
        cr_assert_eq(seg_pool_limbo_count(pool), 0);
        cr_assert_eq(seg_pool_load(pool, i), seg_pool_word(SEG_POOL_FREE, 0, 0, keep_aux ? held + 1 : 0));

        cr_assert_eq(seg_pool_alloc(pool, 1, &i), 1); /* what the last scan found does not hold for later retirements */
        seg_pool_publish(pool, i);
        seg_epoch_enter(seg);
        cr_assert(seg_pool_claim(pool, i));
        seg_pool_retire(pool, i);
        cr_assert_eq(seg_pool_reap(pool), 0);
        usleep(1000);
        cr_assert_eq(seg_pool_reap(pool), 0);
        seg_epoch_exit(seg);
        usleep(1000);
        cr_assert_eq(seg_pool_reap(pool), 1);

        cr_assert_eq(seg_pool_alloc(pool, 1, &i), 1); /* claimed and not retired: nobody else can hold it */
        seg_pool_publish(pool, i);
        cr_assert(seg_pool_claim(pool, i));
        seg_pool_free(pool, i);
        cr_assert_eq(state_of(pool, i), SEG_POOL_FREE);
        seg_pool_close(pool);
        struct seg_array all = seg_section(seg, SEG_SECTION_CHUNKS);
        memset(all.base, 0, all.count * all.stride);
    }
    seg_member_leave(seg);
    seg_close(seg);
}

/* Goal:   indexes out of range and handles of the wrong shape are refused.
 * Method: each function once. */
Test(seg_pool, nonsense)
{
    struct seg      *seg = fixture_open(fixture_path(), 100);
    struct seg_pool *pool, *none = NULL;
    uint32_t         index[4];

    cr_assert_eq(seg_pool_open(seg, SEG_SECTION_FRAMES, SEG_SECTION_FRAME_HINTS, false, &none), -EINVAL);
    cr_assert_eq(seg_pool_open(seg, SEG_SECTION_MEMBERS, SEG_SECTION_FRAME_HINTS, false, &none), -EINVAL);
    cr_assert_null(none);
    pool = fixture_pool(seg, true);
    cr_assert_eq(seg_pool_alloc(pool, 4, index), 0); /* not a member */
    cr_assert_eq(seg_pool_recover(pool, 0, NULL, NULL), 0);
    fixture_join(seg, 1);
    cr_assert_eq(seg_pool_alloc(pool, 0, index), 0);
    const uint32_t bad[] = {100, 101, UINT32_MAX};
    for (int i = 0; i < 3; i++) {
        cr_assert_null(seg_pool_at(pool, bad[i]));
        cr_assert_eq(seg_pool_load(pool, bad[i]), 0);
        seg_pool_publish(pool, bad[i]);
        seg_pool_free(pool, bad[i]);
        seg_pool_retire(pool, bad[i]);
        seg_pool_unclaim(pool, bad[i]);
        cr_assert_not(seg_pool_claim(pool, bad[i]));
    }
    cr_assert_eq(seg_pool_recover(pool, 64, NULL, NULL), 0);
    seg_pool_close(pool);
    seg_member_leave(seg);
    seg_close(seg);
}

/* Goal:   everything can be allocated exactly once, in adjacent runs where there are any, also with hints that lie.
 * Method: take all in pieces; then again with every hint bit set, also those beyond the end. */
Test(seg_pool, all_of_it)
{
    enum { COUNT = 1000 };
    struct seg      *seg = fixture_open(fixture_path(), COUNT);
    struct seg_pool *pool = fixture_pool(seg, true);
    uint32_t         index[COUNT + 1], n;
    static bool      seen[COUNT];

    fixture_join(seg, 1);
    cr_assert_eq(seg_pool_free_count(pool), COUNT);
    cr_assert_eq(seg_pool_alloc(pool, 64, index), 64);
    for (uint32_t i = 1; i < 64; i++)
        cr_assert_eq(index[i], index[0] + i);
    cr_assert_eq(seg_pool_alloc(pool, 64, index + 64), 64);
    n = 128;
    while (n < COUNT) {
        uint32_t got = seg_pool_alloc(pool, 37, index + n);
        cr_assert_gt(got, 0);
        n += got;
    }
    cr_assert_eq(n, COUNT);
    struct seg_array hints = seg_section(seg, SEG_SECTION_CHUNK_HINTS);
    memset(hints.base, 0xff, hints.count * hints.stride);
    cr_assert_eq(seg_pool_alloc(pool, 1, index + COUNT), 0);
    for (uint32_t i = 0; i < COUNT; i++) {
        cr_assert_lt(index[i], COUNT);
        cr_assert_not(seen[index[i]]);
        seen[index[i]] = true;
    }
    usleep(3000);
    cr_assert_eq(seg_pool_free_count(pool), 0);
    for (uint32_t i = 0; i < COUNT; i += 2) /* no runs left */
        seg_pool_free(pool, i);
    usleep(3000);
    cr_assert_eq(seg_pool_free_count(pool), COUNT / 2);
    memset(hints.base, 0xff, hints.count * hints.stride);
    for (n = 0; n < COUNT / 2;) {
        uint32_t got = seg_pool_alloc(pool, COUNT, index);
        cr_assert_gt(got, 0);
        for (uint32_t i = 0; i < got; i++)
            cr_assert_eq(index[i] % 2, 0);
        n += got;
    }
    cr_assert_eq(n, COUNT / 2);
    seg_pool_close(pool);
    seg_member_leave(seg);
    seg_close(seg);
}

/* Goal:   a pool whose free elements all wait in the own limbo is not empty.
 * Method: retire all, allocate at once; with a reader inside: nothing. */
Test(seg_pool, alloc_reaps)
{
    struct seg      *seg = fixture_open(fixture_path(), 100);
    struct seg_pool *pool = fixture_pool(seg, false);
    uint32_t         index[100];

    fixture_join(seg, 1);
    cr_assert_eq(seg_pool_alloc(pool, 100, index), 100);
    seg_epoch_enter(seg);
    for (uint32_t i = 0; i < 100; i++) {
        seg_pool_publish(pool, i);
        cr_assert(seg_pool_claim(pool, i));
        seg_pool_retire(pool, i);
    }
    cr_assert_eq(seg_pool_alloc(pool, 100, index), 0);
    seg_epoch_exit(seg);
    cr_assert_eq(seg_pool_alloc(pool, 100, index), 100);
    seg_pool_close(pool);
    seg_member_leave(seg);
    seg_close(seg);
}

enum { HANDS = 4, ROUNDS = 8000, SHARED_COUNT = 300 };
static _Atomic uint32_t holder[SHARED_COUNT]; /* thread number + 1 */
static _Atomic uint32_t doubles;

struct hand {
    struct seg_pool *pool;
    uint32_t         number;
};

static void give_back(struct hand *hand, uint32_t index, uint64_t how)
{
    uint64_t key;
    if (!fixture_read(seg_pool_at(hand->pool, index), &key) || key % HANDS != hand->number)
        atomic_fetch_add(&doubles, 1);
    if (atomic_exchange(&holder[index], 0) != hand->number + 1)
        atomic_fetch_add(&doubles, 1);
    if (how % 2) {
        seg_pool_free(hand->pool, index);
    } else {
        seg_pool_publish(hand->pool, index);
        if (!seg_pool_claim(hand->pool, index))
            atomic_fetch_add(&doubles, 1);
        seg_pool_retire(hand->pool, index);
    }
}

static void *hand_thread(void *arg)
{
    struct hand *hand = arg;
    uint32_t     index[64], held = 0;
    uint64_t     seed = hand->number + 7;

    for (int round = 0; round < ROUNDS; round++) {
        uint32_t want = 1 + (uint32_t)(fixture_random(&seed) % 16);
        uint32_t got = want <= 64 - held ? seg_pool_alloc(hand->pool, want, index + held) : 0;
        for (uint32_t i = held; i < held + got; i++) {
            if (atomic_exchange(&holder[index[i]], hand->number + 1))
                atomic_fetch_add(&doubles, 1);
            fixture_fill(seg_pool_at(hand->pool, index[i]), (uint64_t)round * HANDS + hand->number);
        }
        held += got;
        uint32_t back = (uint32_t)(fixture_random(&seed) % (held + 1));
        while (back--)
            give_back(hand, index[--held], fixture_random(&seed) >> 32);
    }
    while (held)
        give_back(hand, index[--held], 1);
    return NULL;
}

/* Goal:   no element is ever in two hands, and none is lost.
 * Method: 4 threads over 2 mappings (1 under ThreadSanitizer) take and give back 300 elements at random, each
 *         writing what it holds; at the end all are FREE and hinted. */
Test(seg_pool, never_in_two_hands)
{
    struct seg      *seg[FIXTURE_MAPPINGS];
    struct seg_pool *pool[FIXTURE_MAPPINGS];
    struct hand      hand[HANDS];
    pthread_t        thread[HANDS];

    for (int i = 0; i < FIXTURE_MAPPINGS; i++) {
        seg[i] = fixture_open(fixture_path(), SHARED_COUNT);
        fixture_join(seg[i], (uint8_t)(i + 1));
        pool[i] = fixture_pool(seg[i], i % 2);
    }
    for (uint32_t i = 0; i < HANDS; i++) {
        hand[i] = (struct hand){pool[i % FIXTURE_MAPPINGS], i};
        cr_assert_eq(pthread_create(&thread[i], NULL, hand_thread, &hand[i]), 0);
    }
    for (uint32_t i = 0; i < HANDS; i++)
        pthread_join(thread[i], NULL);
    cr_assert_eq(atomic_load(&doubles), 0);
    usleep(1000);
    for (int i = 0; i < FIXTURE_MAPPINGS; i++) {
        seg_pool_reap(pool[i]);
        cr_assert_eq(seg_pool_limbo_count(pool[i]), 0);
    }
    cr_assert_eq(count_in(pool[0], SEG_POOL_FREE), SHARED_COUNT);
    usleep(3000);
    cr_assert_eq(seg_pool_free_count(pool[0]), SHARED_COUNT);
    for (int i = 0; i < FIXTURE_MAPPINGS; i++) {
        seg_pool_close(pool[i]);
        seg_member_leave(seg[i]);
        seg_close(seg[i]);
    }
}

static bool is_multiple_of(void *arg, uint32_t index)
{
    return index % *(uint32_t *)arg == 0;
}

/* Goal:   what a dead member held comes back: linked elements LIVE, others FREE; hints complete; twice is harmless.
 * Method: a member takes all 200, publishes some, claims some of these, and does no more; every third index counts
 *         as linked. */
Test(seg_pool, recover_the_dead)
{
    enum { COUNT = 200 };
    struct seg      *a = fixture_open(fixture_path(), COUNT), *b = fixture_open(fixture_path(), COUNT);
    struct seg_pool *pool = fixture_pool(a, true), *dead_pool = fixture_pool(b, true);
    uint32_t         index[COUNT], three = 3, linked = (COUNT + 2) / 3, mine;

    fixture_join(a, 1);
    fixture_join(b, 2);
    cr_assert_eq(seg_pool_alloc(pool, 1, &mine), 1);
    cr_assert_eq(seg_pool_alloc(dead_pool, COUNT, index), COUNT - 1);
    for (uint32_t i = 0; i < 100; i++)
        seg_pool_publish(dead_pool, i);
    for (uint32_t i = 50; i < 100; i++)
        if (i != mine)
            cr_assert(seg_pool_claim(dead_pool, i));
    seg_pool_retire(dead_pool, 51);

    struct seg_array hints = seg_section(a, SEG_SECTION_CHUNK_HINTS);
    memset(hints.base, 0, hints.count * hints.stride);
    seg_epoch_enter(a);
    uint32_t given_back = seg_pool_recover(pool, 1, is_multiple_of, &three);
    cr_assert_eq(count_in(pool, SEG_POOL_FREE), 0); /* a reader may still look at them */
    cr_assert_eq(seg_pool_limbo_count(pool), given_back);
    seg_epoch_exit(a);
    usleep(1000);
    cr_assert_eq(seg_pool_reap(pool), given_back);

    for (uint32_t i = 0; i < COUNT; i++) {
        bool live = i < 50 || i % 3 == 0;
        if (i == mine)
            cr_assert_eq(state_of(pool, i), SEG_POOL_PRIVATE);
        else
            cr_assert_eq(state_of(pool, i), live ? SEG_POOL_LIVE : SEG_POOL_FREE, "%u", i);
    }
    cr_assert_gt(given_back, 0);
    cr_assert_lt(given_back, COUNT - linked);
    cr_assert_eq(seg_pool_recover(pool, 1, is_multiple_of, &three), 0);
    cr_assert_eq(count_in(pool, SEG_POOL_FREE), given_back);
    cr_assert_eq(seg_pool_free_count(pool), given_back);
    uint32_t got = seg_pool_alloc(pool, COUNT, index);
    cr_assert_eq(got, given_back);
    seg_pool_close(pool);
    seg_member_leave(a);
    seg_close(a);
    seg_pool_close(dead_pool); /* only now: a dead process does not tidy */
    seg_close(b);
}

/* Goal:   a hint lost by a death between two steps comes back with recovery.
 * Method: clear all hints of a free pool; recover the own, clean slot. */
Test(seg_pool, recover_hints)
{
    struct seg      *seg = fixture_open(fixture_path(), 130);
    struct seg_pool *pool = fixture_pool(seg, false);
    struct seg_array hints = seg_section(seg, SEG_SECTION_CHUNK_HINTS);
    uint32_t         index[130];

    fixture_join(seg, 1);
    memset(hints.base, 0, hints.count * hints.stride);
    cr_assert_eq(seg_pool_alloc(pool, 130, index), 0);
    cr_assert_eq(seg_pool_recover(pool, 0, NULL, NULL), 0);
    cr_assert_eq(seg_pool_alloc(pool, 130, index), 130);
    cr_assert_eq(seg_pool_recover(pool, 0, NULL, NULL), 0); /* what this life holds stays */
    cr_assert_eq(count_in(pool, SEG_POOL_PRIVATE), 130);
    seg_pool_close(pool);
    seg_member_leave(seg);
    seg_close(seg);
}

/* Goal:   a fenced member that goes on changes nothing of others, and its old limbo is void after the next join.
 * Method: elements PRIVATE, claimed and retired; fenced and recovered by another, who takes all; every late step;
 *         join again, use the same elements, reap. */
Test(seg_pool, late_member)
{
    struct seg      *a = fixture_open(fixture_path(), 3), *b = fixture_open(fixture_path(), 3);
    struct seg_pool *late = fixture_pool(a, true), *pool = fixture_pool(b, true);
    uint32_t         index[3];

    fixture_join(a, 1);
    fixture_join(b, 2);
    cr_assert_eq(seg_pool_alloc(late, 3, index), 3);
    seg_pool_publish(late, 1);
    seg_pool_publish(late, 2);
    cr_assert(seg_pool_claim(late, 1));
    cr_assert(seg_pool_claim(late, 2));
    seg_pool_retire(late, 2);
    cr_assert(seg_member_fence(b, 0, 1));
    cr_assert_eq(seg_pool_recover(pool, 0, NULL, NULL), 3);
    cr_assert_eq(seg_pool_alloc(pool, 3, index), 3);

    for (uint32_t i = 0; i < 3; i++) {
        seg_pool_publish(late, i);
        seg_pool_unclaim(late, i);
        seg_pool_free(late, i);
        seg_pool_retire(late, i);
        cr_assert_eq(state_of(pool, i), SEG_POOL_PRIVATE);
        cr_assert_eq(seg_pool_word_slot(seg_pool_load(pool, i)), 1);
    }
    cr_assert_eq(seg_pool_limbo_count(late), 1); /* index 2 is still queued there */
    seg_member_leave(a);
    seg_member_park(b, 0);
    for (uint32_t i = 0; i < 3; i++)
        seg_pool_free(pool, i);
    fixture_join(a, 1);
    cr_assert_eq(seg_pool_alloc(late, 3, index), 3);
    seg_pool_publish(late, 2);
    cr_assert(seg_pool_claim(late, 2)); /* claimed, still linked */
    usleep(1000);
    cr_assert_eq(seg_pool_reap(late), 0);
    cr_assert_eq(state_of(pool, 2), SEG_POOL_LIMBO);
    seg_pool_close(late);
    seg_pool_close(pool);
    seg_member_leave(a);
    seg_member_leave(b);
    seg_close(a);
    seg_close(b);
}
