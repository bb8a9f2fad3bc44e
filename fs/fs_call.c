/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fs_call.c - receiving requests, and the lanes of workers for those that may wait.
 *
 * Receiving threads answer hits where they stand, and up to FS_IN_PLACE_MAX of them carry out a change themselves (the others keep receiving, so that nothing is ever held
 * up by a change that waits); everything else that may wait becomes a `struct fs_call` in one of the lanes (fs_internal.h), so that a receiver
 * is back at /dev/fuse at once. Lanes are separate sets of threads because of the law of coherence: a recall must be answerable without any other
 * request making progress. A lane starts threads as it needs them, up to its limit; idle ones leave after a while.
 *
 * The receive buffer. libfuse hands out pointers into the buffer of the current request. A call that needs them takes the buffer over
 * (tls_buffer), and the receiver allocates another. Under io_uring the pointers lie in the ring entry and stay good until the reply.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "fs_internal.h"

enum { LANE_IDLE_S = 5, DRAIN_MS = 2 /* an answer is in its page a moment after it was sent */, DRAIN_URING_MS = 20 };
static const unsigned lane_threads[FS_LANES] = {96, 32, 48, 16, 16};
static const char    *lane_name[FS_LANES] = {"fetch", "turn", "change", "back", "check"};

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
static _Thread_local struct fs_reader *tls_reader; /* this receiver's state; NULL: another thread */
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

bool fs_in_place_begin(struct fs *fs)
{
    if (!tls_reader)
        return false;
    if (atomic_fetch_add(&fs->in_place, 1) >= FS_IN_PLACE_MAX) {
        atomic_fetch_sub(&fs->in_place, 1);
        return false;
    }
    atomic_store(&tls_reader->in_place, true);
    return true;
}

void fs_in_place_end(struct fs *fs)
{
    atomic_store(&tls_reader->in_place, false);
    atomic_fetch_sub(&fs->in_place, 1);
}

/* A change is carried out by the receiver itself while enough others are left to receive: that spares two switches of threads. */
static bool run_in_place(struct fs *fs, struct fs_call *call, enum fs_lane lane)
{
    if (lane != FS_LANE_CHANGE || !fs_in_place_begin(fs))
        return false;
    tls_requeued = false;
    call->run(fs, call);
    if (!tls_requeued) {
        if (!tls_buffer->mem) { /* back to where it came from */
            tls_buffer->mem = call->buf;
            call->buf = NULL;
        }
        call_free(call);
    }
    fs_in_place_end(fs);
    return true;
}

void fs_call_queue(struct fs *fs, struct fs_call *call, enum fs_lane lane)
{
    if (run_in_place(fs, call, lane))
        return;
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

void fs_call_round(struct fs *fs, struct fs_call *call)
{
    struct timespec pause = {.tv_nsec = 1000000};
    nanosleep(&pause, NULL);
    fs_call_again(fs, call, call->lane);
}

bool fs_back_crowded(void *arg)
{
    return fs_lane_crowded(arg, FS_LANE_BACK);
}

/* Others may be waiting behind for a turn that comes sooner: a crowded lane is gone round instead of slept in. */
static void turn_run(struct fs *fs, struct fs_call *call)
{
    struct lock_ref ref = cache_lock_ref(fs->cache, call->wait_id);
    int             result = ref.words ? lock_read_wait(fs->lock, &ref, call->wait_page, turn_crowded, fs) : 0;
    if (result == -EINTR) {
        fs_call_round(fs, call);
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

/* TURN first: it gives to FETCH. What is queued is still carried out. */
void fs_lanes_stop(struct fs *fs)
{
    static const enum fs_lane order[FS_LANES] = {FS_LANE_TURN, FS_LANE_CHANGE, FS_LANE_BACK, FS_LANE_CHECK, FS_LANE_FETCH};
    for (unsigned i = 0; fs->lanes && i < FS_LANES; i++) {
        struct lane *lane = &fs->lanes->lane[order[i]];
        pthread_mutex_lock(&lane->mutex);
        lane->stop = true;
        pthread_cond_broadcast(&lane->work);
        while (lane->threads)
            pthread_cond_wait(&lane->gone, &lane->mutex);
        pthread_mutex_unlock(&lane->mutex);
    }
}

void fs_lanes_free(struct fs *fs)
{
    free(fs->lanes);
    fs->lanes = NULL;
}

uint64_t fs_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

bool fs_thread_in_state(pid_t thread, char state)
{
    char path[64], text[256];
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", (int)thread);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0)
        return false;
    text[n] = 0;
    const char *paren = strrchr(text, ')');
    return paren && paren[1] == ' ' && paren[2] == state;
}

/* First somebody must be seen asleep at an empty queue; only then does it count that each comes back, or is asleep. */
bool fs_drained(struct fs *fs, struct fs_drain *drain)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    drain->now_ms = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
    if (!drain->started)
        *drain = (struct fs_drain){.started = true, .start_ms = drain->now_ms, .now_ms = drain->now_ms};
    bool was_empty = drain->empty;
    for (unsigned i = 0; i < fs->reader_count; i++) {
        struct fs_reader *reader = &fs->reader_state[i];
        bool asleep = atomic_load(&reader->in_read) && fs_thread_in_state(atomic_load(&reader->thread), 'S') && atomic_load(&reader->in_read);
        drain->empty |= asleep;
        if (was_empty && (asleep || atomic_load(&reader->in_place) || atomic_load(&reader->loops) != drain->loops[i]))
            drain->seen |= 1ull << i;
    }
    for (unsigned i = 0; drain->empty && !was_empty && i < fs->reader_count; i++)
        drain->loops[i] = atomic_load(&fs->reader_state[i].loops);
    uint64_t least_ms = fs->uring_on ? DRAIN_URING_MS : DRAIN_MS;
    return drain->seen == (1ull << fs->reader_count) - 1 && drain->now_ms - drain->start_ms >= least_ms;
}

void *fs_receive(void *arg)
{
    struct fs      *fs = arg;
    struct fuse_buf   buf = {.mem = NULL};
    struct fs_reader *self = &fs->reader_state[atomic_fetch_add(&fs->reader_next, 1) % FS_READERS];

    prctl(PR_SET_NAME, "hearth-receive");
    tls_buffer = &buf;
    tls_reader = self;
    atomic_store(&self->thread, (pid_t)syscall(SYS_gettid));
    seg_epoch_keep(fs->seg);
    while (!fuse_session_exited(fs->se)) {
        atomic_store(&self->in_read, true);
        int result = fuse_session_receive_buf(fs->se, &buf);
        atomic_store(&self->in_read, false);
        if (result == -EINTR || result == -EAGAIN)
            continue;
        if (result <= 0)
            break; /* unmounted, or the connection was aborted */
        fuse_session_process_buf(fs->se, &buf);
        atomic_fetch_add(&self->loops, 1);
    }
    fuse_session_exit(fs->se);
    free(buf.mem);
    return NULL;
}
