/* SPDX-License-Identifier: Apache-2.0 */
/* lock_actor.h - processes that do lock operations on command, one at a time, and report what came of it.
 *
 * actor_start() sends a command, actor_wait() takes its result or says that there is none yet; actor_do() is both. A process
 * has SLOTS descriptors. A command with `forked` set is carried out by a child that is made for it and then ends. */
#ifndef LOCK_ACTOR_H
#define LOCK_ACTOR_H

#include <poll.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>

#include "t.h"

enum { SLOTS = 8, NO_RESULT = 1 << 20 };

enum act { ACT_OPEN, ACT_CLOSE, ACT_DUP, ACT_FCNTL, ACT_FLOCK, ACT_LOCKF, ACT_LEASE, ACT_USR1 };

struct command {
    enum act     act;
    int          slot, from; /* from: ACT_DUP                                    */
    int          how;        /* F_SETLK and the like, or the operation of flock  */
    short        type;
    int64_t      start, len;
    bool         forked;
    char         path[256]; /* ACT_OPEN */
};

struct result {
    int          error; /* 0 or errno */
    struct flock lock;  /* of F_GETLK */
    int64_t      done_ns;
};

struct actor {
    pid_t pid;
    int   socket;
};

static inline int64_t actor_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static inline void actor_on_usr1(int number)
{
    (void)number;
}

static inline int actor_act(const struct command *c, int *fds, struct flock *lock)
{
    int              *fd = &fds[c->slot];
    struct sigaction  usr1 = {.sa_handler = actor_on_usr1, .sa_flags = c->how};
    switch (c->act) {
    case ACT_OPEN:
        return (*fd = open(c->path, O_RDWR | O_CREAT | O_CLOEXEC | c->how, 0644)) < 0;
    case ACT_CLOSE: {
        int closed = close(*fd);
        *fd = -1;
        return closed;
    }
    case ACT_DUP:
        return (*fd = dup(fds[c->from])) < 0;
    case ACT_FCNTL:
        *lock = (struct flock){.l_type = c->type, .l_whence = SEEK_SET, .l_start = c->start, .l_len = c->len};
        return fcntl(*fd, c->how, lock);
    case ACT_FLOCK:
        return flock(*fd, c->how);
    case ACT_LOCKF:
        if (lseek(*fd, c->start, SEEK_SET) < 0)
            return -1;
        return lockf(*fd, c->how, c->len);
    case ACT_LEASE:
        return fcntl(*fd, F_SETLEASE, c->type);
    case ACT_USR1: /* how: SA_RESTART or 0 */
        return sigaction(SIGUSR1, &usr1, NULL);
    }
    return 0;
}

static inline struct result actor_carry_out(const struct command *c, int *fds)
{
    struct result result = {0};
    result.error = actor_act(c, fds, &result.lock) ? errno : 0;
    result.done_ns = actor_now_ns();
    return result;
}

static inline bool actor_next(int socket, struct command *c)
{
    ssize_t size;
    do
        size = recv(socket, c, sizeof *c, MSG_WAITALL);
    while (size < 0 && errno == EINTR); /* a signal that came when the wait was over */
    return size == (ssize_t)sizeof *c;
}

__attribute__((noreturn)) static inline void actor_main(int socket)
{
    int            fds[SLOTS] = {-1, -1, -1, -1, -1, -1, -1, -1};
    struct command c;
    struct result *from_child = T_OK(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (actor_next(socket, &c)) {
        struct result result;
        if (c.forked) {
            pid_t child = T_OK(fork());
            if (child == 0) {
                *from_child = actor_carry_out(&c, fds);
                _exit(0);
            }
            T_OK(waitpid(child, NULL, 0)); /* its descriptors are closed then */
            result = *from_child;
        } else {
            result = actor_carry_out(&c, fds);
        }
        T_OK(send(socket, &result, sizeof result, 0));
    }
    _exit(0);
}

static inline struct actor actor_new(void)
{
    int pair[2];
    T_OK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    fflush(NULL);
    struct actor actor = {.pid = T_OK(fork()), .socket = pair[0]};
    if (actor.pid == 0) {
        close(pair[0]);
        actor_main(pair[1]);
    }
    close(pair[1]);
    return actor;
}

static inline void actor_start(const struct actor *actor, struct command c)
{
    T_OK(send(actor->socket, &c, sizeof c, MSG_NOSIGNAL));
}

/* error is NO_RESULT when there is none within that time, or ever. */
static inline struct result actor_wait(const struct actor *actor, int timeout_ms)
{
    struct pollfd poll_for = {.fd = actor->socket, .events = POLLIN};
    struct result result = {.error = NO_RESULT};
    int           ready;
    while ((ready = poll(&poll_for, 1, timeout_ms)) < 0 && errno == EINTR)
        ;
    if (ready == 1)
        T_THAT(recv(actor->socket, &result, sizeof result, MSG_WAITALL) == (ssize_t)sizeof result, "process %d has ended", (int)actor->pid);
    return result;
}

static inline struct result actor_do(const struct actor *actor, struct command c)
{
    actor_start(actor, c);
    struct result result = actor_wait(actor, 60000);
    T_THAT(result.error != NO_RESULT, "no answer of process %d after a minute", (int)actor->pid);
    return result;
}

/* Ends it and waits until it is gone; true within that time. */
static inline bool actor_kill(struct actor *actor, int timeout_ms)
{
    int64_t end_ns = actor_now_ns() + timeout_ms * 1000000ll;
    pid_t   gone;
    T_OK(kill(actor->pid, SIGKILL));
    while ((gone = waitpid(actor->pid, NULL, WNOHANG)) == 0 && actor_now_ns() < end_ns)
        usleep(200);
    close(actor->socket);
    return gone == actor->pid;
}

/* Commands in short. */
static inline int actor_open(const struct actor *actor, int slot, const char *dir, const char *name)
{
    struct command c = {.act = ACT_OPEN, .slot = slot};
    t_path(c.path, sizeof c.path, dir, name);
    return actor_do(actor, c).error;
}

static inline struct command cmd_fcntl(int slot, int how, short type, int64_t start, int64_t len)
{
    return (struct command){.act = ACT_FCNTL, .slot = slot, .how = how, .type = type, .start = start, .len = len};
}

static inline struct command cmd_flock(int slot, int how)
{
    return (struct command){.act = ACT_FLOCK, .slot = slot, .how = how};
}

#endif
