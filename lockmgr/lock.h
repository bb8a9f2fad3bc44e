/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lock.h - who may change an inode, and what other kernels may keep of it while it changes.
 *
 * Two locks per inode. The write lock is held over a whole change, origin included, by one member; it may sleep. The publish lock
 * is a spin lock around swapping words and attributes; nothing under it sleeps.
 *
 * The recall protocol (design: a token per member as in GFS2 and in z/VM's minidisk cache; model: tests/model/recall*.pml). Letters name the
 * ordering pairs; all are seq_cst because each is one half of a store-then-load on two words:
 *   reader:  (R1) set the own interest and touched bits   (R2) load owner, owed
 *   writer:  (W1) owner := RECALLING  (W2) load interest, owed |= others, post recalls, wait for owed == 0
 *            (W3) owner := WRITING    (W4) load touched: somebody has -> recall those again, from W1
 *   acker:   (A1) clear the own touched bit  (A2) the kernel invalidates  (A3) clear the own owed bit
 * R1/R2 against W3/W4: either the reader sees WRITING and waits, or the writer sees the bit and recalls again. So when a write
 * returns, no kernel holds what it replaced.
 *
 * Recalls name a part (pages, one name), and the kernel keeps the rest: so interest stays set, and only touched is cleared in A1. A member that is recalled again without
 * having asked for anything in between gives up everything it holds of the inode, and its interest with it (lock_recall_begin): from then on writers send it
 * nothing. One bitmap for both would lose the rest: a later write elsewhere in the file would find no interest and recall nobody.
 *
 * The law: a recall is answered without any other request making progress. Readers that find RECALLING while their member owes
 * an acknowledgement answer at once with the old data; READs of pages wait, but then the invalidation goes round their pages (lock_read_begin_page).
 *
 * Waiting. A waiter sets its member's bit in `waiters`, looks again, and sleeps on the inode's event word (a futex of this kernel); whoever changes the
 * state takes the bits, moves the word and wakes; members of other kernels are sent WORK_LOCK_EVENT and their dispatcher calls lock_event(). Every sleep
 * is bounded (LOCK_POLL_MS), so that a lost wake-up costs time and never progress. The lock may be taken past waiters (that keeps it fast), but one that
 * has waited LOCK_STARVE_MS sets `starving`, and the next release hands the lock to it (as the kernel's mutexes do). A hand-over nobody takes up for
 * LOCK_STALE_GRANT_MS is void: GRANTED means that nothing has been changed yet, so anyone may take it back.
 *
 * Death: an owner, or a member that owes an acknowledgement, that is found dead (seg_member_is_dead) is settled through the `dead` callback, which runs
 * recovery; then the wait goes on. A member that does not acknowledge within recall_timeout_ms is fenced and settled alike.
 */
#ifndef HEARTH_LOCK_H
#define HEARTH_LOCK_H

#include "lock_rank.h"
#include "lock_shared.h"
#include "seg_member.h"
#include "work.h"

enum { LOCK_POLL_MS = 20, LOCK_STARVE_MS = 10, LOCK_STALE_GRANT_MS = 100, LOCK_SET_MAX = 6 };

struct lock_mgr;

struct lock_config {
    unsigned recall_timeout_ms;
    /* Called without any lock held but the caller's inode locks, so hand it to another thread if it takes locks that come before those: settle everything
     * member `who` held (fence it first). Must be idempotent. May return before it is done: whoever called looks again. */
    void (*dead)(void *arg, seg_who who);
    void *dead_arg;
    /* The words of an inode by node id, or NULL when that id is gone (for lock_event). */
    struct lock_shared *(*resolve)(void *arg, uint64_t id);
    void *resolve_arg;
};

int  lock_mgr_open(struct seg *seg, struct work *work, const struct lock_config *config, struct lock_mgr **out);
void lock_mgr_close(struct lock_mgr *mgr);

/* One inode to be locked: id for messages, words for the state; filled by the caller. */
struct lock_ref {
    uint64_t            id;
    struct lock_shared *words;
};

enum lock_acquire_flags {
    LOCK_MAY_SLIP = 1, /* answer -EDEADLK as soon as the owner is RECALLING and this member owes an acknowledgement, also if it is the owner itself */
    LOCK_TRY = 2,      /* -EBUSY instead of waiting */
};

/*
 * Takes the write lock of one inode: phase RECALLING, own interest bit unchanged. Threads of one member exclude each other too. Interrupted
 * waits: `stop` (may be NULL) is polled at every wake; non-zero ends with -EINTR. 0, -EINTR, -EDEADLK (LOCK_MAY_SLIP), -EBUSY (LOCK_TRY),
 * -EIO (the own incarnation has been fenced), -ESTALE (words is NULL), -EUCLEAN (the lock word makes no sense).
 */
int lock_write_acquire(struct lock_mgr *mgr, const struct lock_ref *ref, unsigned flags, bool (*stop)(void *), void *stop_arg);
/* The same for several inodes: sorts by id, drops doubles (id 0 is ignored), takes them lower index (low 32 bits of the id) first.
 * All or none. -ESTALE also when two of them are different lives of one record. */
int lock_write_acquire_set(struct lock_mgr *mgr, struct lock_ref *refs, unsigned count, bool (*stop)(void *), void *stop_arg);

/* What to take back from the other kernels before the change; one per locked inode. */
struct lock_recall {
    struct lock_ref ref;
    uint32_t        kind;     /* WORK_RECALL_DATA, WORK_RECALL_NAME, WORK_RECALL_NAMES */
    uint64_t        arg;      /* of that kind                                           */
    bool           *own_later; /* NULL, or: the own kernel cannot be recalled before the change has been answered (it holds write-back back for it). Where something slipped by, that is
                                  noted here, and the caller has its kernel drop everything afterwards */
};
/*
 * W1..W4 for all of `recalls` (several may name the same inode; every inode locked for the change should be named): when it returns 0, all
 * those inodes are WRITING and no other kernel holds anything of what was named, nor can get it before the release.
 * self: bitmap of recalls (by position) that are posted to the own member too (its kernel holds something wrong). If `slipped` was set meanwhile, everything of that
 * inode is recalled from everyone, self included, once more. A recall of the own kernel leaves the own interest bit set. May block for recall_timeout_ms; -EIO when the own incarnation is fenced.
 */
int lock_recall_all(struct lock_mgr *mgr, const struct lock_recall *recalls, unsigned count, uint64_t self);

/* Releases (a fenced owner does not: recovery frees what it held): hands over to a starving member or wakes one waiting member (round robin from the own slot); readers that wait are woken too. */
void lock_write_release(struct lock_mgr *mgr, const struct lock_ref *ref);
void lock_write_release_set(struct lock_mgr *mgr, const struct lock_ref *refs, unsigned count);
bool lock_write_held(const struct lock_mgr *mgr, const struct lock_shared *words); /* by this member (assertions) */

/*
 * Reader's side: R1, R2. LOCK_READ_GO: the bit is set, answer with what is there. LOCK_READ_WAIT: a writer is at work and needs nothing more of this
 * member: lock_read_wait(), then start over (the caller has left its epoch). Never blocks, no allocation.
 */
enum lock_read { LOCK_READ_GO = 0, LOCK_READ_WAIT = 1 };
enum lock_read lock_read_begin(struct lock_mgr *mgr, struct lock_shared *words);
/* Would lock_read_begin say GO, without taking an interest (replies that are granted no caching)? Same answers. */
enum lock_read lock_read_peek(struct lock_mgr *mgr, struct lock_shared *words);
/* The same for a READ of pages: WAIT as long as anybody recalls or writes, this member included. The caller has made sure that invalidations of its kernel do not
 * wait for this READ before it waits. */
enum lock_read lock_read_begin_page(struct lock_mgr *mgr, struct lock_shared *words);
/* The owner of the write lock: its kernel keeps what it has changed. */
void lock_interest_take(struct lock_mgr *mgr, struct lock_shared *words);
/* page: waits for what lock_read_begin_page waits for, else for what lock_read_begin does. 0, -EINTR, -EIO; -EUCLEAN: the words make no sense. */
int lock_read_wait(struct lock_mgr *mgr, const struct lock_ref *ref, bool page, bool (*stop)(void *), void *stop_arg);
/*
 * A writer that recalls several inodes may have got the acknowledgement for one and wait for that of another, which waits in the own kernel for a directory that
 * is held by a system call which is asking for the first one's attributes (rename checks rights while it holds its directories). That reader must not wait. stuck() says whether a recall of names has
 * been under way in the own kernel for longer than it takes; as long as that is so, whoever reads what somebody is RECALLING is answered. The writer finds the bit
 * (R1, W4) and recalls once more, so it is never wrong, and done only then because hot readers could make a writer start over for ever.
 */
void lock_stuck_set(struct lock_mgr *mgr, bool (*stuck)(void *arg), void *arg);
/* The kernel holds nothing of the inode any more (forget): clears the own bit. */
void lock_interest_drop(struct lock_mgr *mgr, struct lock_shared *words);

/* Recalled member's side: A1 and A3. Between them the caller has the kernel invalidate. PART: what the recall names is dropped, the rest stays. SHRINK: alike, but true is returned, and
 * interest given up, when nothing has been asked for since the last recall: then everything must be dropped. ALL: everything must be dropped (true). MORE: a further part
 * in the same round of the same writer: what has been asked for since the first part may belong to that one, so it stays on record for W4. */
enum lock_scope { LOCK_SCOPE_PART, LOCK_SCOPE_SHRINK, LOCK_SCOPE_ALL, LOCK_SCOPE_MORE };
bool lock_recall_begin(struct lock_mgr *mgr, const struct lock_ref *ref, enum lock_scope scope);
/* round: of the item that is answered. An item that has outlived its recall (its owner died, or it was sent again) answers nothing, whatever is owed meanwhile. */
void     lock_recall_ack(struct lock_mgr *mgr, const struct lock_ref *ref, uint32_t round);
uint32_t lock_recall_round(const struct lock_shared *words); /* of the recall that was sent last */
bool lock_recall_owed(const struct lock_mgr *mgr, const struct lock_shared *words); /* does this member owe one? */
void lock_slipped(struct lock_mgr *mgr, struct lock_shared *words);                 /* after a write that did not hold the lock */

/* Publish lock: spins, bounded by the owner's life (a dead owner is settled through `dead`). Rank INODE_PUBLISH. */
void lock_publish_enter(struct lock_mgr *mgr, struct lock_shared *words);
void lock_publish_exit(struct lock_mgr *mgr, struct lock_shared *words);

/* Dispatcher: WORK_LOCK_EVENT for node `id` arrived from another kernel: wakes this kernel's waiters. */
void lock_event(struct lock_mgr *mgr, uint64_t id);

/* Waiting for anything about an inode that is not its write lock (a page claim of another member): sleeps until ready(arg) or stop, or timeout_ms
 * (0: no limit) -> -ETIMEDOUT. Whoever makes it ready calls lock_notify(). */
int  lock_wait_for(struct lock_mgr *mgr, const struct lock_ref *ref, bool (*ready)(void *), void *arg, unsigned timeout_ms,
                   bool (*stop)(void *), void *stop_arg);
void lock_notify(struct lock_mgr *mgr, const struct lock_ref *ref);

/* Recovery of one inode's words for a member proven dead (slot): owner, publish, interest, owed, waiters, starving bits. Returns true when it was the
 * owner: then the caller has settled the data first. Idempotent. */
bool lock_recover(struct lock_mgr *mgr, const struct lock_ref *ref, unsigned slot);
/* Invariants of one inode's words; 0 or -EUCLEAN with a line in err. quiet: nobody is at work, so nothing may be held. */
int lock_check(const struct seg *seg, const struct lock_shared *words, bool quiet, char *err, size_t err_size);

#endif
