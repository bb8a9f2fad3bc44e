/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lock_app.h - the locks of applications: fcntl(2) records, OFD locks and flock(2), exclusive among all members.
 *
 * Locks live in the segment as records on a hash chain by inode. All changes of one inode's records are made under its publish lock (never sleeps); a look at them
 * takes none. A record counts as long as the life of the member that made it stands, so the death or the fencing of a member frees its locks at that
 * moment; recovery only takes the records away and hands the locks on.
 *
 * Who waits has a record, too, with a ticket. Whoever gives something up, grants: in the order of the tickets each waiter that conflicts with nobody any more. The
 * waiter's member is sent WORK_LOCK_GRANT and finishes the request (lock_app_poll). The message may be lost, its sender may die before it grants: so members
 * poll their waiters now and then (LOCK_APP_POLL_MS), which grants what can be granted. A request that does not have to wait may pass those that wait, as on one
 * machine.
 *
 * Owners. A record lock belongs to a process, an OFD lock or flock to an open file; either is a number of the member's kernel, so the owner is (member, number).
 * Locks of one owner never conflict; a new one replaces what it covers: ranges are split and joined as in POSIX. flock is of the whole file, and a conversion gives the old one up
 * first (flock(2)).
 *
 * Deadlock. Before a record request waits, the chain "waits for the holder, which waits for ..." is followed through all members and inodes; if it leads back, -EDEADLK. One
 * waiter is put in line at a time, so that of two that close a circle the second sees it. A circle that is closed by a grant is found when the waiter is polled. flock waits
 * without a look, as on one machine.
 *
 * Limits: the pool's size (-ENOLCK), of which one member may use three quarters. The time of a call grows with the number of locks on the file (a walk of some
 * 5 ns each).
 */
#ifndef HEARTH_LOCK_APP_H
#define HEARTH_LOCK_APP_H

#include "lock.h"
#include "lock_app_shared.h"

enum { LOCK_APP_POLL_MS = 200 };

enum lock_app_kind { LOCK_APP_RECORD = 0, LOCK_APP_FLOCK = 1 };
enum lock_app_type { LOCK_APP_READ = 0, LOCK_APP_WRITE = 1, LOCK_APP_NONE = 2 };

struct lock_app_request {
    struct lock_ref    ref;
    enum lock_app_kind kind;
    enum lock_app_type type;        /* NONE: unlock */
    uint64_t           first, last; /* bytes, both included; of a flock 0 and UINT64_MAX */
    uint64_t           owner, file;
    uint32_t           pid;
};

/* Elements and buckets for the plan of a segment with `frames` frames. */
uint64_t lock_app_count(uint64_t frames);
/* Creation, under the recovery lock; idempotent until the segment is taken into use. */
void lock_app_format(struct seg *seg);

/*
 * All but lock_app_list and _check: 0, or -EAGAIN, -ENOLCK (no record left, or this segment has none), -EIO (the own life has been fenced), -ESTALE (the node is gone).
 * None sleeps; each may spin for the publish lock (lock.h).
 */
/* Sets or unlocks. -EAGAIN: somebody else holds what conflicts (a flock that was to be converted is gone then). */
int lock_app_set(struct lock_mgr *mgr, const struct lock_app_request *request);
/* The same, but waits: -EINPROGRESS, and *wait names the waiter for poll and cancel. -EDEADLK. */
int lock_app_set_or_wait(struct lock_mgr *mgr, const struct lock_app_request *request, uint64_t *wait);
/* A waiter of the own member: 0 it has the lock now; -EINPROGRESS; -EDEADLK, -EIO: it is out of line; -ENOENT: it was out of line before (another thread finished it). */
int lock_app_poll(struct lock_mgr *mgr, const struct lock_app_request *request, uint64_t wait);
/* Out of line: -EINTR; but 0 if it has the lock already, which it keeps. -ENOENT as above. */
int lock_app_cancel(struct lock_mgr *mgr, const struct lock_app_request *request, uint64_t wait);
/* Who is in the way? 0 nobody, 1 *found (the one with the lowest first byte). */
int lock_app_test(struct lock_mgr *mgr, const struct lock_app_request *request, struct lock_app_record *found);
/* Gives up the record locks of `owner`, or every lock made through open file `file`. Returns how many records this member still has on the node, or -errno. */
int lock_app_release_owner(struct lock_mgr *mgr, const struct lock_ref *ref, uint64_t owner);
int lock_app_release_file(struct lock_mgr *mgr, const struct lock_ref *ref, uint64_t file);

/* Recovery, for a member proven dead or the own former life: its records go, and what they held is granted. Under the recovery lock. Idempotent. */
void lock_app_recover(struct lock_mgr *mgr, unsigned slot);
/* Grants what can be granted everywhere (a member has been fenced). */
void lock_app_grant_all(struct lock_mgr *mgr);

/* Every lock and waiter of lives that stand, in the order of age as far as it does not move meanwhile; needs no membership. fn non-zero ends. -EPROTO: no such sections. */
int lock_app_list(const struct seg *seg, int (*fn)(void *arg, const struct lock_app_record *record), void *arg);
/* Two records of a snapshot: does the first wait for the second? */
bool lock_app_blocks(const struct lock_app_record *waiter, const struct lock_app_record *holder);
/* Invariants of all records; 0 or -EUCLEAN with a line in err. quiet: nobody is at work. */
int lock_app_check(struct seg *seg, bool quiet, char *err, size_t err_size);

#endif
