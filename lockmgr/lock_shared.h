/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lock_shared.h - the lock and interest words of one inode, as all members see them: one cache line.
 *
 * owner word: slot + 1 : 8 | phase : 8 | zero : 16 | incarnation : 32. All zero: free.
 *   (a) any member, by CAS from free;  afterwards only the owner (or recovery, once the owner is proven dead)
 */
#ifndef HEARTH_LOCK_SHARED_H
#define HEARTH_LOCK_SHARED_H

#include <assert.h>
#include <stdatomic.h>
#include <stdint.h>

/*
 * What may be cached or changed in which phase (W: the owner, M: any other member whose kernel is interested):
 *   phase      | kernels may hold           | W may change              | a reader at M
 *   IDLE       | current data, all          | nothing                   | takes interest, answers
 *   RECALLING  | old data until M's ack     | nothing                   | owes an ack: answers old data at once; else waits
 *   WRITING    | W's kernel only            | claims, origin            | waits (W needs nothing more of M)
 *   GRANTED    | as IDLE                    | nothing: handed over, not yet taken up
 */
enum lock_phase { LOCK_IDLE = 0, LOCK_RECALLING = 1, LOCK_WRITING = 2, LOCK_GRANTED = 3 };

struct lock_shared { /* SHARED */
    _Alignas(64) _Atomic uint64_t owner; /* (a) see above                                                        */
    _Atomic uint64_t interest;           /* (a) bit n: member n's kernel may cache something of it               */
    _Atomic uint64_t touched;            /* (a) bit n: and has asked for something since it was last recalled    */
    _Atomic uint64_t owed;               /* (a) bit n: member n has been recalled and not yet acknowledged       */
    _Atomic uint64_t waiters;            /* (a) bit n: somebody at member n waits for an event of this lock      */
    _Atomic uint64_t starving;           /* (a) bit n: member n has waited long: it is handed the lock           */
    _Atomic uint64_t publish;            /* (a) spin lock: who holds it (slot + 1 | incarnation << 32), 0: free  */
    _Atomic uint16_t slipped;            /* (a) write-back slipped by while the owner was recalling: recall again */
    _Atomic uint16_t round;              /* (w) moves with each recall that is sent: items of an older one are void */
    _Atomic uint32_t event;              /* (a) moves with every change somebody may wait for; the futex word     */
};
static_assert(sizeof(struct lock_shared) == 64, "layout v1");

#endif
