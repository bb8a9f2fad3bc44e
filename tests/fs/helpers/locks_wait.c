/* SPDX-License-Identifier: Apache-2.0 */
/* locks_wait.c - locks of programs on several mounts: waiting for them, losing them, circles of them.
 *
 *   locks_wait order|signals|kill|circles|rules|handover DIR_A DIR_B
 *   locks_wait exclude SECONDS DIR...         a counter in a file, incremented by all under a lock
 *   locks_wait many COUNT DIR_A DIR_B         so many locks on one file
 *   locks_wait daemon PID SIGNAL DIR_A DIR_B  what becomes of the locks of mount A when its daemon is sent the signal
 *   locks_wait churn SEED SECONDS DIR...      open, lock, wait, fork, close and die all at once; in the end nothing is locked
 *   locks_wait apart DIR_A DIR_B              mounts that do not exclude each other
 *
 * Times are printed and not judged, but for the limit of a minute that each wait has. */
#include <sys/time.h>

#include "lock_actor.h"

enum { RECORD, OFD, FLOCK, KINDS, WAITERS = 12, LONG_MS = 60000, SHORT_MS = 300 };
static const char *const kind_name[] = {"fcntl", "OFD", "flock"};

/* What sets, waits for or gives up the whole file in slot 0. */
static struct command cmd_lock(int kind, bool wait, short type)
{
    if (kind == FLOCK)
        return cmd_flock(0, (type == F_UNLCK ? LOCK_UN : type == F_RDLCK ? LOCK_SH : LOCK_EX) | (wait ? 0 : LOCK_NB));
    return cmd_fcntl(0, kind == RECORD ? (wait ? F_SETLKW : F_SETLK) : (wait ? F_OFD_SETLKW : F_OFD_SETLK), type, 0, 0);
}

static struct actor actor_on(const char *dir)
{
    struct actor actor = actor_new();
    T_THAT(actor_open(&actor, 0, dir, "locked") == 0, "open in %s", dir);
    return actor;
}

static void must(const struct actor *actor, struct command c, int error, const char *what)
{
    int got = actor_do(actor, c).error;
    T_THAT(got == error, "%s: %s, want %s", what, strerror(got), strerror(error));
}

/* Begins to wait; so long that it is in line when this returns. */
static void begin(const struct actor *actor, struct command c, int ms, const char *what)
{
    actor_start(actor, c);
    struct result result = actor_wait(actor, ms);
    T_THAT(result.error == NO_RESULT, "%s: does not wait: %s", what, strerror(result.error));
}

static void granted(const struct actor *actor, const char *what)
{
    int error = actor_wait(actor, LONG_MS).error;
    T_THAT(error != NO_RESULT, "%s: still waits after a minute", what);
    T_THAT(error == 0, "%s: %s", what, strerror(error));
}

static void finish(struct actor *actor)
{
    T_THAT(actor_kill(actor, LONG_MS), "process %d does not go", (int)actor->pid);
}

static double ms_since(int64_t then_ns)
{
    return (double)(actor_now_ns() - then_ns) / 1e6;
}

/* ---- oldest first ---- */

/* True when each was granted after all that were older. A busy machine may put two in line the other way round: once more then, more slowly. */
static bool order_once(char **dirs, int kind, int nap_ms)
{
    struct actor holder = actor_on(dirs[0]), waiters[WAITERS];
    int64_t      done_ns[WAITERS];
    bool         in_order = true;
    must(&holder, cmd_lock(kind, false, F_WRLCK), 0, "the first lock");
    for (int i = 0; i < WAITERS; i++) {
        waiters[i] = actor_on(dirs[i * 7 % 3 % 2]);
        begin(&waiters[i], cmd_lock(kind, true, F_WRLCK), nap_ms, "behind the holder");
    }
    must(&holder, cmd_lock(kind, false, F_UNLCK), 0, "unlock");
    for (int i = 0; i < WAITERS; i++) {
        struct pollfd poll_for[WAITERS];
        for (int n = 0; n < WAITERS; n++)
            poll_for[n] = (struct pollfd){.fd = n < i ? -1 : waiters[n].socket, .events = POLLIN};
        T_THAT(poll(poll_for, WAITERS, LONG_MS) > 0, "nobody is granted");
        int who = 0;
        while (!(poll_for[who].revents & POLLIN))
            who++;
        in_order &= who == i;
        granted(&waiters[who], "a waiter");
        must(&waiters[who], cmd_lock(kind, false, F_UNLCK), 0, "unlock");
        if (who != i) { /* so that those before i have been granted */
            struct actor swap = waiters[i];
            waiters[i] = waiters[who];
            waiters[who] = swap;
        }
        done_ns[i] = actor_now_ns();
    }
    printf("%s: %d waiters in %s order, %.2f ms from one to the next\n", kind_name[kind], WAITERS, in_order ? "the right" : "another",
           (double)(done_ns[WAITERS - 1] - done_ns[0]) / 1e6 / (WAITERS - 1));
    for (int i = 0; i < WAITERS; i++)
        finish(&waiters[i]);
    finish(&holder);
    return in_order;
}

static void order(char **dirs)
{
    for (int kind = 0; kind < KINDS; kind++) {
        int nap_ms = 20;
        while (!order_once(dirs, kind, nap_ms))
            T_THAT((nap_ms *= 4) < 2000, "%s: not granted oldest first", kind_name[kind]);
    }
    /* Readers together, and a reader that need not wait passes a writer that does. */
    struct actor holder = actor_on(dirs[0]), reader = actor_on(dirs[1]), writer = actor_on(dirs[1]), passes = actor_on(dirs[0]);
    must(&holder, cmd_lock(RECORD, false, F_RDLCK), 0, "read lock");
    must(&reader, cmd_lock(RECORD, false, F_RDLCK), 0, "read lock on the other mount");
    begin(&writer, cmd_lock(RECORD, true, F_WRLCK), 20, "a writer behind readers");
    must(&passes, cmd_lock(RECORD, true, F_RDLCK), 0, "a third reader");
    must(&holder, cmd_lock(RECORD, false, F_UNLCK), 0, "unlock");
    must(&passes, cmd_lock(RECORD, false, F_UNLCK), 0, "unlock");
    T_THAT(actor_wait(&writer, SHORT_MS).error == NO_RESULT, "the writer has it while a reader holds it");
    must(&reader, cmd_lock(RECORD, false, F_UNLCK), 0, "unlock");
    granted(&writer, "the writer");
    finish(&holder), finish(&reader), finish(&writer), finish(&passes);
}

/* ---- signals ---- */

static void signals(char **dirs)
{
    for (int kind = 0; kind < KINDS; kind++) {
        struct actor holder = actor_on(dirs[0]), waiter = actor_on(dirs[1]);
        must(&holder, cmd_lock(kind, false, F_WRLCK), 0, "lock");
        must(&waiter, (struct command){.act = ACT_USR1, .how = 0}, 0, "sigaction");
        for (int i = 0; i < 20; i++) {
            begin(&waiter, cmd_lock(kind, true, F_WRLCK), i % 5 * 5, "waiter");
            int64_t then_ns = actor_now_ns();
            int     error = NO_RESULT;
            while (error == NO_RESULT) { /* the first may come before the call */
                T_THAT(ms_since(then_ns) < LONG_MS, "%s: a signal does not end the wait", kind_name[kind]);
                T_OK(kill(waiter.pid, SIGUSR1));
                error = actor_wait(&waiter, 20).error;
            }
            T_THAT(error == EINTR, "%s: a signal ends the wait with %s", kind_name[kind], strerror(error));
        }
        must(&waiter, (struct command){.act = ACT_USR1, .how = SA_RESTART}, 0, "sigaction");
        begin(&waiter, cmd_lock(kind, true, F_WRLCK), 20, "waiter");
        for (int i = 0; i < 20; i++) {
            T_OK(kill(waiter.pid, SIGUSR1));
            struct result result = actor_wait(&waiter, 5);
            T_THAT(result.error == NO_RESULT, "%s: SA_RESTART, and the wait ends: %s", kind_name[kind], strerror(result.error));
        }
        must(&holder, cmd_lock(kind, false, F_UNLCK), 0, "unlock");
        granted(&waiter, "restarted waiter");
        must(&holder, cmd_lock(kind, false, F_WRLCK), EAGAIN, "the restarted waiter has it");
        finish(&waiter), finish(&holder);
    }
    printf("signals: EINTR without SA_RESTART, waits on with it\n");
}

/* ---- death of processes ---- */

static void kills(char **dirs)
{
    for (int kind = 0; kind < KINDS; kind++) {
        struct actor holder = actor_on(dirs[0]), first = actor_on(dirs[0]), second = actor_on(dirs[1]);
        must(&holder, cmd_lock(kind, false, F_WRLCK), 0, "lock");
        begin(&first, cmd_lock(kind, true, F_WRLCK), 20, "first waiter");
        begin(&second, cmd_lock(kind, true, F_WRLCK), 20, "second waiter");
        int64_t then_ns = actor_now_ns();
        finish(&first);
        double waiter_ms = ms_since(then_ns);
        T_THAT(actor_wait(&second, SHORT_MS).error == NO_RESULT, "%s: the death of a waiter grants another", kind_name[kind]);
        then_ns = actor_now_ns();
        T_OK(kill(holder.pid, SIGKILL));
        granted(&second, "second waiter");
        printf("%s: a killed waiter is gone after %.1f ms; its holder killed, the next has the lock after %.1f ms\n", kind_name[kind], waiter_ms,
               ms_since(then_ns));
        finish(&holder), finish(&second);
    }
}

/* ---- circles ---- */

static struct command cmd_file(int slot, bool wait)
{
    return cmd_fcntl(slot, wait ? F_SETLKW : F_SETLK, F_WRLCK, slot, 1);
}

static void circles(char **dirs)
{
    for (int n = 2; n <= 4; n++) {
        struct actor actors[4];
        char         name[] = "circle0";
        for (int i = 0; i < n; i++) {
            actors[i] = actor_new();
            for (int f = 0; f < n; f++) {
                name[6] = (char)('0' + f);
                T_THAT(actor_open(&actors[i], f, dirs[i % 2], name) == 0, "open %s", name);
            }
            must(&actors[i], cmd_file(i, false), 0, "own file");
        }
        for (int i = 0; i < n - 1; i++)
            begin(&actors[i], cmd_file(i + 1, true), 20, "not a circle yet");
        must(&actors[n - 1], cmd_file(0, true), EDEADLK, "a circle");
        must(&actors[n - 1], cmd_fcntl(n - 1, F_SETLK, F_UNLCK, 0, 0), 0, "unlock");
        for (int i = n - 2; i >= 0; i--) {
            granted(&actors[i], "after the circle");
            must(&actors[i], cmd_fcntl(i, F_SETLK, F_UNLCK, 0, 0), 0, "unlock");
        }
        for (int i = 0; i < n; i++)
            finish(&actors[i]);
    }
    /* Two readers that both want to write. */
    struct actor a = actor_on(dirs[0]), b = actor_on(dirs[1]);
    must(&a, cmd_lock(RECORD, false, F_RDLCK), 0, "reader");
    must(&b, cmd_lock(RECORD, false, F_RDLCK), 0, "reader");
    begin(&a, cmd_lock(RECORD, true, F_WRLCK), 20, "upgrade");
    must(&b, cmd_lock(RECORD, true, F_WRLCK), EDEADLK, "both upgrade");
    must(&b, cmd_lock(RECORD, false, F_UNLCK), 0, "unlock");
    granted(&a, "upgrade");
    finish(&a), finish(&b);
    /* flock waits in a circle until somebody gives in. */
    a = actor_on(dirs[0]), b = actor_on(dirs[1]);
    T_THAT(actor_open(&a, 1, dirs[0], "circle0") == 0 && actor_open(&b, 1, dirs[1], "circle0") == 0, "open");
    must(&a, cmd_flock(0, LOCK_EX), 0, "flock");
    must(&b, cmd_flock(1, LOCK_EX), 0, "flock");
    begin(&a, cmd_flock(1, LOCK_EX), SHORT_MS, "flock in half a circle");
    begin(&b, cmd_flock(0, LOCK_EX), SHORT_MS * 2, "flock in a circle"); /* longer than waiters are polled */
    finish(&b);
    granted(&a, "flock");
    finish(&a);
    printf("circles: 2, 3 and 4 files and an upgrade end with EDEADLK, flock waits\n");
}

/* ---- the rules of POSIX and flock ---- */

static void expect_free(const struct actor *other, int kind, bool free, const char *what)
{
    must(other, cmd_lock(kind, false, F_WRLCK), free ? 0 : EAGAIN, what);
    if (free)
        must(other, cmd_lock(kind, false, F_UNLCK), 0, what);
}

static void rules_of_close(char **dirs, int kind)
{
    struct actor a = actor_on(dirs[0]), other = actor_on(dirs[1]);
    /* Another descriptor of the file is closed: drops record locks only. */
    must(&a, cmd_lock(kind, false, F_WRLCK), 0, "lock");
    T_THAT(actor_open(&a, 1, dirs[0], "locked") == 0, "open");
    must(&a, (struct command){.act = ACT_CLOSE, .slot = 1}, 0, "close");
    expect_free(&other, kind, kind == RECORD, "another descriptor was closed");
    must(&a, cmd_lock(kind, false, F_WRLCK), 0, "lock again");
    /* A copy is closed: drops record locks; the others live as long as the open file. */
    must(&a, (struct command){.act = ACT_DUP, .slot = 1, .from = 0}, 0, "dup");
    must(&a, (struct command){.act = ACT_CLOSE, .slot = 1}, 0, "close");
    expect_free(&other, kind, kind == RECORD, "a copy was closed");
    must(&a, cmd_lock(kind, false, F_WRLCK), 0, "lock again");
    /* A child: does not have its parent's record locks, and closing there drops nothing; the others are shared. */
    struct command in_child = cmd_lock(kind, false, F_WRLCK);
    in_child.forked = true;
    must(&a, in_child, kind == RECORD ? EAGAIN : 0, "a child locks");
    expect_free(&other, kind, false, "a child has ended");
    in_child = cmd_lock(kind, false, F_UNLCK);
    in_child.forked = true;
    must(&a, in_child, 0, "a child unlocks");
    expect_free(&other, kind, kind != RECORD, "a child has unlocked");
    must(&a, cmd_lock(kind, false, F_WRLCK), 0, "lock again");
    /* The last descriptor. */
    must(&a, (struct command){.act = ACT_CLOSE, .slot = 0}, 0, "close");
    must(&other, cmd_lock(kind, true, F_WRLCK), 0, "after the last close");
    finish(&a), finish(&other);
}

static void rules_of_names(char **dirs)
{
    struct actor a = actor_on(dirs[0]), b = actor_on(dirs[1]);
    char         from[4096], to[4096];
    for (int kind = 0; kind < KINDS; kind++)
        must(&a, cmd_lock(kind, false, F_WRLCK), kind == OFD ? EAGAIN : 0, "lock");
    T_OK(rename(t_path(from, sizeof from, dirs[1], "locked"), t_path(to, sizeof to, dirs[1], "renamed")));
    expect_free(&b, RECORD, false, "renamed");
    expect_free(&b, FLOCK, false, "renamed");
    T_OK(unlink(to));
    expect_free(&b, RECORD, false, "removed");
    expect_free(&b, FLOCK, false, "removed");
    begin(&b, cmd_lock(RECORD, true, F_WRLCK), 20, "waits for a removed file's lock");
    must(&a, (struct command){.act = ACT_CLOSE, .slot = 0}, 0, "close");
    granted(&b, "removed file");
    finish(&a), finish(&b);
}

static void rules_of_calls(char **dirs)
{
    struct actor  a = actor_on(dirs[0]), b = actor_on(dirs[1]);
    struct result result;
    must(&a, (struct command){.act = ACT_LOCKF, .how = F_TLOCK, .start = 100, .len = 50}, 0, "lockf");
    must(&b, (struct command){.act = ACT_LOCKF, .how = F_TEST, .start = 149, .len = 5}, EACCES, "lockf's test"); /* as glibc has it */
    must(&b, (struct command){.act = ACT_LOCKF, .how = F_TLOCK, .start = 150, .len = 5}, 0, "lockf behind it");
    result = actor_do(&b, cmd_fcntl(0, F_GETLK, F_WRLCK, 0, 0));
    T_THAT(result.lock.l_type == F_WRLCK && result.lock.l_start == 100 && result.lock.l_len == 50 && result.lock.l_pid == a.pid,
           "F_GETLK: type %d, %lld+%lld, pid %d instead of %d", result.lock.l_type, (long long)result.lock.l_start, (long long)result.lock.l_len,
           (int)result.lock.l_pid, (int)a.pid);
    must(&a, (struct command){.act = ACT_LOCKF, .how = F_ULOCK, .start = 100, .len = 0}, 0, "lockf's unlock");
    int read_error = actor_do(&a, (struct command){.act = ACT_LEASE, .type = F_RDLCK}).error;
    int write_error = actor_do(&a, (struct command){.act = ACT_LEASE, .type = F_WRLCK}).error;
    printf("F_SETLEASE: read %s, write %s\n", strerror(read_error), strerror(write_error));
    finish(&a), finish(&b);
}

static void rules(char **dirs)
{
    for (int kind = 0; kind < KINDS; kind++)
        rules_of_close(dirs, kind);
    rules_of_names(dirs);
    rules_of_calls(dirs);
    printf("rules of close, dup, fork, rename, unlink, lockf: kept\n");
}

/* ---- one process, two mounts: what is closed on one is free on the other when close() has returned ---- */
static void handover(char **dirs)
{
    unsigned rounds = 1000, refused = 0;
    int      b = t_open(dirs[1], "locked", O_RDWR | O_CREAT, 0644);
    for (unsigned i = 0; i < rounds; i++) {
        struct flock lock = {.l_type = F_WRLCK};
        int          a = t_open(dirs[0], "locked", O_RDWR, 0);
        T_OK(i % 2 ? flock(a, LOCK_EX | LOCK_NB) : fcntl(a, F_OFD_SETLK, &lock));
        T_OK(close(a));
        if ((i % 2 ? flock(b, LOCK_EX | LOCK_NB) : fcntl(b, F_OFD_SETLK, &lock)) != 0)
            refused++;
        lock.l_type = F_UNLCK;
        T_OK(i % 2 ? flock(b, LOCK_UN) : fcntl(b, F_OFD_SETLK, &lock));
        while (flock(b, LOCK_EX | LOCK_NB) != 0 || fcntl(b, F_OFD_SETLK, &(struct flock){.l_type = F_WRLCK}) != 0)
            usleep(100);
        T_OK(flock(b, LOCK_UN));
        T_OK(fcntl(b, F_OFD_SETLK, &lock));
    }
    printf("closed on one mount, tried on the other: %u of %u refused\n", refused, rounds);
    T_THAT(refused <= rounds / 100, "%u of %u tries were refused after the close", refused, rounds);
}

/* ---- exclusion ---- */
static void exclude_one(int kind, double seconds, char **dirs, int dir_count)
{
    enum { EACH = 2 };
    _Atomic uint64_t *done = T_OK(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    uint64_t          value = 0;
    pid_t             workers[8 * EACH];
    int               fd = t_open(dirs[0], "counter", O_RDWR | O_CREAT, 0644);
    t_pwrite(fd, &value, sizeof value, 0);
    for (int i = 0; i < dir_count * EACH; i++) {
        fflush(NULL);
        if ((workers[i] = T_OK(fork())) != 0)
            continue;
        int     own = t_open(dirs[i % dir_count], "counter", O_RDWR, 0);
        int64_t end_ns = actor_now_ns() + (int64_t)(seconds * 1e9);
        while (actor_now_ns() < end_ns) {
            struct flock lock = {.l_type = F_WRLCK};
            T_OK(kind == FLOCK ? flock(own, LOCK_EX) : fcntl(own, kind == RECORD ? F_SETLKW : F_OFD_SETLKW, &lock));
            T_THAT(t_pread(own, &value, sizeof value, 0) == sizeof value, "short counter");
            value++;
            t_pwrite(own, &value, sizeof value, 0);
            atomic_fetch_add(&done[i], 1);
            lock.l_type = F_UNLCK;
            T_OK(kind == FLOCK ? flock(own, LOCK_UN) : fcntl(own, kind == RECORD ? F_SETLK : F_OFD_SETLK, &lock));
        }
        _exit(0);
    }
    uint64_t sum = 0, least = UINT64_MAX;
    for (int i = 0; i < dir_count * EACH; i++) {
        int status;
        T_OK(waitpid(workers[i], &status, 0));
        T_THAT(status == 0, "a worker failed");
        sum += atomic_load(&done[i]);
        least = atomic_load(&done[i]) < least ? atomic_load(&done[i]) : least;
    }
    T_THAT(t_pread(fd, &value, sizeof value, 0) == sizeof value, "short counter");
    T_THAT(value == sum, "%s: the counter is %llu after %llu increments", kind_name[kind], (unsigned long long)value, (unsigned long long)sum);
    T_THAT(sum > 20, "%s: %llu increments test nothing", kind_name[kind], (unsigned long long)sum);
    printf("%s, %d mounts: %llu increments (%.0f a second), the counter agrees; the process that got least: %llu\n", kind_name[kind], dir_count,
           (unsigned long long)sum, (double)sum / seconds, (unsigned long long)least);
    close(fd);
}

/* ---- churn ---- */

static void churn_once(uint64_t *rng, char **dirs, int dir_count)
{
    static const char *const names[] = {"churn0", "churn1"};
    uint64_t                 what = t_random(rng) >> 20;
    int                      fd = t_open(dirs[what % (unsigned)dir_count], names[what >> 4 & 1], O_RDWR | O_CREAT, 0644), copy = -1, kind = (int)(what >> 8) % KINDS;
    struct flock             lock = {.l_type = what >> 12 & 1 ? F_WRLCK : F_RDLCK, .l_start = (what >> 16) % 20, .l_len = (what >> 24) % 10};
    bool                     wait = what >> 28 & 1;
    int error = kind == FLOCK ? flock(fd, (lock.l_type == F_WRLCK ? LOCK_EX : LOCK_SH) | (wait ? 0 : LOCK_NB))
                              : fcntl(fd, kind == RECORD ? (wait ? F_SETLKW : F_SETLK) : (wait ? F_OFD_SETLKW : F_OFD_SETLK), &lock);
    T_THAT(error == 0 || errno == EAGAIN || errno == EINTR || errno == EDEADLK, "a lock: %s", strerror(errno));
    if (what >> 32 & 1)
        copy = T_OK(dup(fd));
    if ((what >> 36) % 16 == 0) { /* a child has copies of all, for a moment */
        pid_t child = T_OK(fork());
        if (child == 0)
            _exit(0);
        while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
            ;
    }
    T_OK(close(fd));
    if (copy >= 0)
        T_OK(close(copy));
}

__attribute__((noreturn)) static void churn_process(uint64_t rng, char **dirs, int dir_count)
{
    struct sigaction alarm = {.sa_handler = actor_on_usr1};
    struct itimerval often = {.it_interval.tv_usec = 7000, .it_value.tv_usec = 7000};
    T_OK(sigaction(SIGALRM, &alarm, NULL)); /* so that flocks that wait for each other end */
    T_OK(setitimer(ITIMER_REAL, &often, NULL));
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;)
        churn_once(&rng, dirs, dir_count);
}

static void churn(const char *seed, double seconds, char **dirs, int dir_count)
{
    enum { PROCESSES = 8 };
    uint64_t rng = t_seed(seed, 77);
    unsigned killed = 0;
    pid_t    processes[PROCESSES] = {0};
    int64_t  end_ns = actor_now_ns() + (int64_t)(seconds * 1e9);
    while (actor_now_ns() < end_ns) {
        pid_t *process = &processes[t_random(&rng) % PROCESSES];
        int    status = 0;
        if (*process) {
            T_OK(kill(*process, SIGKILL));
            T_OK(waitpid(*process, &status, 0));
            T_THAT(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "a process failed");
            killed++;
        }
        uint64_t own = t_random(&rng) | 1;
        if ((*process = T_OK(fork())) == 0)
            churn_process(own, dirs, dir_count);
        usleep(5000);
    }
    for (int i = 0; i < PROCESSES; i++)
        if (processes[i])
            kill(processes[i], SIGKILL), waitpid(processes[i], NULL, 0);
    for (int i = 0; i < dir_count * 2; i++) { /* what the last RELEASE gives up is waited for; what stays would be waited for in vain */
        struct actor   actor = actor_new();
        struct command all[] = {cmd_lock(RECORD, true, F_WRLCK), cmd_lock(RECORD, false, F_UNLCK), cmd_lock(OFD, true, F_WRLCK), cmd_lock(FLOCK, true, F_WRLCK)};
        T_THAT(actor_open(&actor, 0, dirs[i / 2], i % 2 ? "churn1" : "churn0") == 0, "open");
        for (int n = 0; n < 4; n++) {
            actor_start(&actor, all[n]);
            granted(&actor, "a lock was left behind");
        }
        finish(&actor);
    }
    printf("churn: %u processes killed, nothing left locked\n", killed);
}

/* ---- many ---- */
static void many(int count, char **dirs)
{
    int    a = t_open(dirs[0], "many", O_RDWR | O_CREAT, 0644), b = t_open(dirs[1], "many", O_RDWR, 0);
    double first = 0, last = 0;
    for (int i = 0; i < count; i++) {
        if (i % (count / 10) == 0)
            first = first ? first : (double)actor_now_ns(), last = i == count / 10 * 9 ? (double)actor_now_ns() : last;
        if (i == count / 10)
            printf("locks 1 to %d: %.0f a second\n", i, i / (((double)actor_now_ns() - first) / 1e9));
        T_OK(fcntl(a, F_SETLK, &(struct flock){.l_type = F_WRLCK, .l_start = 2 * i, .l_len = 1}));
    }
    printf("locks %d to %d: %.0f a second\n", count / 10 * 9 + 1, count, count / 10 / (((double)actor_now_ns() - last) / 1e9));
    pid_t child = T_OK(fork()); /* its own record locks: none */
    if (child == 0) {
        for (int i = 0; i < count; i += count / 100) {
            T_THAT(fcntl(b, F_SETLK, &(struct flock){.l_type = F_RDLCK, .l_start = 2 * i, .l_len = 1}) < 0 && errno == EAGAIN, "lock %d is not held", i);
            T_OK(fcntl(b, F_SETLK, &(struct flock){.l_type = F_WRLCK, .l_start = 2 * i + 1, .l_len = 1}));
        }
        _exit(0);
    }
    int status;
    T_OK(waitpid(child, &status, 0));
    T_THAT(status == 0, "the other mount's tries");
    int64_t then_ns = actor_now_ns();
    T_OK(close(a));
    printf("all %d given up by one close in %.1f ms\n", count, ms_since(then_ns));
    T_OK(fcntl(b, F_SETLK, &(struct flock){.l_type = F_WRLCK}));
    close(b);
}

/* ---- the daemon's death ---- */
static void daemon_dies(pid_t daemon, int number, char **dirs)
{
    struct actor holders[KINDS], waiters[KINDS], there[KINDS];
    for (int kind = 0; kind < KINDS; kind++) {
        char name[] = "daemon0";
        name[6] = (char)('0' + kind);
        holders[kind] = actor_new(), waiters[kind] = actor_new(), there[kind] = actor_new();
        T_THAT(actor_open(&holders[kind], 0, dirs[0], name) == 0 && actor_open(&waiters[kind], 0, dirs[1], name) == 0 &&
                   actor_open(&there[kind], 0, dirs[0], name) == 0,
               "open");
        must(&holders[kind], cmd_lock(kind, false, F_WRLCK), 0, "lock");
        begin(&waiters[kind], cmd_lock(kind, true, F_WRLCK), 20, "waiter");
        begin(&there[kind], cmd_lock(kind, true, F_WRLCK), 20, "waiter beside the holder");
    }
    int64_t then_ns = actor_now_ns();
    T_OK(kill(daemon, number));
    for (int kind = 0; kind < KINDS; kind++) {
        granted(&waiters[kind], kind_name[kind]);
        printf("signal %d to the holder's daemon: %s granted after %.1f ms\n", number, kind_name[kind], ms_since(then_ns));
    }
    for (int kind = 0; kind < KINDS; kind++) {
        int error = actor_wait(&there[kind], LONG_MS).error;
        T_THAT(error == EIO || error == ENOTCONN || error == ECONNABORTED, "%s: who waited on that mount gets %d", kind_name[kind], error);
        finish(&holders[kind]), finish(&waiters[kind]), finish(&there[kind]);
    }
}

/* The kernel does not ask a daemon for these. */
static void apart_directories(char **dirs)
{
    int a = T_OK(open(dirs[0], O_RDONLY | O_DIRECTORY)), b = T_OK(open(dirs[1], O_RDONLY | O_DIRECTORY)), same = T_OK(open(dirs[0], O_RDONLY | O_DIRECTORY));
    T_OK(flock(a, LOCK_EX | LOCK_NB));
    T_THAT(flock(same, LOCK_EX | LOCK_NB) != 0, "a directory's lock does not exclude on its own mount");
    printf("a directory locked on one mount is %s on the other\n", flock(b, LOCK_EX | LOCK_NB) == 0 ? "free" : "locked");
    close(a), close(b), close(same);
}

static void apart(char **dirs)
{
    for (int kind = 0; kind < KINDS; kind++) {
        struct actor a = actor_on(dirs[0]), same = actor_on(dirs[0]), b = actor_on(dirs[1]);
        must(&a, cmd_lock(kind, false, F_WRLCK), 0, "lock");
        expect_free(&same, kind, false, "on the same mount");
        expect_free(&b, kind, true, "on the other mount");
        finish(&a), finish(&same), finish(&b);
    }
    printf("each mount keeps locks to itself\n");
    apart_directories(dirs);
}

int main(int argc, char **argv)
{
    const char *what = argc > 3 ? argv[1] : "";
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (!strcmp(what, "order"))
        order(argv + 2);
    else if (!strcmp(what, "signals"))
        signals(argv + 2);
    else if (!strcmp(what, "kill"))
        kills(argv + 2);
    else if (!strcmp(what, "circles"))
        circles(argv + 2);
    else if (!strcmp(what, "rules"))
        rules(argv + 2);
    else if (!strcmp(what, "handover"))
        handover(argv + 2);
    else if (!strcmp(what, "apart"))
        apart(argv + 2);
    else if (!strcmp(what, "exclude"))
        for (int kind = 0; kind < KINDS; kind++)
            exclude_one(kind, strtod(argv[2], NULL), argv + 3, argc - 3);
    else if (!strcmp(what, "churn") && argc > 4)
        churn(argv[2], strtod(argv[3], NULL), argv + 4, argc - 4);
    else if (!strcmp(what, "many") && argc > 4)
        many(atoi(argv[2]), argv + 3);
    else if (!strcmp(what, "daemon") && argc > 5)
        daemon_dies(atoi(argv[2]), atoi(argv[3]), argv + 4);
    else
        t_die("usage: see the top of locks_wait.c");
    return 0;
}
