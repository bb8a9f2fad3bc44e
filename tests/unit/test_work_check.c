/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of work_check.c, and of posting and taking on queues that a faulty peer has written to. */
#include "work_fixture.h"

TestSuite(work_check, .fini = fixture_remove, .timeout = 60);

/* Head at 70, tail at 73, in the second round. */
static struct member busy_member(void)
{
    struct member    a = fixture_member(1);
    struct work_item item;
    for (unsigned i = 0; i < WORK_INBOX_CELLS + 73; i++) {
        cr_assert_eq(post(&a, a.slot, i, 0, false), 0);
        if (i < WORK_INBOX_CELLS + 70)
            cr_assert_eq(work_take(a.work, &item), 1);
    }
    assert_sound(&a);
    return a;
}

static void assert_broken(const struct member *member, const char *what)
{
    char err[256] = "";
    cr_assert_eq(work_check(member->seg, err, sizeof err), -EUCLEAN, "not noticed: %s", what);
    cr_assert(strstr(err, what), "\"%s\" does not say \"%s\"", err, what);
    cr_assert(strstr(err, "slot 0") || strstr(err, "shared queue"), "%s", err);
}

#define BREAK(field, value, what)           \
    do {                                    \
        __typeof__(field + 0) old = field;  \
        field = (value);                    \
        assert_broken(&a, what);            \
        field = old;                        \
        assert_sound(&a);                   \
    } while (0)

/* Goal:   each kind of nonsense in a queue's words is found and named, and nothing else is.
 * Method: one word at a time is spoilt and put right again. */
Test(work_check, every_invariant)
{
    struct member      a = busy_member();
    struct work_queue *q = inbox_of(&a);
    uint64_t           in_use = q->cell[70].word, free_word = q->cell[80].word, over = q->cell[10].word;

    BREAK(q->head, q->head + 5, "do not belong together");
    BREAK(q->tail, q->tail + 2000, "do not belong together");
    BREAK(q->tail, q->tail + 2, "free below the tail");
    BREAK(q->tail, q->tail - 2, "in use beyond the tail");
    BREAK(q->head, q->head - 2, "wrong round"); /* one step would be a take that is not finished */
    BREAK(q->bell, 3, "bell");
    BREAK(q->cell_count, 125, "cell count");
    BREAK(q->zero0[55], 1, "reserved bytes");
    BREAK(q->zero1[0], 1, "reserved bytes");
    BREAK(q->cell[70].word, (in_use & ~0xffull) | 9, "unknown state");
    BREAK(q->cell[70].word, in_use | 0xff0000, "slot out of range");
    BREAK(q->cell[70].word, in_use + (1ull << 32), "wrong round");
    BREAK(q->cell[71].word, in_use - (1ull << 32), "wrong round");
    BREAK(q->cell[71].word, free_word, "free below the tail");
    BREAK(q->cell[80].word, in_use, "in use beyond the tail");
    BREAK(q->cell[80].word, free_word | 0x0100, "leftovers");
    BREAK(q->cell[10].word, over + (1ull << 32), "wrong round");
    BREAK(q->cell[10].word, over - (1ull << 32), "wrong round");
    BREAK(q->cell[70].kind, WORK_NONE, "without a kind");
    BREAK(q->cell[70].from, 5, "another producer");

    uint32_t           cells;
    struct work_queue *shared = work_queue_at(a.seg, SEG_MEMBERS_MAX, &cells);
    cr_assert_eq(cells, WORK_SHARED_CELLS);
    BREAK(shared->bell, WORK_ASLEEP, "bell");
    BREAK(shared->cell[1019].word, 7, "unknown state");
    fixture_leave(&a);
}

/* Goal:   what a member that died between two steps leaves is sound, and the next one finishes the step.
 * Method: tail and head put back by one; a reserved and a skipped cell. */
Test(work_check, half_done_steps)
{
    struct member      a = busy_member();
    struct work_queue *q = inbox_of(&a);
    struct work_item   item;

    q->tail--; /* reserved and committed, tail not moved */
    assert_sound(&a);
    cr_assert_eq(post(&a, a.slot, 500, 0, false), 0);
    assert_sound(&a);
    cr_assert_eq(work_take(a.work, &item), 1);
    q->head--; /* taken, head not moved */
    assert_sound(&a);
    cr_assert_eq(work_depth(a.work, a.slot), 4);
    for (unsigned i = 1; i < 3; i++) {
        cr_assert_eq(work_take(a.work, &item), 1);
        cr_assert_eq(item.key, WORK_INBOX_CELLS + 70 + i);
    }
    cr_assert_eq(work_take(a.work, &item), 1);
    cr_assert_eq(item.key, 500);
    cr_assert_eq(post(&a, a.slot, 501, 0, false), 0);
    q->tail--;
    cr_assert_eq(work_take(a.work, &item), 1); /* head is now ahead of the tail */
    assert_sound(&a);
    cr_assert_eq(post(&a, a.slot, 502, 0, false), 0);
    cr_assert_eq(work_take(a.work, &item), 1);
    cr_assert_eq(item.key, 502);
    assert_sound(&a);
    fixture_leave(&a);
}

/* Goal:   posting and taking end, with an error where there is one to give, whatever stands in the queue.
 * Method: random words everywhere, 20,000 times; the memory around is not touched. */
Test(work_check, random_words)
{
    struct member      a = fixture_member(1), b = fixture_member(2);
    struct work_queue *q = inbox_of(&a);
    struct work_item   item;
    char               err[256];
    unsigned           results[3] = {0};
    uint64_t           seed = work_clock_ns() | 1;

    printf("# seed %llu\n", (unsigned long long)seed);
    for (unsigned i = 0; i < 20000; i++) {
        uint64_t *word = (uint64_t *)q + seed % (work_inbox_stride() / 8);
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        __atomic_store_n(word, seed & (1 << 20) ? seed : *word + (seed & 3) - 1, __ATOMIC_RELAXED);
        int rc = post(&b, a.slot, i, i, seed & 1);
        cr_assert(rc == 0 || rc == -EAGAIN || rc == -EUCLEAN || rc == -EIO, "post: %d", rc);
        rc = work_take(a.work, &item);
        cr_assert(rc == 0 || rc == 1 || rc == -EUCLEAN, "take: %d", rc);
        results[rc < 0 ? 2 : rc]++;
        cr_assert_leq(work_depth(b.work, a.slot), WORK_INBOX_CELLS);
        if (i % 100 == 0) {
            work_check(a.seg, err, sizeof err);
            work_recover(b.work, 7);
            memset(q, 0, work_inbox_stride());
            q->cell_count = WORK_INBOX_CELLS;
        }
    }
    cr_assert(results[1] > 0 && results[0] + results[2] > 0);
    memset(q, 0, work_inbox_stride());
    q->cell_count = WORK_INBOX_CELLS;
    assert_sound(&b);
    fixture_leave(&b);
    fixture_leave(&a);
}
