/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of seg_counter.c. */
#include <pthread.h>

#include "seg_counter.h"
#include "seg_fixture.h"

TestSuite(seg_counter, .fini = fixture_remove, .timeout = 20);

static void *count_many(void *arg)
{
    for (int i = 0; i < 20000; i++)
        seg_count(arg, SEG_COUNTER_hits, 2);
    return NULL;
}

/* Goal:   counts of several threads add up in the own slot, outlive the membership, and cost nothing before it.
 * Method: 4 threads; join, leave, join; nonsense arguments. */
Test(seg_counter, adds_up)
{
    struct seg *seg = fixture_open(fixture_path(), 64);
    pthread_t   thread[4];

    seg_count(seg, SEG_COUNTER_hits, 1);
    cr_assert_eq(seg_counter_read(seg, 0, SEG_COUNTER_hits), 0);
    fixture_join(seg, 1);
    for (int i = 0; i < 4; i++)
        cr_assert_eq(pthread_create(&thread[i], NULL, count_many, seg), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(thread[i], NULL);
    cr_assert_eq(seg_counter_read(seg, 0, SEG_COUNTER_hits), 160000);
    cr_assert_eq(seg_counter_read(seg, 0, SEG_COUNTER_misses), 0);
    cr_assert_eq(seg_counter_read(seg, 1, SEG_COUNTER_hits), 0);
    seg_member_leave(seg);
    fixture_join(seg, 1);
    seg_count(seg, SEG_COUNTER_hits, 1);
    cr_assert_eq(seg_counter_read(seg, 0, SEG_COUNTER_hits), 160001);
    seg_count(seg, SEG_COUNTER_COUNT, 1);
    cr_assert_eq(seg_counter_read(seg, 64, SEG_COUNTER_hits), 0);
    cr_assert_eq(seg_counter_read(seg, 0, SEG_COUNTER_COUNT), 0);
    cr_assert_str_eq(seg_counter_name[SEG_COUNTER_doorbells_rung], "doorbells_rung");
    for (int i = 0; i < SEG_COUNTER_COUNT; i++)
        for (int j = 0; j < i; j++)
            cr_assert_str_neq(seg_counter_name[i], seg_counter_name[j]);
    seg_member_leave(seg);
    seg_close(seg);
}
