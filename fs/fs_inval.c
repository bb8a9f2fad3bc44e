/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fs_inval.c - dropping pages of one inode from the own kernel while requests of that kernel are in flight.
 *
 * notify_inval_inode goes through the range page by page and waits for each that is locked. Locked pages are:
 *   - under a READ: that is being answered: it is waited for; one that itself waits for a writer is held (fs_inflight.c): left out;
 *   - under write-back of a mapping: that WRITE slips past the lock (fs_write.c), so it is waited for;
 *   - under the very write-back that holds the inode's lock and recalls its own kernel (something had slipped by): left out;
 *   - at the edge of a WRITE of ours that waits for the lock: never waited for. While it is locked nobody can read it, and it is not up to date when
 *     it is unlocked. But a page at an edge may also be unlocked and up to date, and then it must be gone before we acknowledge.
 * So edge pages are dropped by a thread of their own, and count as done when that thread is done, or is seen blocked (state D) while the WRITE is in flight and nothing else
 * can be what blocks it: no READ and no write-back of this inode is in flight, and none is on its way to us, because all that the kernel had sent when the thread was seen
 * blocked has been received (fs_drained); no READ of the page was in flight together with the WRITE (fs_inflight.c); and SETTLE_MS have passed since one of a single page was
 * answered before the WRITE arrived, because a fault that reads one page installs it in its own thread, later. A page held by a WRITE is not up to date, so it is neither dirty nor under write-back. (A READ that is sent later sets the
 * touched bit when it comes, and the writer recalls once more.)
 */
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "fs_inval.h"

enum { SETTLE_MS = 100 }; /* an answer to a faulting thread is in its page when that thread has run */

struct edge { /* one page, dropped by a thread of its own; freed by whoever is last */
    uint64_t      id, page;
    _Atomic pid_t thread;
    _Atomic bool  done;
    _Atomic int   refs;
};

static void drop_pages(struct fs *fs, uint64_t id, uint64_t first, uint64_t last)
{
    off_t off = (off_t)(first * CACHE_PAGE);
    off_t len = last == UINT64_MAX ? 0 : (off_t)((last - first + 1) * CACHE_PAGE); /* 0: to the end */
    uint32_t started = fs_inflight_clock();
    fuse_lowlevel_notify_inval_inode(fs->se, id, off, len);
    fs_inflight_dropped(id, first, last, started);
}

static void edge_release(struct edge *edge)
{
    if (atomic_fetch_sub(&edge->refs, 1) == 1)
        free(edge);
}

static void edge_run(struct fs *fs, void *arg)
{
    struct edge *edge = arg;
    atomic_store(&edge->thread, (pid_t)syscall(SYS_gettid));
    drop_pages(fs, edge->id, edge->page, edge->page);
    atomic_store(&edge->done, true);
    edge_release(edge);
}

/* May the WRITE be what holds the page? In this order: a READ that ends, or the WRITE, between the looks must not leave "blocked" as the last word about something else. */
static bool blocked_by_write(struct fs *fs, struct edge *edge)
{
    struct fs_node *node = fs_node_at(fs, edge->id);
    pid_t           thread = atomic_load(&edge->thread);
    uint32_t        quiet_us;
    return thread && node && fs_inflight_edge(fs, edge->id, edge->page, &quiet_us) && quiet_us >= SETTLE_MS * 1000 && !atomic_load(&node->reads) && !atomic_load(&node->backs) &&
           fs_thread_in_state(thread, 'D') && !atomic_load(&edge->done);
}

static void drop_edge(struct fs *fs, uint64_t id, uint64_t page)
{
    struct edge *edge = calloc(1, sizeof *edge);
    if (!edge) {
        drop_pages(fs, id, page, page); /* may wait for the WRITE; better than leaving it */
        return;
    }
    edge->id = id;
    edge->page = page;
    edge->refs = 2;
    if (fs_notify_task(fs, edge_run, edge) != 0) {
        free(edge);
        drop_pages(fs, id, page, page);
        return;
    }
    struct timespec pause = {.tv_nsec = 50000};
    struct fs_drain drain = {.started = false};
    while (!atomic_load(&edge->done)) {
        if (!blocked_by_write(fs, edge))
            drain.started = false;
        else if (fs_drained(fs, &drain) && blocked_by_write(fs, edge))
            break;
        nanosleep(&pause, NULL);
    }
    edge_release(edge);
}

static void run_around(struct fs *fs, struct fs_job *job)
{
    uint64_t page = job->first;
    fuse_lowlevel_notify_inval_inode(fs->se, job->id, -1, 0); /* size and times: what follows may go round every page */
    for (;;) {
        uint64_t end = 0;
        bool     held = false;
        uint64_t next = fs_inflight_next(fs, job->id, page, job->last, &end, &held);
        if (next == UINT64_MAX || next > page)
            drop_pages(fs, job->id, page, next == UINT64_MAX ? job->last : next - 1);
        if (next == UINT64_MAX || fs_job_finished(fs, job))
            return;
        if (!held)
            drop_edge(fs, job->id, next);
        if (end == job->last)
            return;
        page = end + 1;
    }
}

void fs_job_run_data(struct fs *fs, struct fs_job *job)
{
    run_around(fs, job);
    fs_job_finish(fs, job);
}

void fs_job_rescue_data(struct fs *fs, void *arg)
{
    struct fs_job *job = arg;
    if (!fs_job_finished(fs, job))
        fs_job_run_data(fs, job);
    fs_job_release(fs, job);
}

void fs_inval_data(struct fs *fs, uint64_t id, uint32_t first, uint32_t count)
{
    struct fs_job *job = fs_job_new(FS_JOB_DATA, id);
    if (!job)
        return;
    job->first = first;
    job->last = count == UINT32_MAX ? UINT64_MAX : (uint64_t)first + count - 1;
    fs_job_publish(fs, job);
    fs_job_run_data(fs, job);
    fs_job_release(fs, job);
}

static void inval_task(struct fs *fs, void *arg)
{
    drop_pages(fs, (uint64_t)(uintptr_t)arg, 0, UINT64_MAX);
}

void fs_inval_later(struct fs *fs, uint64_t id)
{
    fs_notify_task(fs, inval_task, (void *)(uintptr_t)id);
}
