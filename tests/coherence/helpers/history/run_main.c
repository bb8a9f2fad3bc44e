/* SPDX-License-Identifier: Apache-2.0 */
/*
 * history run [OPTIONS] DIR DIR...     random operations through 2 or more mounts of one directory, recorded and judged
 * history self SEED ROUNDS             the judge judged (hist_self.c)
 *
 *   --seed N      --seconds N (0: until --operations are done)   --operations N   --threads N of each member   --changes PERCENT
 *   --window N    operations of each thread between two judgements      --locks: also fcntl and flock locks across members
 *   --only data|names
 *
 * Exit code: 0 all has a legal order; 3 a violation was found (printed, shrunk); 1 an operation failed as none may; 2 nothing moves any more.
 */
#include <getopt.h>
#include <sys/resource.h>
#include <time.h>

#include "run.h"
#include "t.h"

enum { STUCK_S = 180, VIOLATIONS_MAX = 3 };

struct run run = {.changes_percent = 12, .window = 2000, .data = true, .names = true, .clock_s = 1};

static struct runner      runners[THREADS_MAX];
static pthread_barrier_t  barrier;
static struct hist_states states[OBJECTS];
static struct hist_object objects[OBJECTS];
static _Atomic unsigned   next_object, violations, undecided;
static _Atomic uint64_t   judged;
static _Atomic bool       over;
static pthread_mutex_t    print_mutex = PTHREAD_MUTEX_INITIALIZER;
static uint64_t           seconds = 60, operations = UINT64_MAX, run_ns, judge_ns, windows;

uint64_t run_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t run_pick(struct runner *self, uint64_t bound)
{
    return (t_random(&self->random) >> 16) % bound;
}

uint64_t run_tag(struct runner *self)
{
    return (uint64_t)(self->index + 1) << 40 | ++self->sequence;
}

void run_doing(struct runner *self, const char *what)
{
    atomic_store_explicit(&self->doing, what, memory_order_relaxed);
    atomic_fetch_add_explicit(&self->progress, 1, memory_order_relaxed);
}

void run_refused(struct runner *self, const char *what)
{
    fprintf(stderr, "member %c, thread %u: %s (%s): %s\n", 'A' + self->member, self->index, self->doing, what, strerror(errno));
    _exit(1);
}

struct hist_op *run_record(struct runner *self, unsigned object, enum hist_kind kind, uint64_t call_ns, uint64_t return_ns)
{
    struct record *to = &self->record[object];
    if (to->count == to->room) {
        to->room = to->room ? to->room * 2 : 256;
        to->ops = realloc(to->ops, to->room * sizeof *to->ops);
        T_THAT(to->ops, "no memory");
    }
    struct hist_op *op = &to->ops[to->count++];
    *op = (struct hist_op){.start = call_ns, .end = return_ns, .call_ns = call_ns, .return_ns = return_ns, .kind = (uint8_t)kind,
                           .member = (uint8_t)self->member, .thread = (uint8_t)self->index};
    return op;
}

/* ---- judging ---- */
static void name_objects(void)
{
    static char names[O_LOG][32];
    for (unsigned i = 0; i < O_LOG; i++) {
        const char *file = i < O_STORE ? "cells" : i < O_BLOCK ? "stores" : "block";
        unsigned    number = i < O_STORE ? i : i < O_BLOCK ? i - O_STORE : i - O_BLOCK;
        snprintf(names[i], sizeof names[i], i < O_BLOCK ? "%s, page %u, cell %u" : "%s %u", file, i < O_BLOCK ? number / 4 : number, number % 4);
        objects[i] = (struct hist_object){.class = HIST_REGISTER, .name = names[i]};
    }
    objects[O_LOG] = (struct hist_object){.class = HIST_LOG, .name = "log"};
    objects[O_TFILE] = (struct hist_object){.class = HIST_TFILE, .name = "tfile"};
    objects[O_MTIME] = (struct hist_object){.class = HIST_REGISTER, .name = "mtime"};
    objects[O_MODE] = (struct hist_object){.class = HIST_REGISTER, .name = "mode"};
    objects[O_XATTR] = (struct hist_object){.class = HIST_REGISTER, .name = "extended attribute"};
    for (unsigned i = 0; i < 3; i++)
        objects[O_FILES + i] = names_object[i];
    objects[O_LOCK_OFD] = (struct hist_object){.class = HIST_LOCK, .name = "OFD lock"};
    objects[O_LOCK_FLOCK] = (struct hist_object){.class = HIST_LOCK, .name = "flock"};
    objects[O_COUNTER] = (struct hist_object){.class = HIST_REGISTER, .name = "counter under flock"};
    objects[O_COUNTER + 1] = (struct hist_object){.class = HIST_REGISTER, .name = "counter under the OFD lock"};
    for (unsigned i = 0; i < OBJECTS; i++)
        states[i].count = 1;
}

/*
 * What rests on where this kernel believes the file to end is not judged (hearthfs-coherence(7)): a read through the page cache that meets the end, or zeros behind it, and SEEK_END.
 * Nor, as long as the defect "Sizes under constant asking" stands there, is a size that the kernel has by itself (an fstat that took no longer than AT_ONCE_NS). What fstat says
 * that asked the daemon, O_DIRECT reads, and all data that is not zero are judged.
 */
enum { AT_ONCE_NS = 5000 };

static void leave_out_ends(struct hist_op *ops, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (ops[i].kind == HIST_T_READ && ops[i].way == WAY_READ && !ops[i].a)
            ops[i].dropped = 1;
        bool size = ops[i].kind == HIST_COUNT || ops[i].kind == HIST_T_SIZE;
        if (size && (ops[i].way != WAY_STAT || ops[i].return_ns - ops[i].call_ns < AT_ONCE_NS))
            ops[i].dropped = 1;
    }
}

static void judge(unsigned object)
{
    struct hist_fault  fault = {0};
    struct hist_states before = states[object];
    size_t             count = 0, at = 0;
    for (unsigned i = 0; i < run.threads; i++)
        count += runners[i].record[object].count;
    struct hist_op *ops = malloc((count + 1) * sizeof *ops);
    T_THAT(ops, "no memory");
    for (unsigned i = 0; i < run.threads; i++) {
        struct record *from = &runners[i].record[object];
        if (from->count)
            memcpy(ops + at, from->ops, from->count * sizeof *ops);
        at += from->count;
        from->count = 0;
    }
    judged += count;
    if (object == O_TFILE || object == O_LOG)
        leave_out_ends(ops, count);
    count = hist_widen(&objects[object], ops, count);
    enum hist_verdict verdict = hist_check(&objects[object], ops, count, &states[object], &fault);
    if (verdict == HIST_UNDECIDED)
        undecided++;
    if (verdict == HIST_ILLEGAL && violations++ < VIOLATIONS_MAX) {
        pthread_mutex_lock(&print_mutex);
        hist_explain(&objects[object], ops, count, &before, &fault);
        pthread_mutex_unlock(&print_mutex);
    }
    free(ops);
}

/* ---- threads ---- */
static void window_run(struct runner *self)
{
    for (uint64_t i = 0; i < run.window; i++) {
        bool change = run_pick(self, 100) < run.changes_percent;
        if (run.locks && run_pick(self, 100) < 2)
            data_lock_step(self);
        else if (run.names && (!run.data || run_pick(self, 4) == 0))
            names_step(self, change);
        else
            data_step(self, change);
        self->made++;
    }
}

static void window_between(uint64_t began)
{
    uint64_t made = 0;
    windows++;
    for (unsigned i = 0; i < run.threads; i++)
        made += runners[i].made;
    over = violations || undecided || made >= operations || (seconds && run_now() - began >= seconds * 1000000000u);
    run.changer = windows % run.members;
    next_object = 0;
    if (run.log_base && run.data)
        data_log_restart(&runners[0]);
    if (!run.log_base)
        states[O_LOG] = (struct hist_states){.count = 1};
}

static void *thread_main(void *arg)
{
    struct runner *self = arg;
    uint64_t       began = run_now(), since = began;
    while (!over) {
        pthread_barrier_wait(&barrier);
        window_run(self);
        pthread_barrier_wait(&barrier);
        if (self->index < run.members) {
            if (run.data)
                data_sweep(self);
            if (run.names)
                names_sweep(self);
        }
        pthread_barrier_wait(&barrier);
        names_window_ends(self);
        if (self->index == 0) {
            run_ns += run_now() - since;
            since = run_now();
            if (data_log_settle(runners, run.threads) != 0)
                violations++;
        }
        pthread_barrier_wait(&barrier);
        for (unsigned object; (object = next_object++) < OBJECTS;)
            judge(object);
        pthread_barrier_wait(&barrier);
        if (self->index == 0) {
            window_between(began);
            judge_ns += run_now() - since;
            since = run_now();
        }
        pthread_barrier_wait(&barrier);
    }
    return NULL;
}

/* Says who is where when nothing moves any more. */
static void *watch_main(void *arg)
{
    (void)arg;
    uint64_t seen = 0;
    for (unsigned still_s = 0;; still_s++) {
        uint64_t now = judged;
        nanosleep(&(struct timespec){.tv_sec = 1}, NULL);
        for (unsigned i = 0; i < run.threads; i++)
            now += runners[i].progress;
        if (now != seen)
            still_s = 0;
        seen = now;
        if (still_s < STUCK_S)
            continue;
        fprintf(stderr, "STUCK: nothing moves for %d s\n", STUCK_S);
        for (unsigned i = 0; i < run.threads; i++)
            fprintf(stderr, "  member %c, thread %u: %s\n", 'A' + runners[i].member, i, runners[i].doing ? runners[i].doing : "begins");
        _exit(2);
    }
    return NULL;
}

static int run_all(char **dirs, const char *seed, unsigned each)
{
    pthread_t     thread[THREADS_MAX], watcher;
    struct rlimit files;
    run.threads = run.members * each;
    T_THAT(run.threads <= THREADS_MAX, "at most %d threads", THREADS_MAX);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    name_objects();
    data_make(dirs[0]);
    names_make(dirs[0], run.threads);
    for (unsigned i = 0; i < run.threads; i++) {
        runners[i] = (struct runner){.index = i, .member = i % run.members, .dir = dirs[i % run.members], .random = t_seed(seed, i)};
        data_open(&runners[i]);
        names_open(&runners[i]);
    }
    pthread_barrier_init(&barrier, NULL, run.threads);
    printf("seed %s: %u members, %u threads each\n", seed, run.members, each);
    fflush(stdout);
    for (unsigned i = 0; i < run.threads; i++)
        T_THAT(pthread_create(&thread[i], NULL, thread_main, &runners[i]) == 0, "no thread");
    T_THAT(pthread_create(&watcher, NULL, watch_main, NULL) == 0, "no thread");
    uint64_t made = 0, stale = 0;
    for (unsigned i = 0; i < run.threads; i++) {
        pthread_join(thread[i], NULL);
        made += runners[i].made;
        stale += runners[i].stale;
    }
    printf("%llu operations (%llu results judged) in %llu windows, %.1f s of running, %.1f s of judging, %.0f each second: %u violations, "
           "%u undecided, %llu refused with ESTALE, seed %s\n",
           (unsigned long long)made, (unsigned long long)judged, (unsigned long long)windows, (double)run_ns / 1e9, (double)judge_ns / 1e9,
           (double)made * 1e9 / (double)(run_ns + judge_ns), violations, undecided,
           (unsigned long long)stale, seed);
    return violations ? 3 : undecided ? 4 : 0;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"seed", 1, NULL, 's'},    {"seconds", 1, NULL, 't'}, {"operations", 1, NULL, 'o'},
                                            {"threads", 1, NULL, 'n'}, {"changes", 1, NULL, 'c'}, {"window", 1, NULL, 'w'},
                                            {"locks", 0, NULL, 'l'},   {"only", 1, NULL, 'y'},    {NULL, 0, NULL, 0}};
    const char *seed = "1";
    unsigned    each = 2;
    if (argc == 4 && !strcmp(argv[1], "self"))
        return self_test(argv[2], (unsigned)strtoul(argv[3], NULL, 0));
    T_THAT(argc > 1 && !strcmp(argv[1], "run"), "usage: history run [OPTIONS] DIR DIR... | history self SEED ROUNDS");
    for (int option; (option = getopt_long(argc - 1, argv + 1, "", options, NULL)) != -1;) {
        uint64_t number = optarg ? strtoull(optarg, NULL, 0) : 0;
        switch (option) {
        case 's':
            seed = optarg;
            break;
        case 't':
            seconds = number;
            break;
        case 'o':
            operations = number;
            break;
        case 'n':
            each = (unsigned)number;
            break;
        case 'c':
            run.changes_percent = (unsigned)number;
            break;
        case 'w':
            run.window = number;
            break;
        case 'l':
            run.locks = true;
            break;
        case 'y':
            run.data = !strcmp(optarg, "data");
            run.names = !strcmp(optarg, "names");
            break;
        default:
            t_die("no such option");
        }
    }
    run.members = (unsigned)(argc - 1 - optind);
    T_THAT(run.members >= 1 && run.members <= MEMBERS_MAX && run.window && (run.data || run.names), "2 to %d mounts", MEMBERS_MAX);
    return run_all(argv + 1 + optind, seed, each);
}
