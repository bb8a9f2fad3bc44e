/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fs_lock.c - GETLK, SETLK, SETLKW and flock: locks of applications, kept in the segment (lockmgr/lock_app.h).
 *
 * What does not have to wait is answered by the receiver itself. A request that has to wait becomes a `waiter`: it holds no thread. It ends in one of these ways, and whichever comes
 * first under the inode's publish lock is the one that answers:
 *   granted      WORK_LOCK_GRANT, or found by a poll      lock_app_poll() says 0
 *   interrupted  the kernel sent INTERRUPT                lock_app_cancel() says -EINTR, and the kernel restarts the call or ends it
 *   a circle     found by a poll                          -EDEADLK
 *   the end      fenced, or unmounted                     -EIO, -EINTR
 * Each of them may come before the waiter is in our list; so it is polled once when it is. Waiters are polled every LOCK_APP_POLL_MS.
 *
 * Release. A record lock goes when its process closes any descriptor of the file: FLUSH names the owner. What was locked through an open file (OFD, flock, and whatever is left) goes with
 * RELEASE: each open has a number of its own. node->locked says that this member may have locks on an inode, so that closing others costs nothing.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>

#include "fs_internal.h"
#include "lock_app.h"

struct waiter {
    struct waiter          *next;
    fuse_req_t              req;
    struct fs              *fs;
    struct lock_app_request want;
    _Atomic uint64_t        wait;
    _Atomic int             refs;     /* the list, each task on its way, the thread that makes it */
    _Atomic bool            interrupted;
    bool                    is_ended; /* with that result; under the mutex                          */
    int                     result;
};

struct fs_locks {
    pthread_mutex_t mutex; /* leaf */
    struct waiter  *waiters;
    _Atomic bool    any;
    _Atomic uint64_t polled_ms;
};

static void waiter_release(struct waiter *waiter)
{
    if (atomic_fetch_sub(&waiter->refs, 1) == 1)
        free(waiter);
}

static void answer(struct waiter *waiter, int result)
{
    fuse_req_interrupt_func(waiter->req, NULL, NULL); /* waits for one that runs */
    if (result == 0)
        fuse_reply_err(waiter->req, 0);
    else
        fs_reply_error(waiter->req, result);
}

/* Out of the list and answered, once. One that is not in the list yet is answered by the thread that was about to put it there. */
static void waiter_end(struct waiter *waiter, int result)
{
    struct fs_locks *locks = waiter->fs->locks;
    bool             was_listed = false;
    pthread_mutex_lock(&locks->mutex);
    for (struct waiter **at = &locks->waiters; *at && !was_listed; at = &(*at)->next) {
        if (*at == waiter) {
            *at = waiter->next;
            was_listed = true;
            break;
        }
    }
    atomic_store(&locks->any, locks->waiters != NULL);
    if (!waiter->is_ended) {
        waiter->is_ended = true;
        waiter->result = result;
    }
    pthread_mutex_unlock(&locks->mutex);
    if (!was_listed)
        return;
    answer(waiter, result);
    waiter_release(waiter);
}

/* False: it has ended already. */
static bool waiter_list(struct waiter *waiter)
{
    struct fs_locks *locks = waiter->fs->locks;
    pthread_mutex_lock(&locks->mutex);
    bool ended = waiter->is_ended;
    if (!ended) {
        waiter->next = locks->waiters;
        locks->waiters = waiter;
        atomic_store(&locks->any, true);
    }
    pthread_mutex_unlock(&locks->mutex);
    return !ended;
}

static void waiter_poll(struct waiter *waiter)
{
    int result = lock_app_poll(waiter->fs->lock, &waiter->want, waiter->wait);
    if (result != -EINPROGRESS && result != -ENOENT)
        waiter_end(waiter, result);
}

static void poll_task(struct fs *fs, void *arg)
{
    (void)fs;
    waiter_poll(arg);
    waiter_release(arg);
}

static void waiter_cancel(struct waiter *waiter)
{
    int result = lock_app_cancel(waiter->fs->lock, &waiter->want, waiter->wait);
    if (result != -ENOENT)
        waiter_end(waiter, result);
}

static void cancel_task(struct fs *fs, void *arg)
{
    (void)fs;
    waiter_cancel(arg);
    waiter_release(arg);
}

/* libfuse holds the request's lock: leave at once. */
static void on_interrupt(fuse_req_t req, void *arg)
{
    struct waiter *waiter = arg;
    (void)req;
    atomic_store(&waiter->interrupted, true);
    atomic_fetch_add(&waiter->refs, 1);
    if (fs_notify_task(waiter->fs, cancel_task, waiter) != 0)
        atomic_fetch_sub(&waiter->refs, 1); /* the caller holds another */
}

/* Has a task poll each waiter that matches (id 0: all). */
static void poll_waiters(struct fs *fs, uint64_t id, uint64_t wait)
{
    pthread_mutex_lock(&fs->locks->mutex);
    for (struct waiter *waiter = fs->locks->waiters; waiter; waiter = waiter->next) {
        if (id && (waiter->want.ref.id != id || waiter->wait != wait))
            continue;
        atomic_fetch_add(&waiter->refs, 1);
        if (fs_notify_task(fs, poll_task, waiter) != 0)
            atomic_fetch_sub(&waiter->refs, 1);
    }
    pthread_mutex_unlock(&fs->locks->mutex);
}

void fs_lock_granted(struct fs *fs, uint64_t id, uint64_t wait)
{
    poll_waiters(fs, id, wait);
}

void fs_lock_tick(struct fs *fs)
{
    if (!atomic_load_explicit(&fs->locks->any, memory_order_relaxed))
        return;
    uint64_t now = fs_now_ms(), last = atomic_load(&fs->locks->polled_ms);
    if (now - last >= LOCK_APP_POLL_MS && atomic_compare_exchange_strong(&fs->locks->polled_ms, &last, now))
        poll_waiters(fs, 0, 0);
}

/* ---- requests ---- */

static void wait_for_lock(struct fs *fs, fuse_req_t req, const struct lock_app_request *want)
{
    struct waiter *waiter = calloc(1, sizeof *waiter);
    if (!waiter) {
        fuse_reply_err(req, ENOMEM);
        return;
    }
    *waiter = (struct waiter){.req = req, .fs = fs, .want = *want, .refs = 2};
    fuse_req_interrupt_func(req, on_interrupt, waiter);
    uint64_t wait = 0;
    int      result = lock_app_set_or_wait(fs->lock, want, &wait);
    atomic_store(&waiter->wait, wait);
    bool waits = result == -EINPROGRESS && waiter_list(waiter);
    if (waits) {
        if (atomic_load(&waiter->interrupted)) /* before there was anything to cancel */
            waiter_cancel(waiter);
        waiter_poll(waiter); /* the grant may have come before it was in the list */
    } else {
        answer(waiter, result == -EINPROGRESS ? waiter->result : result);
        waiter_release(waiter);
    }
    waiter_release(waiter);
}

static void set_lock(struct fs *fs, fuse_req_t req, struct lock_app_request *want, bool may_wait)
{
    struct fs_node *node = fs_node_at(fs, want->ref.id);
    want->pid = (uint32_t)fuse_req_ctx(req)->pid;
    if (node && want->type != LOCK_APP_NONE)
        atomic_store(&node->locked, 1);
    if (may_wait && want->type != LOCK_APP_NONE) {
        wait_for_lock(fs, req, want);
        return;
    }
    int result = lock_app_set(fs->lock, want);
    if (result == 0)
        fuse_reply_err(req, 0);
    else
        fs_reply_error(req, result);
}

static struct lock_app_request record_request(struct fs *fs, fuse_ino_t ino, const struct fuse_file_info *fi, const struct flock *lock)
{
    uint64_t first = (uint64_t)lock->l_start;
    return (struct lock_app_request){
        .ref = cache_lock_ref(fs->cache, ino), .kind = LOCK_APP_RECORD,
        .type = lock->l_type == F_UNLCK ? LOCK_APP_NONE : lock->l_type == F_RDLCK ? LOCK_APP_READ : LOCK_APP_WRITE,
        .first = first, .last = lock->l_len ? first + (uint64_t)lock->l_len - 1 : INT64_MAX,
        .owner = fi->lock_owner, .file = fi->fh,
    };
}

void fs_op_setlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *lock, int sleep)
{
    struct fs              *fs = fs_of(req);
    struct lock_app_request want = record_request(fs, ino, fi, lock);
    set_lock(fs, req, &want, sleep);
}

void fs_op_flock(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, int op)
{
    struct fs              *fs = fs_of(req);
    struct lock_app_request want = {
        .ref = cache_lock_ref(fs->cache, ino), .kind = LOCK_APP_FLOCK,
        .type = op & LOCK_UN ? LOCK_APP_NONE : op & LOCK_SH ? LOCK_APP_READ : LOCK_APP_WRITE,
        .first = 0, .last = UINT64_MAX, .owner = fi->lock_owner, .file = fi->fh,
    };
    set_lock(fs, req, &want, !(op & LOCK_NB));
}

void fs_op_getlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *lock)
{
    struct fs              *fs = fs_of(req);
    struct lock_app_request want = record_request(fs, ino, fi, lock);
    struct lock_app_record  found;
    int                     result = lock_app_test(fs->lock, &want, &found);
    if (result < 0) {
        fs_reply_error(req, result);
        return;
    }
    if (result == 0) {
        lock->l_type = F_UNLCK;
    } else {
        lock->l_type = found.type == LOCK_APP_WRITE ? F_WRLCK : F_RDLCK;
        lock->l_whence = SEEK_SET;
        lock->l_start = (off_t)found.first;
        lock->l_len = found.last >= INT64_MAX ? 0 : (off_t)(found.last - found.first + 1);
        lock->l_pid = (pid_t)found.pid;
    }
    fuse_reply_lock(req, lock);
}

/* ---- giving up ---- */

void fs_lock_flush(struct fs *fs, uint64_t id, uint64_t owner)
{
    struct fs_node *node = fs_node_at(fs, id);
    struct lock_ref ref = cache_lock_ref(fs->cache, id);
    if (node && atomic_load(&node->locked))
        (void)lock_app_release_owner(fs->lock, &ref, owner);
}

void fs_lock_release(struct fs *fs, uint64_t id, uint64_t file)
{
    struct fs_node *node = fs_node_at(fs, id);
    struct lock_ref ref = cache_lock_ref(fs->cache, id);
    if (!node || !atomic_load(&node->locked))
        return;
    atomic_store(&node->locked, 0); /* one that is set meanwhile sets it again */
    if (lock_app_release_file(fs->lock, &ref, file) > 0)
        atomic_store(&node->locked, 1);
}

int fs_lock_start(struct fs *fs)
{
    fs->locks = calloc(1, sizeof *fs->locks);
    if (!fs->locks)
        return -ENOMEM;
    pthread_mutex_init(&fs->locks->mutex, NULL);
    return 0;
}

void fs_lock_stop(struct fs *fs)
{
    struct waiter *waiter;
    if (!fs->locks)
        return;
    while ((waiter = fs->locks->waiters)) { /* no thread is left that could look */
        fs->locks->waiters = waiter->next;
        fuse_req_interrupt_func(waiter->req, NULL, NULL);
        fuse_reply_err(waiter->req, EINTR);
        free(waiter);
    }
    pthread_mutex_destroy(&fs->locks->mutex);
    free(fs->locks);
    fs->locks = NULL;
}
