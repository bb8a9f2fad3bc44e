/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of lock_wait.c: no wake-up is lost, waits end for the reasons they should, the dead are recognised. */
#include <linux/futex.h>
#include <sys/syscall.h>

#include "lock_fixture.h"

TestSuite(lock_wait, .fini = fixture_remove, .timeout = 120);

/* ---- lost wake-ups ---- */
enum { HANDOFFS = 100000, PLAYERS = 3 };

static struct {
    _Atomic unsigned turn;
    unsigned         handoffs; /* plain: the turn orders it */
} ball;

struct player {
    struct fixture_member *me;
    unsigned               number;
    pthread_t              thread;
};

/* As lock_wait_for(), but with a sleep that is as good as unbounded: LOCK_POLL_MS would hide a wake-up that is lost. */
static void *play(void *arg)
{
    struct player  *p = arg;
    struct lock_ref ref = fixture_ref(0);
    for (unsigned i = 0; i < HANDOFFS / PLAYERS / FIXTURE_SLOW; i++) {
        for (;;) {
            uint32_t event = lock_wait_prepare(p->me->mgr, ref.words);
            if (atomic_load_explicit(&ball.turn, memory_order_acquire) == p->number)
                break;
            lock_wait_sleep(p->me->mgr, ref.words, event, 3600000);
        }
        ball.handoffs++;
        atomic_store_explicit(&ball.turn, (p->number + 1) % PLAYERS, memory_order_release);
        lock_notify(p->me->mgr, &ref);
    }
    return NULL;
}

/* Goal:   no wake-up is lost.
 * Method: three threads of two members pass a turn on 100,000 times, and sleep for an hour if they are not woken: the time limit is the loss. */
Test(lock_wait, no_wakeup_is_lost)
{
    struct fixture_member *a = fixture_open(), *b = fixture_join(1);
    struct player          p[PLAYERS];
    for (unsigned i = 0; i < PLAYERS; i++) {
        p[i] = (struct player){.me = i % 2 ? b : a, .number = i};
        cr_assert_eq(pthread_create(&p[i].thread, NULL, play, &p[i]), 0);
    }
    for (unsigned i = 0; i < PLAYERS; i++)
        pthread_join(p[i].thread, NULL);
    cr_assert_eq(ball.handoffs, HANDOFFS / PLAYERS / FIXTURE_SLOW * PLAYERS);
    fixture_close();
}

/* ---- lock_wait_for ---- */
struct wait {
    struct fixture_member *me;
    unsigned               timeout_ms;
    pthread_t              thread;
    _Atomic bool           ready, stop, done;
    _Atomic int            result;
};

static bool wait_ready(void *arg)
{
    return atomic_load_explicit(&((struct wait *)arg)->ready, memory_order_relaxed);
}

static bool wait_stop(void *arg)
{
    return atomic_load(&((struct wait *)arg)->stop);
}

static void *wait_run(void *arg)
{
    struct wait    *w = arg;
    struct lock_ref ref = fixture_ref(0);
    atomic_store(&w->result, lock_wait_for(w->me->mgr, &ref, wait_ready, w, w->timeout_ms, wait_stop, w));
    atomic_store(&w->done, true);
    return NULL;
}

static void wait_start(struct wait *w, struct fixture_member *me, unsigned timeout_ms)
{
    memset(w, 0, sizeof *w);
    w->me = me;
    w->timeout_ms = timeout_ms;
    cr_assert_eq(pthread_create(&w->thread, NULL, wait_run, w), 0);
}

static int wait_end(struct wait *w)
{
    pthread_join(w->thread, NULL);
    return atomic_load(&w->result);
}

/* Goal:   a wait ends when it is ready, even long after, when it is stopped, when its time is over, and when its member is fenced; before that it does not. */
Test(lock_wait, ends_for_its_reasons)
{
    struct fixture_member *a = fixture_open(), *b = fixture_join(1);
    struct lock_ref        ref = fixture_ref(0);
    struct wait            w[2];

    wait_start(&w[0], b, 0);
    wait_start(&w[1], b, 50);
    cr_assert_eq(wait_end(&w[1]), -ETIMEDOUT);
    cr_assert_not(atomic_load(&w[0].done)); /* no limit */
    atomic_store(&w[0].ready, true);
    lock_notify(a->mgr, &ref);
    cr_assert_eq(wait_end(&w[0]), 0);

    wait_start(&w[0], b, 0);
    fixture_until(atomic_load(&ref.words->waiters) & b->bit);
    atomic_store(&w[0].stop, true);
    cr_assert_eq(wait_end(&w[0]), -EINTR);

    wait_start(&w[0], b, 0);
    wait_start(&w[1], a, 0);
    cr_assert(seg_member_fence(a->seg, b->slot, seg_self_incarnation(b->seg)));
    cr_assert_eq(wait_end(&w[0]), -EIO);
    cr_assert_not(atomic_load(&w[1].done));
    atomic_store(&w[1].ready, true);
    cr_assert_eq(wait_end(&w[1]), 0); /* nobody wakes it: the sleep is bounded */
    fixture_close();
}

/* Goal:   waiters cost a waker nothing when there are none, and each wake moves the event once and takes the bits. */
Test(lock_wait, wakes_only_waiters)
{
    struct fixture_member *a = fixture_open(), *b = fixture_join(1);
    struct lock_ref        ref = fixture_ref(0);

    lock_notify(a->mgr, &ref);
    cr_assert_eq(atomic_load(&ref.words->event), 0);
    cr_assert_eq(lock_wait_prepare(b->mgr, ref.words), 0);
    cr_assert_eq(atomic_load(&ref.words->waiters), b->bit);
    lock_notify(a->mgr, &ref);
    cr_assert_eq(atomic_load(&ref.words->event), 1);
    cr_assert_eq(atomic_load(&ref.words->waiters), 0);
    lock_wait_sleep(b->mgr, ref.words, 0, 3600000); /* the event has moved: returns at once */
    fixture_close();
}

/* Goal:   waiters of another kernel are told through their inbox, those of this kernel are not; lock_event() passes it on to the futex.
 * Method: member 1 is marked as of another kernel. */
Test(lock_wait, other_kernels_are_told)
{
    struct fixture_member *a = fixture_open(), *b = fixture_join(1), *c = fixture_join(2);
    struct lock_ref        ref = fixture_ref(3);
    struct work_item       item;

    seg_member(a->seg, b->slot)->flags |= SEG_MEMBER_OTHER_KERNEL;
    lock_wait_prepare(b->mgr, ref.words);
    lock_wait_prepare(c->mgr, ref.words);
    lock_notify(a->mgr, &ref);
    cr_assert_eq(work_take(b->work, &item), 1);
    cr_assert_eq(item.kind, WORK_LOCK_EVENT);
    cr_assert_eq(item.key, ref.id);
    cr_assert_eq(work_take(c->work, &item), 0);
    uint32_t event = atomic_load(&ref.words->event);
    lock_event(b->mgr, ref.id);
    cr_assert_eq(atomic_load(&ref.words->event), event + 1);
    lock_event(b->mgr, 4711); /* gone */
    seg_member(a->seg, b->slot)->flags &= ~(uint32_t)SEG_MEMBER_OTHER_KERNEL;
    fixture_close();
}

/* Goal:   who is dead: a fenced one, one of a former life, one never seen; not a living one, nor oneself, nor a slot out of range. */
Test(lock_wait, knows_the_dead)
{
    struct fixture_member *a = fixture_open(), *b = fixture_join(1);
    uint32_t               incarnation = seg_self_incarnation(b->seg);

    cr_assert_not(lock_settle_if_dead(a->mgr, b->slot, incarnation));
    cr_assert_not(lock_settle_if_dead(a->mgr, a->slot, 99));
    cr_assert_not(lock_settle_if_dead(a->mgr, SEG_MEMBERS_MAX, 1));
    cr_assert_eq(atomic_load(&a->settled), 0);
    cr_assert(lock_settle_if_dead(a->mgr, b->slot, incarnation - 1));
    cr_assert(lock_settle_if_dead(a->mgr, 40, 1));
    cr_assert(seg_self_stands(b->seg), "a former life was meant");
    lock_settle(a->mgr, seg_who_make(b->slot, incarnation - 1));
    cr_assert(seg_self_stands(b->seg), "a former life was meant");
    lock_settle(a->mgr, seg_who_make(a->slot, seg_self_incarnation(a->seg)));
    cr_assert(seg_self_stands(a->seg), "never oneself");
    lock_settle(a->mgr, seg_who_make(b->slot, incarnation));
    cr_assert_not(seg_self_stands(b->seg));
    cr_assert(lock_settle_if_dead(a->mgr, b->slot, incarnation));
    fixture_close();
}
