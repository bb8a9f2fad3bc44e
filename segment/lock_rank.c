/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lock_rank.c - checks at run time that locks are taken in the order of lock_rank.h. Debug builds only.
 *
 * Each thread counts the locks it holds per rank. A lock may be taken when nothing of a higher rank is held; within
 * one rank (several inodes, several page claims) lock_rank.h names the tie-break, which this file cannot see. Counts
 * rather than a stack, because one write may hold a claim on each of its pages, and because locks need not be
 * released in the order taken.
 *
 * A lock is released by the thread that took it: one that hands a lock to another thread pops the rank, and the
 * other pushes it. Nothing here lives in the segment; if we die here nobody notices.
 */
#include "lock_rank.h"

#ifndef NDEBUG

#include <stdio.h>
#include <stdlib.h>

static const struct {
    unsigned    rank;
    const char *name;
} rank_table[] = {
#define X(name, rank) {rank, #name},
    LOCK_RANKS(X)
#undef X
};
enum { RANK_COUNT = sizeof rank_table / sizeof rank_table[0] };

static _Thread_local unsigned held[RANK_COUNT];

static unsigned rank_index(enum lock_rank rank)
{
    for (unsigned i = 0; i < RANK_COUNT; i++)
        if (rank_table[i].rank == (unsigned)rank)
            return i;
    fprintf(stderr, "lock order: %u is not a rank of lock_rank.h\n", (unsigned)rank);
    abort();
}

void lock_rank_push(enum lock_rank rank)
{
    unsigned mine = rank_index(rank);
    for (unsigned i = 0; i < RANK_COUNT; i++) {
        if (held[i] && rank_table[i].rank > rank_table[mine].rank) {
            fprintf(stderr, "lock order: %s (%u) taken while %s (%u) is held\n", rank_table[mine].name,
                    rank_table[mine].rank, rank_table[i].name, rank_table[i].rank);
            abort();
        }
    }
    held[mine]++;
}

void lock_rank_pop(enum lock_rank rank)
{
    unsigned mine = rank_index(rank);
    if (!held[mine]) {
        fprintf(stderr, "lock order: %s (%u) released by a thread that does not hold it\n", rank_table[mine].name,
                rank_table[mine].rank);
        abort();
    }
    held[mine]--;
}

#endif
