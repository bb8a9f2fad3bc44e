/* SPDX-License-Identifier: Apache-2.0 */
/*
 * seg_epoch.h - reading shared structures without a lock.
 *
 * A reader enters (publishes the current epoch in its thread's own cache line), follows indexes, copies or sends what it found,
 * and exits. Whoever unlinks an element first makes it unreachable, then takes a stamp; the element may be used again when no thread of
 * any living member is still in an epoch <= stamp. Nothing inside an epoch may wait for anything.
 * (Epoch-based reclamation: Fraser, "Practical lock-freedom", 2004, chapter 5; here with one global counter and per-thread slots.)
 */
#ifndef HEARTH_SEG_EPOCH_H
#define HEARTH_SEG_EPOCH_H

#include "seg.h"

/* Enters. Nests (inner calls cost a counter). The outermost call claims one of the member's SEG_THREADS_MAX slots, the outermost exit gives it back; when all are taken the
 * caller yields until one is free, which is soon, since nobody waits inside. Never fails. A thread that enters all the time keeps its slot (seg_epoch_keep). */
void seg_epoch_enter(struct seg *seg);
void seg_epoch_exit(struct seg *seg);
bool seg_epoch_inside(const struct seg *seg); /* for assertions: is this thread inside? */

/* The calling thread keeps its slot from now until it ends: for the few threads that answer hits. Not inside an epoch. */
void seg_epoch_keep(struct seg *seg);

/* After making something unreachable: the stamp under which it waits. Also moves the global epoch on. */
uint64_t seg_epoch_stamp(struct seg *seg);
/* The oldest epoch any thread of an ACTIVE/JOINING member is in (UINT64_MAX: nobody is inside). An element stamped s may be reused when
 * seg_epoch_oldest() > s. */
uint64_t seg_epoch_oldest(const struct seg *seg);
/* Recovery: clears the epoch slots of a member proven dead. */
void seg_epoch_clear(struct seg *seg, unsigned slot);

#endif
