/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lock_app_shared.h - a lock of an application as all members see it.
 *
 * A record is constant from its publication on, but for `state`. What an application changes is made of new records; the old ones are then removed.
 */
#ifndef HEARTH_LOCK_APP_SHARED_H
#define HEARTH_LOCK_APP_SHARED_H

#include <assert.h>
#include <stdatomic.h>
#include <stdint.h>

/* HELD: counts. GRANTED: counts as well, and its member has not noticed yet. WAITING: in line. */
enum lock_app_state { LOCK_APP_HELD = 1, LOCK_APP_WAITING = 2, LOCK_APP_GRANTED = 3 };

struct lock_app_record { /* SHARED */
    _Alignas(64) _Atomic uint64_t pool; /* (a) seg_shared.h                                                             */
    _Atomic uint32_t link;              /* (a) chain of the inode                                                       */
    _Atomic uint32_t state;             /* (a) under the inode's publish lock                                           */
    uint64_t         id;                /* (o) node                                                                     */
    uint64_t         first, last;       /* (o) bytes, both included                                                     */
    uint64_t         owner;             /* (o) who holds it, as that member's kernel names it; means nothing elsewhere  */
    uint64_t         who;               /* (o) seg_who of the member: the lock counts as long as that life stands       */
    uint32_t         pid;               /* (o) for people                                                               */
    uint8_t          kind, type;        /* (o) enum lock_app_kind, lock_app_type                                        */
    uint16_t         zero0;
    _Atomic uint32_t wait_link;         /* (a) chain of the owner, of records that were made WAITING                    */
    uint32_t         waited;            /* (o) 1: was made WAITING, and is on that chain                                */
    uint64_t         file;              /* (o) the open file, as that member names it                                   */
    uint64_t         ticket;            /* (o) age: smaller is older                                                    */
    int64_t          since_ns;          /* (o) asked for at: since 1970, for people                                     */
    uint8_t          zero2[24];
};
static_assert(sizeof(struct lock_app_record) == 128, "layout v2");

/* Element 0 of the pool is never handed out: it holds the words that all share. */
struct lock_app_common { /* SHARED (a) */
    _Alignas(64) _Atomic uint64_t pool;
    _Atomic uint64_t ticket;  /* the last one given                                                  */
    _Atomic uint64_t line;    /* seg_who of whoever puts a waiter in line: one at a time; 0: nobody  */
    uint8_t          zero[104];
};
static_assert(sizeof(struct lock_app_common) == 128, "layout v2");

#endif
