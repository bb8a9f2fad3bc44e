/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fs_call.c - receiving requests, and the lanes of workers for those that may wait.
 *
 * Receiving threads answer hits where they stand; everything that may wait becomes a `struct fs_call` in one of the lanes (fs_internal.h), so that a receiver
 * is back at /dev/fuse at once. Lanes are separate sets of threads because of the law of coherence: a recall must be answerable without any other
 * request making progress. A lane starts threads as it needs them, up to its limit; idle ones leave after a while.
 *
 * The receive buffer. libfuse hands out pointers into the buffer of the current request. A call that needs them takes the buffer over
 * (tls_buffer), and the receiver allocates another. Under io_uring the pointers lie in the ring entry and stay good until the reply.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#include "fs_internal.h"

enum { LANE_IDLE_S = 5 };
static const unsigned lane_threads[FS_LANES] = {64, 32, 48, 16};
static const char    *lane_name[FS_LANES] = {"fetch", "turn", "change", "back"};

struct lane {
    pthread_mutex_t  mutex;
    pthread_cond_t   work, gone;
    struct fs_call  *head, **tail;
    unsigned         threads, idle, limit, queued;
    bool             stop;
    struct fs       *fs;
    enum fs_lane     which;
};
struct fs_lanes {
    struct lane lane[FS_LANES];
};

static _Thread_local struct fuse_buf *tls_buffer;  /* what this receiver reads into               */
static _Thread_local bool             tls_requeued; /* run() has queued its call again            */

struct fs_call *fs_call_new(fuse_req_t req, fs_call_fn run, uint64_t ino, bool keep_buffer)
{
    struct fs_call *call = calloc(1, sizeof *call);
    if (!call) {
        fuse_reply_err(req, ENOMEM);
        return NULL;
    }
    call->req = req;
    call->run = run;
    call->ino = ino;
    if (keep_buffer && tls_buffer) {
        call->buf = tls_buffer->mem;
        tls_buffer->mem = NULL;
    }
    return call;
}

static void call_free(struct fs_call *call)
{
    free(call->buf);
    free(call);
}

static void *lane_main(void *arg)
{
    struct lane *lane = arg;
    char         name[16];
    snprintf(name, sizeof name, "hearth-%s", lane_name[lane->which]);
    prctl(PR_SET_NAME, name);
    pthread_mutex_lock(&lane->mutex);
    for (;;) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += LANE_IDLE_S;
        int waited = 0;
        while (!lane->head && !lane->stop && waited != ETIMEDOUT) {
            lane->idle++;
            waited = pthread_cond_timedwait(&lane->work, &lane->mutex, &until);
            lane->idle--;
        }
        struct fs_call *call = lane->head;
        if (!call)
            break;
        if (!(lane->head = call->next))
            lane->tail = &lane->head;
        lane->queued--;
        pthread_mutex_unlock(&lane->mutex);
        tls_requeued = false;
        call->run(lane->fs, call);
        if (!tls_requeued)
            call_free(call);
        pthread_mutex_lock(&lane->mutex);
    }
    if (--lane->threads == 0)
        pthread_cond_signal(&lane->gone);
    pthread_mutex_unlock(&lane->mutex);
    return NULL;
}

static void lane_push(struct fs *fs, struct fs_call *call, enum fs_lane which)
{
    struct lane *lane = &fs->lanes->lane[which];
    call->next = NULL;
    call->lane = which;
    pthread_mutex_lock(&lane->mutex);
    *lane->tail = call;
    lane->tail = &call->next;
    lane->queued++;
    bool start = lane->idle < lane->queued && lane->threads < lane->limit;
    if (start)
        lane->threads++;
    else
        pthread_cond_signal(&lane->work);
    pthread_mutex_unlock(&lane->mutex);
    pthread_t      thread;
    pthread_attr_t attr;
    if (!start)
        return;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, 512 << 10);
    if (pthread_create(&thread, &attr, lane_main, lane) != 0) {
        pthread_mutex_lock(&lane->mutex);
        lane->threads--; /* the others take it, in time */
        pthread_cond_signal(&lane->work);
        pthread_mutex_unlock(&lane->mutex);
    }
    pthread_attr_destroy(&attr);
}

void fs_call_queue(struct fs *fs, struct fs_call *call, enum fs_lane lane)
{
    seg_count(fs->seg, SEG_COUNTER_requests_queued, 1);
    lane_push(fs, call, lane);
}

void fs_call_again(struct fs *fs, struct fs_call *call, enum fs_lane lane)
{
    tls_requeued = true;
    lane_push(fs, call, lane);
}

bool fs_lane_crowded(struct fs *fs, enum fs_lane which)
{
    struct lane *lane = &fs->lanes->lane[which];
    pthread_mutex_lock(&lane->mutex);
    bool crowded = lane->queued > 0 && lane->threads >= lane->limit;
    pthread_mutex_unlock(&lane->mutex);
    return crowded;
}

static bool turn_crowded(void *arg)
{
    return fs_lane_crowded(arg, FS_LANE_TURN);
}

/* Others may be waiting behind for a turn that comes sooner: a crowded lane is gone round instead of slept in. */
static void turn_run(struct fs *fs, struct fs_call *call)
{
    struct lock_ref ref = cache_lock_ref(fs->cache, call->wait_id);
    int             result = ref.words ? lock_read_wait(fs->lock, &ref, turn_crowded, fs) : 0;
    if (result == -EINTR) {
        struct timespec pause = {.tv_nsec = 1000000};
        nanosleep(&pause, NULL);
        fs_call_again(fs, call, FS_LANE_TURN);
        return;
    }
    call->run = call->after; /* also when fenced: it finds out and says so */
    fs_call_again(fs, call, FS_LANE_FETCH);
}

void fs_call_turn(struct fs *fs, struct fs_call *call, uint64_t id)
{
    call->wait_id = id;
    call->after = call->run;
    call->run = turn_run;
    fs_call_again(fs, call, FS_LANE_TURN);
}

int fs_lanes_start(struct fs *fs, unsigned workers_max)
{
    fs->lanes = calloc(1, sizeof *fs->lanes);
    if (!fs->lanes)
        return -ENOMEM;
    for (unsigned i = 0; i < FS_LANES; i++) {
        struct lane *lane = &fs->lanes->lane[i];
        pthread_mutex_init(&lane->mutex, NULL);
        pthread_cond_init(&lane->work, NULL);
        pthread_cond_init(&lane->gone, NULL);
        lane->tail = &lane->head;
        lane->limit = workers_max && workers_max < lane_threads[i] ? workers_max : lane_threads[i];
        lane->fs = fs;
        lane->which = i;
    }
    return 0;
}

void fs_lanes_stop(struct fs *fs)
{
    for (unsigned i = 0; fs->lanes && i < FS_LANES; i++) {
        struct lane *lane = &fs->lanes->lane[i];
        pthread_mutex_lock(&lane->mutex);
        lane->stop = true;
        pthread_cond_broadcast(&lane->work);
        while (lane->threads)
            pthread_cond_wait(&lane->gone, &lane->mutex);
        pthread_mutex_unlock(&lane->mutex);
    }
    free(fs->lanes);
    fs->lanes = NULL;
}

void *fs_receive(void *arg)
{
    struct fs      *fs = arg;
    struct fuse_buf buf = {.mem = NULL};

    prctl(PR_SET_NAME, "hearth-receive");
    tls_buffer = &buf;
    while (!fuse_session_exited(fs->se)) {
        int result = fuse_session_receive_buf(fs->se, &buf);
        if (result == -EINTR || result == -EAGAIN)
            continue;
        if (result <= 0)
            break; /* unmounted, or the connection was aborted */
        fuse_session_process_buf(fs->se, &buf);
    }
    fuse_session_exit(fs->se);
    free(buf.mem);
    return NULL;
}
