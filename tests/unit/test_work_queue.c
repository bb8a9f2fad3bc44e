/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of work_queue.c: order, merging, back-pressure, refusals, and many threads at once. */
#include "work_fixture.h"

TestSuite(work_queue, .fini = fixture_remove, .timeout = 60);

/* Goal:   items come out in the order they went in, whole, with the producer's slot, over many rounds of the ring.
 * Method: two members, batches of growing size. */
Test(work_queue, fifo)
{
    struct member    a = fixture_member(1), b = fixture_member(2);
    struct work_item item;
    uint64_t         next = 0, taken = 0;

    cr_assert_eq(work_take(b.work, &item), 0);
    for (unsigned batch = 1; batch <= WORK_INBOX_CELLS; batch++) {
        for (unsigned i = 0; i < batch; i++, next++)
            cr_assert_eq(post(&a, b.slot, next, ~next, false), 0);
        cr_assert_eq(work_depth(a.work, b.slot), batch);
        for (unsigned i = 0; i < batch; i++, taken++) {
            cr_assert_eq(work_take(b.work, &item), 1);
            cr_assert(item.kind == WORK_PING && item.from == a.slot && item.key == taken && item.arg == ~taken);
        }
        cr_assert_eq(work_take(b.work, &item), 0);
        cr_assert_eq(work_depth(a.work, b.slot), 0);
    }
    cr_assert_eq(work_take(a.work, &item), 0); /* nothing went astray */
    assert_sound(&a);
    fixture_leave(&b);
    fixture_leave(&a);
}

/* Goal:   an equal item that waits is merged with, one that differs or has been taken is not, nor when the caller does not want it.
 * Method: three keys, counted. */
Test(work_queue, merging)
{
    struct member    a = fixture_member(1), b = fixture_member(2);
    struct work_item item;

    for (unsigned i = 0; i < 300; i++) /* more often than the merge count of a cell can tell */
        for (unsigned key = 0; key < 3; key++)
            cr_assert_eq(post(&a, b.slot, key, 7, true), 0);
    cr_assert_eq(work_depth(a.work, b.slot), 3);
    cr_assert_eq(counted(&a, SEG_COUNTER_items_merged), 897);
    cr_assert_eq(post(&a, b.slot, 0, 8, true), 0); /* another arg */
    struct work_item other_kind = {.kind = WORK_PRUNE, .key = 0, .arg = 7};
    cr_assert_eq(work_post(a.work, b.slot, &other_kind, true), 0);
    cr_assert_eq(post(&a, b.slot, 1, 7, false), 0);
    cr_assert_eq(work_depth(a.work, b.slot), 6);
    assert_sound(&a);
    cr_assert_eq(work_take(b.work, &item), 1);
    cr_assert_eq(item.key, 0);
    cr_assert_eq(post(&a, b.slot, 0, 7, true), 0); /* its like has been taken: once more */
    cr_assert_eq(work_depth(a.work, b.slot), 6);
    const uint64_t keys[] = {1, 2, 0, 0, 1, 0};
    for (unsigned i = 0; i < 6; i++) {
        cr_assert_eq(work_take(b.work, &item), 1);
        cr_assert_eq(item.key, keys[i]);
    }
    cr_assert_eq(work_take(b.work, &item), 0);
    assert_sound(&a);
    fixture_leave(&b);
    fixture_leave(&a);
}

static void *take_later(void *arg)
{
    struct member   *member = arg;
    struct work_item item;
    usleep(20000);
    for (unsigned i = 0; i < 10; i++)
        cr_assert_eq(work_take(member->work, &item), 1);
    return NULL;
}

/* Goal:   a full inbox refuses and loses nothing; whoever waits gets in when there is room, or is told.
 * Method: fill it, time out, let the owner take some. */
Test(work_queue, back_pressure)
{
    struct member    a = fixture_member(1), b = fixture_member(2);
    struct work_item item = ping(1000, 0);
    pthread_t        taker;

    for (unsigned i = 0; i < WORK_INBOX_CELLS; i++)
        cr_assert_eq(post(&a, b.slot, i, 0, false), 0);
    assert_sound(&a);
    cr_assert_eq(post(&a, b.slot, 999, 0, true), -EAGAIN);
    cr_assert_eq(post(&a, b.slot, 5, 0, true), 0); /* merging needs no room */
    cr_assert_eq(counted(&a, SEG_COUNTER_inbox_full), 1);
    cr_assert_eq(work_post_wait(a.work, b.slot, &item, false, 5), -ETIMEDOUT);
    assert_sound(&a);
    pthread_create(&taker, NULL, take_later, &b);
    cr_assert_eq(work_post_wait(a.work, b.slot, &item, false, 20000), 0);
    pthread_join(taker, NULL);
    for (unsigned i = 10; i < WORK_INBOX_CELLS; i++) {
        cr_assert_eq(work_take(b.work, &item), 1);
        cr_assert_eq(item.key, i);
    }
    cr_assert_eq(work_take(b.work, &item), 1);
    cr_assert_eq(item.key, 1000);
    assert_sound(&a);
    fixture_leave(&b);
    fixture_leave(&a);
}

/* Goal:   nobody posts to a member that is not at work, nor as a member that has been fenced or has left.
 * Method: free, joining, fenced and parked slots on either side. */
Test(work_queue, refusals)
{
    struct member    a = fixture_member(1), b = fixture_join(2);
    struct work_item item;

    cr_assert_eq(post(&a, 63, 0, 0, false), -ESRCH);
    cr_assert_eq(post(&a, 64, 0, 0, false), -ESRCH);
    cr_assert_eq(post(&a, UINT32_MAX, 0, 0, false), -ESRCH);
    cr_assert_eq(post(&a, b.slot, 0, 0, false), -ESRCH);
    seg_member_activate(b.seg);
    cr_assert_eq(post(&a, b.slot, 0, 0, false), 0);
    cr_assert(seg_member_fence(b.seg, a.slot, seg_self_incarnation(a.seg)));
    cr_assert_eq(post(&a, b.slot, 1, 0, false), -EIO);
    cr_assert_eq(post(&a, b.slot, 0, 0, true), -EIO);
    item = ping(1, 1);
    cr_assert_eq(work_share(a.work, &item, true), -EIO);
    cr_assert_eq(post(&b, a.slot, 1, 0, false), -ESRCH);
    cr_assert_eq(work_take(b.work, &item), 1); /* posted before the fence */
    cr_assert_eq(work_take(b.work, &item), 0);
    cr_assert_eq(work_depth(b.work, 64), 0);
    fixture_leave(&b);
    fixture_leave(&a);
}

/* Goal:   the shared queue gives each item to exactly one taker, takes 1020 of them and then refuses.
 * Method: two members fill it and take by turns. */
Test(work_queue, shared_queue)
{
    struct member    a = fixture_member(1), b = fixture_member(2);
    struct work_item item = ping(0, 0);

    for (unsigned i = 0; i < WORK_SHARED_CELLS; i++) {
        item.key = i;
        cr_assert_eq(work_share(i % 2 ? a.work : b.work, &item, true), 0);
    }
    cr_assert_eq(work_share(a.work, &item, true), 0); /* merged with the newest */
    item.key = 9999;
    cr_assert_eq(work_share(a.work, &item, true), -EAGAIN);
    assert_sound(&a);
    for (unsigned i = 0; i < WORK_SHARED_CELLS; i++) {
        cr_assert_eq(work_take_shared(i % 3 ? a.work : b.work, &item), 1);
        cr_assert_eq(item.key, i);
    }
    cr_assert_eq(work_take_shared(a.work, &item), 0);
    assert_sound(&a);
    fixture_leave(&b);
    fixture_leave(&a);
}

enum { STRESS_PRODUCERS = 4, STRESS_ITEMS = 30000 };

struct producer {
    struct member *member;
    unsigned       number, to;
    bool           shared;
};

static void *produce(void *arg)
{
    const struct producer *producer = arg;
    for (uint64_t i = 0; i < STRESS_ITEMS; i++) {
        struct work_item item = ping(producer->number, i);
        int              rc;
        if (producer->shared)
            while ((rc = work_share(producer->member->work, &item, false)) == -EAGAIN)
                usleep(50);
        else
            rc = work_post_wait(producer->member->work, producer->to, &item, i % 8 == 0, 20000);
        cr_assert_eq(rc, 0, "item %llu: %d", (unsigned long long)i, rc);
    }
    return NULL;
}

/* Goal:   four producers and one taker lose nothing, double nothing, and keep each producer's order, through two mappings.
 * Method: numbered items; the check runs meanwhile and finds nothing. */
Test(work_queue, stress_inbox)
{
    struct member    a = fixture_member(1), b = a;
    struct producer  producer[STRESS_PRODUCERS];
    pthread_t        thread[STRESS_PRODUCERS];
    uint64_t         next[STRESS_PRODUCERS] = {0};
    struct work_item item;

    if (!FIXTURE_TSAN) /* it does not see through two mappings */
        b = fixture_member(2);
    for (unsigned i = 0; i < STRESS_PRODUCERS; i++) {
        producer[i] = (struct producer){.member = i % 2 ? &a : &b, .number = i, .to = b.slot};
        pthread_create(&thread[i], NULL, produce, &producer[i]);
    }
    for (uint64_t taken = 0; taken < STRESS_PRODUCERS * STRESS_ITEMS;) {
        int rc = work_take(b.work, &item);
        if (rc == 0) {
            work_sleep(b.work, WORK_SLEEP_MS);
            continue;
        }
        cr_assert_eq(rc, 1);
        cr_assert(item.key < STRESS_PRODUCERS && item.arg == next[item.key], "producer %llu: %llu instead of %llu",
                  (unsigned long long)item.key, (unsigned long long)item.arg, (unsigned long long)next[item.key]);
        next[item.key]++;
        if (++taken % 1000 == 0)
            assert_sound(&a);
    }
    for (unsigned i = 0; i < STRESS_PRODUCERS; i++)
        pthread_join(thread[i], NULL);
    cr_assert_eq(work_take(b.work, &item), 0);
    assert_sound(&a);
    if (!FIXTURE_TSAN)
        fixture_leave(&b);
    fixture_leave(&a);
}

static _Atomic uint64_t shared_sum, shared_count;

static void *consume_shared(void *arg)
{
    struct member   *member = arg;
    struct work_item item;
    uint64_t         last[STRESS_PRODUCERS] = {0};
    while (atomic_load(&shared_count) < 2ull * STRESS_ITEMS) {
        if (work_take_shared(member->work, &item) != 1) {
            work_sleep(member->work, 1);
            continue;
        }
        cr_assert(item.key < 2 && item.arg + 1 > last[item.key]); /* each taker sees a producer's items in order */
        last[item.key] = item.arg + 1;
        atomic_fetch_add(&shared_sum, item.arg);
        atomic_fetch_add(&shared_count, 1);
    }
    return NULL;
}

/* Goal:   several takers of the shared queue get each item exactly once.
 * Method: two producers, two takers, count and sum. */
Test(work_queue, stress_shared)
{
    struct member   a = fixture_member(1), b = a;
    pthread_t       thread[4];
    struct producer producer[2];

    if (!FIXTURE_TSAN)
        b = fixture_member(2);
    producer[0] = (struct producer){.member = &a, .number = 0, .shared = true};
    producer[1] = (struct producer){.member = &b, .number = 1, .shared = true};
    for (unsigned i = 0; i < 2; i++) {
        pthread_create(&thread[i], NULL, produce, &producer[i]);
        pthread_create(&thread[2 + i], NULL, consume_shared, i ? &b : &a);
    }
    for (unsigned i = 0; i < 4; i++)
        pthread_join(thread[i], NULL);
    cr_assert_eq(atomic_load(&shared_count), 2ull * STRESS_ITEMS);
    cr_assert_eq(atomic_load(&shared_sum), (uint64_t)STRESS_ITEMS * (STRESS_ITEMS - 1));
    assert_sound(&a);
    if (!FIXTURE_TSAN)
        fixture_leave(&b);
    fixture_leave(&a);
}

enum { MERGE_POSTS = 100000 };
static _Atomic uint64_t merge_value;

static void *merge_all_the_time(void *arg)
{
    struct member *member = arg;
    for (uint64_t i = 1; i <= MERGE_POSTS; i++) {
        atomic_store_explicit(&merge_value, i, memory_order_relaxed); /* what the item is about */
        while (post(member, member->slot, 1, 1, true) == -EAGAIN)
            usleep(50);
    }
    return NULL;
}

/* Goal:   a merged item is not lost: whoever takes it sees what its last poster wrote before posting.
 * Method: one value, changed and announced by one item that is merged nearly always; after the last take the value is the last one. */
Test(work_queue, stress_merge)
{
    struct member    a = fixture_member(1);
    pthread_t        thread;
    struct work_item item;
    uint64_t         seen = 0, takes = 0;

    pthread_create(&thread, NULL, merge_all_the_time, &a);
    while (seen < MERGE_POSTS) {
        if (work_take(a.work, &item) == 1) {
            seen = atomic_load_explicit(&merge_value, memory_order_relaxed);
            takes++;
        } else {
            work_sleep(a.work, WORK_SLEEP_MS);
        }
    }
    pthread_join(thread, NULL);
    cr_assert(takes + counted(&a, SEG_COUNTER_items_merged) <= MERGE_POSTS);
    while (work_take(a.work, &item) == 1)
        takes++;
    cr_assert_eq(takes + counted(&a, SEG_COUNTER_items_merged), MERGE_POSTS);
    assert_sound(&a);
    fixture_leave(&a);
}
