/* SPDX-License-Identifier: Apache-2.0 */
/*
 * persist_watch.c - the thread that beats for its member and looks after the others.
 *
 * Each WATCH_TICK_MS: moves the own heartbeat; looks whether the own incarnation still stands and says so once when it does not; looks at every slot whose
 * state is not at rest and settles those whose process has gone (one fcntl each). Between ticks it serves errands: a thread that waits for a dead
 * member leaves its name in `wanted` and waits a little for the answer.
 *
 * Locks: `mutex` guards the request table only and is never held while something is settled (rank PROCESS_LEAF). If this thread is slow, waiters go on
 * polling; if the process dies, nothing shared is left half-done (see persist_recover.c).
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "persist_internal.h"

enum { WATCH_TICK_MS = 100, ERRAND_WAIT_MS = 20 };

struct persist_watch {
    struct persist_session *session;
    void (*fenced)(void *);
    void           *fenced_arg;
    bool            fenced_said; /* by the thread alone */
    pthread_t       thread;
    pthread_mutex_t mutex;
    pthread_cond_t  work; /* something is wanted, or stop  */
    pthread_cond_t  done; /* an errand has been served     */
    bool            stop;
    seg_who         wanted[SEG_MEMBERS_MAX]; /* 0: nothing */
};

static struct timespec deadline_in(unsigned ms)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_sec += ms / 1000;
    at.tv_nsec += (long)(ms % 1000) * 1000000;
    if (at.tv_nsec >= 1000000000) {
        at.tv_sec++;
        at.tv_nsec -= 1000000000;
    }
    return at;
}

/* Takes one errand; 0 when there is none. The mutex is held. */
static seg_who errand_next(const struct persist_watch *watch)
{
    for (unsigned slot = 0; slot < SEG_MEMBERS_MAX; slot++)
        if (watch->wanted[slot])
            return watch->wanted[slot];
    return 0;
}

/* Serves errands until the tick is over; the mutex is held but while settling. */
static void errands_serve(struct persist_watch *watch)
{
    struct timespec until = deadline_in(WATCH_TICK_MS);
    int             rc = 0;
    while (!watch->stop && rc != ETIMEDOUT) {
        seg_who who = errand_next(watch);
        if (!who) {
            rc = pthread_cond_timedwait(&watch->work, &watch->mutex, &until);
            continue;
        }
        pthread_mutex_unlock(&watch->mutex);
        persist_settle(watch->session, who);
        pthread_mutex_lock(&watch->mutex);
        if (watch->wanted[seg_who_slot(who)] == who)
            watch->wanted[seg_who_slot(who)] = 0;
        pthread_cond_broadcast(&watch->done);
    }
}

static void tick(struct persist_watch *watch)
{
    struct persist_session *session = watch->session;
    seg_heartbeat(session->seg);
    if (seg_self_stands(session->seg)) {
        persist_settle_dead(session, true);
    } else if (!watch->fenced_said) {
        watch->fenced_said = true;
        if (watch->fenced)
            watch->fenced(watch->fenced_arg);
    }
}

static void *watch_run(void *arg)
{
    struct persist_watch *watch = arg;
    pthread_mutex_lock(&watch->mutex);
    while (!watch->stop) {
        pthread_mutex_unlock(&watch->mutex);
        tick(watch);
        pthread_mutex_lock(&watch->mutex);
        errands_serve(watch);
    }
    pthread_mutex_unlock(&watch->mutex);
    return NULL;
}

bool persist_watch_settle(struct persist_watch *watch, seg_who who)
{
    unsigned slot = seg_who_slot(who);
    if (!watch || slot >= SEG_MEMBERS_MAX || pthread_equal(pthread_self(), watch->thread))
        return false;
    struct timespec until = deadline_in(ERRAND_WAIT_MS);
    int             rc = 0;
    pthread_mutex_lock(&watch->mutex);
    bool serves = !watch->stop;
    if (serves) {
        watch->wanted[slot] = who;
        pthread_cond_signal(&watch->work);
    }
    while (serves && !watch->stop && watch->wanted[slot] == who && rc != ETIMEDOUT)
        rc = pthread_cond_timedwait(&watch->done, &watch->mutex, &until);
    pthread_mutex_unlock(&watch->mutex);
    return serves;
}

static void watch_free(struct persist_watch *watch)
{
    pthread_cond_destroy(&watch->done);
    pthread_cond_destroy(&watch->work);
    pthread_mutex_destroy(&watch->mutex);
    free(watch);
}

int persist_watch_start(struct persist_session *session, void (*fenced)(void *), void *arg)
{
    struct persist_watch *watch = calloc(1, sizeof *watch);
    pthread_condattr_t    attr;
    if (!watch)
        return -ENOMEM;
    watch->session = session;
    watch->fenced = fenced;
    watch->fenced_arg = arg;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&watch->mutex, NULL);
    pthread_cond_init(&watch->work, &attr);
    pthread_cond_init(&watch->done, &attr);
    pthread_condattr_destroy(&attr);

    pthread_mutex_lock(&watch->mutex); /* the thread's own id must be there before it looks */
    int rc = -pthread_create(&watch->thread, NULL, watch_run, watch);
    if (rc == 0)
        session->watch = watch;
    pthread_mutex_unlock(&watch->mutex);
    if (rc)
        watch_free(watch);
    return rc;
}

void persist_watch_stop(struct persist_session *session)
{
    struct persist_watch *watch = session->watch;
    if (!watch)
        return;
    pthread_mutex_lock(&watch->mutex);
    watch->stop = true;
    pthread_cond_broadcast(&watch->work);
    pthread_cond_broadcast(&watch->done);
    pthread_mutex_unlock(&watch->mutex);
    pthread_join(watch->thread, NULL);
    session->watch = NULL;
    watch_free(watch);
}
