/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of work_bell.c: who is rung, who is not, and that nobody sleeps over work. */
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>

#include "work_fixture.h"

TestSuite(work_bell, .fini = fixture_remove, .timeout = 100);

enum { HANDOFFS = FIXTURE_TSAN ? 20000 : 100000 };

/* Sleeps without an end, so that a lost wake-up hangs the test instead of hiding behind the bounded sleep. */
static void wait_for_ever(struct work *work, _Atomic uint32_t *bell, unsigned timeout_ms)
{
    (void)work;
    (void)timeout_ms;
    syscall(SYS_futex, bell, FUTEX_WAIT, WORK_ASLEEP, NULL, NULL, 0);
}

static void ring_nobody(struct work *work, unsigned slot, _Atomic uint32_t *bell)
{
    (void)work;
    (void)slot;
    (void)bell;
}

static struct work_bell_ops endless_ops, silent_ops;

__attribute__((constructor)) static void make_ops(void)
{
    endless_ops = work_bell_futex;
    endless_ops.wait = wait_for_ever;
    silent_ops = work_bell_futex;
    silent_ops.ring = ring_nobody;
}

static uint64_t now_ms(void)
{
    return work_clock_ns() / 1000000;
}

static void wait_until_bell_is(const struct member *member, uint32_t state)
{
    while (atomic_load(&inbox_of(member)->bell) != state)
        usleep(100);
}

static void *sleep_once(void *arg)
{
    struct member *member = arg;
    work_sleep(member->work, WORK_SLEEP_MS);
    return NULL;
}

/* Goal:   a receiver that is awake is not rung; one that sleeps is rung by the first sender only.
 * Method: counters of rung and suppressed bells, the sleeper is real and sleeps without end. */
Test(work_bell, rung_and_suppressed)
{
    struct member    a = fixture_member(1), b = fixture_member(2);
    pthread_t        sleeper;
    struct work_item item;

    for (unsigned i = 0; i < 10; i++)
        post(&a, b.slot, i, 0, false);
    cr_assert_eq(counted(&a, SEG_COUNTER_doorbells_rung), 0);
    cr_assert_eq(counted(&a, SEG_COUNTER_doorbells_suppressed), 10);
    while (work_take(b.work, &item) == 1)
        ;
    b.work->bell_ops = &endless_ops;
    a.work->bell_ops = &silent_ops;
    pthread_create(&sleeper, NULL, sleep_once, &b);
    wait_until_bell_is(&b, WORK_ASLEEP);
    post(&a, b.slot, 1, 0, false); /* moves the bell, rings nobody: he may not have been asleep yet, so he might wake all the same */
    post(&a, b.slot, 2, 0, false);
    post(&a, b.slot, 2, 0, true);
    cr_assert_eq(counted(&a, SEG_COUNTER_doorbells_rung), 1);
    cr_assert_eq(counted(&a, SEG_COUNTER_doorbells_suppressed), 12);
    work_bell_ring_woken(b.work); /* what recovery does */
    pthread_join(sleeper, NULL);
    cr_assert_eq(atomic_load(&inbox_of(&b)->bell), WORK_BUSY);
    fixture_leave(&b);
    fixture_leave(&a);
}

/* Goal:   a sender that dies before it rings costs one bounded sleep, not for ever; recovery wakes the sleeper at once.
 * Method: a sender whose ring does nothing; then the same with a sleeper without end, and recovery of some dead slot. */
Test(work_bell, sender_dies_before_the_ring)
{
    struct member a = fixture_member(1), b = fixture_member(2);
    pthread_t     sleeper;

    a.work->bell_ops = &silent_ops;
    pthread_create(&sleeper, NULL, sleep_once, &b);
    wait_until_bell_is(&b, WORK_ASLEEP);
    post(&a, b.slot, 1, 0, false);
    pthread_join(sleeper, NULL); /* by itself */

    struct work_item item;
    cr_assert_eq(work_take(b.work, &item), 1);
    b.work->bell_ops = &endless_ops;
    pthread_create(&sleeper, NULL, sleep_once, &b);
    wait_until_bell_is(&b, WORK_ASLEEP);
    usleep(10000);
    post(&a, b.slot, 1, 0, false);
    cr_assert_eq(atomic_load(&inbox_of(&b)->bell), WORK_WOKEN);
    a.work->bell_ops = &work_bell_futex;
    work_recover(a.work, 40);
    pthread_join(sleeper, NULL);
    cr_assert_eq(work_take(b.work, &item), 1);
    fixture_leave(&b);
    fixture_leave(&a);
}

struct player {
    struct member *member;
    unsigned       to;
    bool           begins;
};

static void *play(void *arg)
{
    struct player   *player = arg;
    struct work_item item;
    uint64_t         next = player->begins ? 1 : 0;
    if (player->begins)
        cr_assert_eq(post(player->member, player->to, 0, 0, false), 0);
    while (next < HANDOFFS) {
        if (work_take(player->member->work, &item) != 1) {
            work_sleep(player->member->work, WORK_SLEEP_MS);
            continue;
        }
        cr_assert_eq(item.key, next);
        next += 2;
        if (item.key + 1 < HANDOFFS)
            cr_assert_eq(post(player->member, player->to, item.key + 1, 0, false), 0);
    }
    return NULL;
}

/* Goal:   no wake-up is lost in 100,000 hand-overs between two members that sleep whenever they have nothing.
 * Method: a ball goes to and fro; sleeps have no end, so a lost wake-up hangs. The thread sanitizer sees one mapping only: there, see below. */
Test(work_bell, no_lost_wake_up, .disabled = FIXTURE_TSAN)
{
    struct member a = fixture_member(1), b = fixture_member(2);
    struct player first = {.member = &a, .to = b.slot, .begins = true}, second = {.member = &b, .to = a.slot};
    pthread_t     thread[2];

    a.work->bell_ops = b.work->bell_ops = &endless_ops;
    pthread_create(&thread[0], NULL, play, &second);
    pthread_create(&thread[1], NULL, play, &first);
    pthread_join(thread[0], NULL);
    pthread_join(thread[1], NULL);
    uint64_t rung = counted(&a, SEG_COUNTER_doorbells_rung) + counted(&b, SEG_COUNTER_doorbells_rung);
    uint64_t suppressed = counted(&a, SEG_COUNTER_doorbells_suppressed) + counted(&b, SEG_COUNTER_doorbells_suppressed);
    cr_assert_eq(rung + suppressed, HANDOFFS);
    cr_assert_gt(rung, 0);
    assert_sound(&a);
    fixture_leave(&b);
    fixture_leave(&a);
}

static _Atomic uint64_t acknowledged;

static void *send_one_by_one(void *arg)
{
    struct member *member = arg;
    for (uint64_t i = 0; i < HANDOFFS; i++) {
        cr_assert_eq(post(member, member->slot, i, 0, i % 2), 0);
        while (atomic_load(&acknowledged) <= i)
            if (i % 16)
                sched_yield();
            else
                usleep(1); /* lets the receiver fall asleep */
    }
    return NULL;
}

/* Goal:   the same with one mapping, so that the thread sanitizer sees everything.
 * Method: one member's thread posts to its own inbox, waits for the answer, and so on; sleeps have no end. */
Test(work_bell, no_lost_wake_up_one_mapping)
{
    struct member    a = fixture_member(1);
    pthread_t        sender;
    struct work_item item;

    a.work->bell_ops = &endless_ops;
    pthread_create(&sender, NULL, send_one_by_one, &a);
    for (uint64_t next = 0; next < HANDOFFS;) {
        if (work_take(a.work, &item) != 1) {
            work_sleep(a.work, WORK_SLEEP_MS);
            continue;
        }
        cr_assert_eq(item.key, next);
        atomic_store(&acknowledged, ++next);
    }
    pthread_join(sender, NULL);
    fixture_leave(&a);
}

/* Goal:   an item for all wakes one sleeping member, whoever posts it; a kick wakes the own dispatcher, before or while it sleeps.
 * Method: sleeps without end. */
Test(work_bell, shared_queue_and_kick)
{
    struct member    a = fixture_member(1), b = fixture_member(2);
    pthread_t        sleeper;
    struct work_item item = ping(1, 1);

    b.work->bell_ops = &endless_ops;
    pthread_create(&sleeper, NULL, sleep_once, &b);
    wait_until_bell_is(&b, WORK_ASLEEP);
    cr_assert_eq(work_share(a.work, &item, false), 0);
    pthread_join(sleeper, NULL);
    cr_assert_eq(counted(&a, SEG_COUNTER_doorbells_rung), 1);
    work_sleep(b.work, WORK_SLEEP_MS); /* returns at once: the item is still there */
    cr_assert_eq(work_take_shared(b.work, &item), 1);

    pthread_create(&sleeper, NULL, sleep_once, &b);
    wait_until_bell_is(&b, WORK_ASLEEP);
    work_kick(b.work);
    pthread_join(sleeper, NULL);
    work_kick(b.work);
    work_sleep(b.work, WORK_SLEEP_MS); /* the kick came first */
    fixture_leave(&b);
    fixture_leave(&a);
}

/* Goal:   sleeps are bounded whatever the caller asks for.
 * Method: an empty queue, an hour. */
Test(work_bell, bounded)
{
    struct member a = fixture_member(1);
    uint64_t      start = now_ms();
    work_sleep(a.work, 3600 * 1000);
    cr_assert_lt(now_ms() - start, 30000);
    fixture_leave(&a);
}
