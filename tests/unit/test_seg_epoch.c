/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of seg_epoch.c: what readers hold is not used again, and slots go round among threads. */
#include <pthread.h>
#include <sched.h>

#include "seg_fixture.h"
#include "seg_internal.h"

TestSuite(seg_epoch, .fini = fixture_remove, .timeout = 60);

/* Goal:   enter and exit publish and withdraw, nest, and do nothing without a membership.
 * Method: look at the own slot and at seg_epoch_oldest() at each step. */
Test(seg_epoch, enter_and_exit)
{
    struct seg *seg = fixture_open(fixture_path(), 64);

    seg_epoch_enter(seg);
    cr_assert(seg_epoch_inside(seg));
    cr_assert_eq(seg_epoch_oldest(seg), UINT64_MAX);
    seg_epoch_exit(seg);
    fixture_join(seg, 1);
    cr_assert_not(seg_epoch_inside(seg));

    cr_assert_eq(seg_epoch_stamp(seg), 1);
    cr_assert_eq(seg_epoch_stamp(seg), 2);
    seg_epoch_enter(seg);
    cr_assert_eq(seg_epoch_oldest(seg), 3);
    cr_assert_eq(seg_epoch_stamp(seg), 3);
    seg_epoch_enter(seg);
    cr_assert_eq(seg_epoch_oldest(seg), 3); /* the outer one counts */
    seg_epoch_exit(seg);
    cr_assert(seg_epoch_inside(seg));
    cr_assert_eq(seg_epoch_oldest(seg), 3);
    seg_epoch_exit(seg);
    cr_assert_eq(seg_epoch_oldest(seg), UINT64_MAX);

    seg_epoch_enter(seg);
    seg_epoch_clear(seg, 0);
    cr_assert_eq(seg_epoch_oldest(seg), UINT64_MAX);
    seg_epoch_exit(seg);
    seg_member_leave(seg);
    seg_close(seg);
}

/* Goal:   two segments in one thread keep their epochs apart.
 * Method: inside one, not inside the other; of two memberships the older epoch decides. */
Test(seg_epoch, two_memberships)
{
    struct seg *a = fixture_open(fixture_path(), 64), *b = fixture_open(fixture_path(), 64);
    fixture_join(a, 1);
    fixture_join(b, 2);
    seg_epoch_enter(a);
    cr_assert_not(seg_epoch_inside(b));
    seg_epoch_stamp(b);
    seg_epoch_enter(b);
    cr_assert_eq(seg_epoch_oldest(b), 1);
    seg_epoch_exit(a);
    cr_assert_eq(seg_epoch_oldest(a), 2);
    seg_epoch_exit(b);
    cr_assert_eq(seg_epoch_oldest(a), UINT64_MAX);
    seg_member_leave(b);
    seg_member_leave(a);
    seg_close(b);
    seg_close(a);
}

struct crowd {
    struct seg        *seg;
    _Atomic int        inside, inside_max;
    pthread_barrier_t *barrier;
};

static void *crowd_thread(void *arg)
{
    struct crowd *crowd = arg;
    pthread_barrier_wait(crowd->barrier);
    for (int i = 0; i < 3; i++) {
        seg_epoch_enter(crowd->seg);
        int inside = atomic_fetch_add(&crowd->inside, 1) + 1;
        if (inside > atomic_load(&crowd->inside_max))
            atomic_store(&crowd->inside_max, inside);
        sched_yield();
        atomic_fetch_sub(&crowd->inside, 1);
        seg_epoch_exit(crowd->seg);
    }
    return NULL;
}

/* Goal:   slots go from thread to thread, and more than 64 threads wait for one rather than share.
 * Method: 10 generations of 30 threads; then 80 threads that start together. */
Test(seg_epoch, slots_go_round)
{
    enum { MANY = 80 };
    struct seg       *seg = fixture_open(fixture_path(), 64);
    pthread_t         thread[MANY];
    pthread_barrier_t barrier;
    struct crowd      crowd = {.seg = seg, .barrier = &barrier};

    fixture_join(seg, 1);
    for (int generation = 0; generation < 11; generation++) {
        int count = generation < 10 ? 30 : MANY;
        pthread_barrier_init(&barrier, NULL, (unsigned)count);
        for (int i = 0; i < count; i++)
            cr_assert_eq(pthread_create(&thread[i], NULL, crowd_thread, &crowd), 0);
        for (int i = 0; i < count; i++)
            pthread_join(thread[i], NULL);
        pthread_barrier_destroy(&barrier);
    }
    cr_assert_leq(atomic_load(&crowd.inside_max), SEG_THREADS_MAX);
    cr_assert_eq(seg_epoch_oldest(seg), UINT64_MAX);
    seg_member_leave(seg);
    seg_close(seg);
}

struct keeper {
    struct seg  *seg;
    _Atomic bool kept, seen, go;
};

static void *keeper_thread(void *arg)
{
    struct keeper *keeper = arg;
    seg_epoch_keep(keeper->seg);
    seg_epoch_keep(keeper->seg); /* it is the same slot */
    for (int i = 0; i < 3; i++) {
        seg_epoch_enter(keeper->seg);
        seg_epoch_enter(keeper->seg);
        seg_epoch_exit(keeper->seg);
        seg_epoch_exit(keeper->seg);
    }
    atomic_store(&keeper->kept, true);
    while (!atomic_load(&keeper->go))
        sched_yield();
    return NULL;
}

/* Goal:   the outermost exit gives the slot back, unless the thread keeps it: then the thread's end does. A kept slot holds no epoch between exit and enter.
 * Method: look at the bitmap of slots; all but one are kept by threads that only wait, and 80 others go through the last one; then the keepers end. */
Test(seg_epoch, kept_slots_end_with_their_threads)
{
    enum { KEEPERS = SEG_THREADS_MAX - 1, OTHERS = 80 };
    static struct keeper keeper[KEEPERS];
    struct seg          *seg = fixture_open(fixture_path(), 64);
    pthread_t            keeping[KEEPERS], other[OTHERS];
    pthread_barrier_t    barrier;
    struct crowd         crowd = {.seg = seg, .barrier = &barrier};

    fixture_join(seg, 1);
    seg_epoch_enter(seg);
    cr_assert_eq(atomic_load(&seg->thread_bits), 1);
    seg_epoch_enter(seg);
    seg_epoch_exit(seg);
    cr_assert_eq(atomic_load(&seg->thread_bits), 1, "not the outermost exit");
    seg_epoch_exit(seg);
    cr_assert_eq(atomic_load(&seg->thread_bits), 0);

    for (int i = 0; i < KEEPERS; i++) {
        keeper[i].seg = seg;
        cr_assert_eq(pthread_create(&keeping[i], NULL, keeper_thread, &keeper[i]), 0);
        while (!atomic_load(&keeper[i].kept))
            sched_yield();
        cr_assert_eq(atomic_load(&seg->thread_bits), UINT64_MAX >> (SEG_THREADS_MAX - 1 - i));
    }
    cr_assert_eq(seg_epoch_oldest(seg), UINT64_MAX);
    pthread_barrier_init(&barrier, NULL, OTHERS);
    for (int i = 0; i < OTHERS; i++)
        cr_assert_eq(pthread_create(&other[i], NULL, crowd_thread, &crowd), 0);
    for (int i = 0; i < OTHERS; i++)
        pthread_join(other[i], NULL);
    pthread_barrier_destroy(&barrier);
    cr_assert_eq(atomic_load(&crowd.inside_max), 1);
    cr_assert_eq(atomic_load(&seg->thread_bits), UINT64_MAX >> 1);
    for (int i = 0; i < KEEPERS; i++) {
        atomic_store(&keeper[i].go, true);
        pthread_join(keeping[i], NULL);
    }
    cr_assert_eq(atomic_load(&seg->thread_bits), 0);
    seg_member_leave(seg);
    seg_close(seg);
}

enum { CELLS = 4, READERS = 3, WRITERS = 2, WRITES = 15000 };

struct stress {
    struct seg      *seg[FIXTURE_MAPPINGS];
    struct seg_pool *pool[FIXTURE_MAPPINGS];
    _Atomic uint32_t cell[CELLS]; /* index + 1 of the element on show */
    _Atomic int      writers;
    _Atomic uint64_t torn, reads, written;
};
struct stress_thread {
    struct stress *stress;
    unsigned       number;
};

static void *stress_reader(void *arg)
{
    struct stress_thread *me = arg;
    struct stress        *stress = me->stress;
    struct seg           *seg = stress->seg[me->number % FIXTURE_MAPPINGS];
    struct seg_pool      *pool = stress->pool[me->number % FIXTURE_MAPPINGS];
    uint64_t              seed = me->number + 1;

    while (atomic_load(&stress->writers)) {
        seg_epoch_enter(seg);
        uint32_t link = atomic_load_explicit(&stress->cell[fixture_random(&seed) % CELLS], memory_order_acquire);
        if (link) {
            const struct fixture_element *element = seg_pool_at(pool, link - 1);
            uint64_t                      before, after;
            bool                          whole = fixture_read(element, &before);
            if (fixture_random(&seed) % 8 == 0)
                sched_yield(); /* not waiting for anything: just slow */
            whole = fixture_read(element, &after) && whole;
            if (!whole || before != after)
                atomic_fetch_add(&stress->torn, 1);
            atomic_fetch_add_explicit(&stress->reads, 1, memory_order_relaxed);
        }
        seg_epoch_exit(seg);
    }
    return NULL;
}

static void *stress_writer(void *arg)
{
    struct stress_thread *me = arg;
    struct stress        *stress = me->stress;
    struct seg_pool      *pool = stress->pool[me->number % FIXTURE_MAPPINGS];
    uint64_t              seed = me->number + 100;

    for (uint64_t n = 1; n <= WRITES;) {
        uint32_t index;
        if (!seg_pool_alloc(pool, 1, &index)) {
            sched_yield();
            continue;
        }
        fixture_fill(seg_pool_at(pool, index), n++ << 8 | me->number);
        seg_pool_publish(pool, index);
        while (n == WRITES / 2 && atomic_load(&stress->reads) <= 100)
            sched_yield(); /* on a busy machine the readers may not have had the processor yet */
        uint32_t old =
            atomic_exchange_explicit(&stress->cell[fixture_random(&seed) % CELLS], index + 1, memory_order_acq_rel);
        if (old) {
            cr_assert(seg_pool_claim(pool, old - 1));
            seg_pool_retire(pool, old - 1);
        }
        atomic_fetch_add_explicit(&stress->written, 1, memory_order_relaxed);
    }
    atomic_fetch_sub(&stress->writers, 1);
    return NULL;
}

/* Goal:   an element is never used again while a reader inside may hold it.
 * Method: writers swap elements of a pool of 40 on 4 cells, so that reuse is immediate; readers read twice what they
 *         found and it must be whole and the same. Two members where two mappings make sense. Under ThreadSanitizer
 *         any race is an error too. */
Test(seg_epoch, no_reuse_under_readers)
{
    static struct stress stress = {.writers = WRITERS};
    struct stress_thread me[READERS + WRITERS];
    pthread_t            thread[READERS + WRITERS];

    for (int i = 0; i < FIXTURE_MAPPINGS; i++) {
        stress.seg[i] = fixture_open(fixture_path(), 40);
        fixture_join(stress.seg[i], (uint8_t)(i + 1));
        stress.pool[i] = fixture_pool(stress.seg[i], true);
    }
    for (unsigned i = 0; i < READERS + WRITERS; i++) {
        me[i] = (struct stress_thread){&stress, i};
        cr_assert_eq(pthread_create(&thread[i], NULL, i < READERS ? stress_reader : stress_writer, &me[i]), 0);
    }
    for (unsigned i = 0; i < READERS + WRITERS; i++)
        pthread_join(thread[i], NULL);
    cr_assert_eq(atomic_load(&stress.torn), 0, "%llu torn of %llu reads", (unsigned long long)atomic_load(&stress.torn),
                 (unsigned long long)atomic_load(&stress.reads));
    cr_assert_gt(atomic_load(&stress.reads), 100);
    cr_assert_eq(atomic_load(&stress.written), (uint64_t)WRITES * WRITERS);
    for (int i = 0; i < FIXTURE_MAPPINGS; i++) {
        seg_pool_close(stress.pool[i]);
        seg_member_leave(stress.seg[i]);
        seg_close(stress.seg[i]);
    }
}
