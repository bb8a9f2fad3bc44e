/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fs_notify.c - recalls from other members, carried out on the own kernel.
 *
 * Threads of one set take turns at the member's inbox: one leads (takes the next item), hands the lead on, and carries out what it took, because carrying out may
 * block in the kernel. A thread is started whenever none is idle, so that a blocked one never keeps another recall waiting.
 *
 * Every recall is a job that is acknowledged exactly once (A1, the kernel invalidates, A3: see lock.h). A job is run directly; if a request arrives from
 * the own kernel that may be holding what the job waits for, somebody else runs the job again with that in mind ("rescue"), and whoever
 * finishes first acknowledges. The thread that is stuck in the kernel comes back when that request has been answered; its result no longer matters.
 *
 * Names. notify_inval_entry waits for the directory in the kernel: for LOOKUP and READDIR in flight (that is wanted: it drains them), and for requests that change
 * it. When one of those is in flight here, it holds the directory, so no LOOKUP or READDIR can be in flight there; then the whole mount's names
 * are made to be looked up again (FUSE_NOTIFY_INC_EPOCH), which waits for nothing. Kernels without it: the directory is marked write-shared for good, its names are
 * granted no time from then on. The same when the invalidation is seen blocked for long (rescue_stuck).
 */
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "fs_inval.h"
#include "seg_fault.h"

enum { NAMES_STUCK_MS = 10, NOTIFY_THREADS_MAX = 256, NOTIFY_CODE_EPOCH = 8, NOTIFY_CODE_PRUNE = 9 };

struct task {
    struct task *next;
    void (*run)(struct fs *fs, void *arg);
    void *arg;
};

struct fs_notify {
    pthread_mutex_t mutex;
    pthread_cond_t  cond, gone;
    struct task    *head, **tail;
    struct fs_job  *jobs; /* pending */
    unsigned        threads, idle;
    bool            led, stop;
};

int fs_kernel_notify(struct fs *fs, int code, const void *body, size_t size)
{
    struct {
        uint32_t len;
        int32_t  error;
        uint64_t unique;
    } header = {.len = (uint32_t)(sizeof header + size), .error = code, .unique = 0};
    struct iovec iov[2] = {{&header, sizeof header}, {(void *)body, size}};
    return writev(fuse_session_fd(fs->se), iov, size ? 2 : 1) < 0 ? -errno : 0;
}

/* ---- jobs ---- */
struct fs_job *fs_job_new(enum fs_job_kind kind, uint64_t id)
{
    struct fs_job *job = calloc(1, sizeof *job);
    if (!job)
        return NULL;
    job->kind = kind;
    job->id = id;
    job->refs = 1;
    return job;
}

/* After A1: from now on arriving requests find it. Those that came earlier are found by the job, which looks at them when it runs. */
void fs_job_publish(struct fs *fs, struct fs_job *job)
{
    pthread_mutex_lock(&fs->notify->mutex);
    job->since_ms = fs_now_ms();
    job->next = fs->notify->jobs;
    fs->notify->jobs = job;
    pthread_mutex_unlock(&fs->notify->mutex);
}

/* Is a recall of names waiting in the kernel for a directory that no request seen here holds? Then a system call holds it and may be asking for something else first. */
static bool names_stuck(void *arg)
{
    struct fs *fs = arg;
    uint64_t   now = fs_now_ms();
    bool       stuck = false;
    pthread_mutex_lock(&fs->notify->mutex);
    for (const struct fs_job *job = fs->notify->jobs; job && !stuck; job = job->next)
        stuck = job->kind == FS_JOB_NAMES && now - job->since_ms >= NAMES_STUCK_MS;
    pthread_mutex_unlock(&fs->notify->mutex);
    return stuck;
}

void fs_job_release(struct fs *fs, struct fs_job *job)
{
    pthread_mutex_lock(&fs->notify->mutex);
    bool last = --job->refs == 0;
    pthread_mutex_unlock(&fs->notify->mutex);
    if (last)
        free(job);
}

bool fs_job_finished(struct fs *fs, struct fs_job *job)
{
    pthread_mutex_lock(&fs->notify->mutex);
    bool finished = job->finished;
    pthread_mutex_unlock(&fs->notify->mutex);
    return finished;
}

void fs_job_finish(struct fs *fs, struct fs_job *job)
{
    pthread_mutex_lock(&fs->notify->mutex);
    bool first = !job->finished;
    job->finished = true;
    for (struct fs_job **at = &fs->notify->jobs; first && *at; at = &(*at)->next) {
        if (*at == job) {
            *at = job->next;
            break;
        }
    }
    pthread_mutex_unlock(&fs->notify->mutex);
    if (first && job->acknowledge) {
        struct lock_ref ref = cache_lock_ref(fs->cache, job->id);
        if (ref.words)
            fs_slip_gate(fs, &ref, job->round);
    }
}

/* ---- threads ---- */
static void *notify_main(void *arg);

/* The mutex is held: makes sure that somebody is there to lead or to take a task. */
static void wake_another(struct fs *fs)
{
    struct fs_notify *notify = fs->notify;
    if (notify->idle) {
        pthread_cond_signal(&notify->cond);
        return;
    }
    if (notify->threads >= NOTIFY_THREADS_MAX || notify->stop)
        return;
    pthread_t      thread;
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, 256 << 10);
    if (pthread_create(&thread, &attr, notify_main, fs) == 0)
        notify->threads++;
    pthread_attr_destroy(&attr);
}

int fs_notify_task(struct fs *fs, void (*run)(struct fs *fs, void *arg), void *arg)
{
    struct fs_notify *notify = fs->notify;
    struct task      *task = malloc(sizeof *task);
    if (!task)
        return -ENOMEM;
    *task = (struct task){.run = run, .arg = arg};
    pthread_mutex_lock(&notify->mutex);
    *notify->tail = task;
    notify->tail = &task->next;
    wake_another(fs);
    pthread_mutex_unlock(&notify->mutex);
    return 0;
}

/* ---- names ---- */
static void bump_epoch(struct fs *fs)
{
    seg_count(fs->seg, SEG_COUNTER_epoch_bumps, 1);
    fs_kernel_notify(fs, NOTIFY_CODE_EPOCH, NULL, 0);
}

/* The directory is held by a request of the own kernel: drop its names without waiting for it. */
static void names_without_waiting(struct fs *fs, uint64_t dir)
{
    if (fs->epoch_ok) {
        bump_epoch(fs);
    } else {
        struct cache_inode *inode = cache_inode_at(fs->cache, dir);
        if (inode)
            atomic_fetch_or(&inode->flags, CACHE_WRITE_SHARED);
    }
    fuse_lowlevel_notify_inval_inode(fs->se, dir, 0, 0);
}

static void drop_entry(struct fs *fs, uint64_t dir, const char *name, size_t length)
{
    fuse_lowlevel_notify_inval_entry(fs->se, dir, name, length);
    fuse_lowlevel_notify_inval_inode(fs->se, dir, 0, 0); /* its attributes and its cached listing, after the drain */
}

static void late_entry(struct fs *fs, void *arg)
{
    struct fs_job *job = arg;
    drop_entry(fs, job->id, job->name, job->length);
    fs_job_release(fs, job);
}

/* Every name of the directory. Without the epoch: the directory's own entry is dropped, and what hangs below it with it. */
static void all_names(struct fs *fs, uint64_t dir)
{
    uint64_t parent;
    char     name[256];
    size_t   length;
    if (fs->epoch_ok)
        bump_epoch(fs);
    else if (cache_name_of(fs->cache, dir, &parent, name, &length) == 0)
        fuse_lowlevel_notify_inval_entry(fs->se, parent, name, length);
    else
        names_without_waiting(fs, dir);
}

static void run_names(struct fs *fs, struct fs_job *job)
{
    if (fs_inflight_dir_busy(fs, job->id)) {
        names_without_waiting(fs, job->id);
        fs_job_finish(fs, job);
        if (!fs->epoch_ok) { /* at least when the request has been answered */
            pthread_mutex_lock(&fs->notify->mutex);
            job->refs++;
            pthread_mutex_unlock(&fs->notify->mutex);
            if (fs_notify_task(fs, late_entry, job) != 0)
                fs_job_release(fs, job);
        }
        return;
    }
    if (!job->length)
        all_names(fs, job->id); /* the entry below then only drains */
    drop_entry(fs, job->id, job->length ? job->name : "\001", job->length ? job->length : 1);
    fs_job_finish(fs, job);
}

static void own_names(struct fs *fs, void *arg)
{
    struct fs_job *job = arg;
    run_names(fs, job);
    fs_job_release(fs, job);
}

void fs_names_drop_own(struct fs *fs, uint64_t dir, const char *name, bool wait)
{
    struct timespec pause = {.tv_nsec = 50000};
    struct fs_job  *job = fs_job_new(FS_JOB_NAMES, dir);
    if (!job) {
        names_without_waiting(fs, dir);
        return;
    }
    if (name && strlen(name) < sizeof job->name)
        job->length = strlen(strcpy(job->name, name));
    job->refs = 2;
    fs_job_publish(fs, job);
    if (fs_notify_task(fs, own_names, job) != 0) {
        names_without_waiting(fs, dir);
        fs_job_finish(fs, job);
        fs_job_release(fs, job);
    }
    while (wait && !fs_job_finished(fs, job))
        nanosleep(&pause, NULL);
    fs_job_release(fs, job);
}

static void rescue_names(struct fs *fs, void *arg)
{
    struct fs_job *job = arg;
    if (!fs_job_finished(fs, job)) {
        names_without_waiting(fs, job->id);
        fs_job_finish(fs, job);
    }
    fs_job_release(fs, job);
}

/*
 * A recall of names that waits for a directory which no request seen here holds, nor a READDIR: a system call holds it, and waits for another directory, which a request
 * holds that waits for the very change this recall belongs to (lock_rename takes two). Nothing will arrive that tells, so time does: names are dropped
 * without waiting. The thread that is stuck finishes its own calls when it comes back.
 */
static void rescue_stuck(struct fs *fs)
{
    struct fs_job *found[NOTIFY_THREADS_MAX];
    unsigned       count = 0;
    uint64_t       now = fs_now_ms();
    pthread_mutex_lock(&fs->notify->mutex);
    for (struct fs_job *job = fs->notify->jobs; job && count < NOTIFY_THREADS_MAX; job = job->next) {
        const struct fs_node *node = fs_node_at(fs, job->id);
        if (job->kind != FS_JOB_NAMES || job->rescued || now - job->since_ms < NAMES_STUCK_MS || (node && atomic_load(&node->lists)))
            continue;
        job->rescued = true;
        job->refs++;
        found[count++] = job;
    }
    pthread_mutex_unlock(&fs->notify->mutex);
    while (count--)
        rescue_names(fs, found[count]);
}

/* Runs `rescue` for every pending job that matches. */
static void rescue_jobs(struct fs *fs, enum fs_job_kind kind, uint64_t id, void (*rescue)(struct fs *, void *))
{
    struct fs_job *found[NOTIFY_THREADS_MAX];
    unsigned       count = 0;
    pthread_mutex_lock(&fs->notify->mutex);
    for (struct fs_job *job = fs->notify->jobs; job && count < NOTIFY_THREADS_MAX; job = job->next) {
        if (job->kind == kind && (job->id == id || !id)) {
            job->refs++;
            found[count++] = job;
        }
    }
    pthread_mutex_unlock(&fs->notify->mutex);
    while (count--)
        if (fs_notify_task(fs, rescue, found[count]) != 0)
            fs_job_release(fs, found[count]);
}

void fs_notify_arrived_dir(struct fs *fs, uint64_t id)
{
    rescue_jobs(fs, FS_JOB_NAMES, id, rescue_names);
}

void fs_notify_arrived_write(struct fs *fs, uint64_t id)
{
    rescue_jobs(fs, FS_JOB_DATA, id, fs_job_rescue_data);
}

/* ---- items ---- */
static void prune(struct fs *fs, uint64_t id)
{
    struct {
        uint32_t count, padding;
        uint64_t spare, node;
    } body = {.count = 1, .node = id};
    uint64_t dir;
    char     name[256];
    size_t   length;

    seg_count(fs->seg, SEG_COUNTER_prunes, 1);
    if (fs->prune_ok && fs_kernel_notify(fs, NOTIFY_CODE_PRUNE, &body, sizeof body) == 0)
        return;
    if (cache_name_of(fs->cache, id, &dir, name, &length) == 0 && !fs_inflight_dir_busy(fs, dir))
        fuse_lowlevel_notify_inval_entry(fs->se, dir, name, length);
}

/* A recall that nobody waits for any more. */
static bool is_void(struct fs *fs, const struct work_item *item, const struct lock_shared *words)
{
    return !lock_recall_owed(fs->lock, words) || lock_recall_round(words) != item->round;
}

static void recall_names(struct fs *fs, const struct work_item *item)
{
    struct lock_ref ref = cache_lock_ref(fs->cache, item->key);
    if (ref.words && is_void(fs, item, ref.words))
        return;
    struct fs_job  *job = ref.words ? fs_job_new(FS_JOB_NAMES, item->key) : NULL;
    uint64_t        dir = 0;
    if (!job)
        return; /* gone, or the sender asks again */
    job->acknowledge = true;
    job->round = item->round;
    if (item->kind != WORK_RECALL_NAMES &&
        (cache_name_get(fs->cache, item->arg, &dir, job->name, &job->length) != 0 || dir != item->key))
        job->length = 0; /* the record is gone: all names of the directory */
    /* Other names of the directory stay, and so does the interest. */
    lock_recall_begin(fs->lock, &ref, item->kind == WORK_RECALL_NAME_MORE ? LOCK_SCOPE_MORE : LOCK_SCOPE_PART);
    if (seg_fault_here("recall.drop.names")) {
        fs_slip_gate(fs, &ref, item->round);
        fs_job_release(fs, job);
        return;
    }
    fs_job_publish(fs, job);
    run_names(fs, job);
    fs_job_release(fs, job);
}

/* A directory's interest also stands for its names, which a recall of its attributes does not drop. */
static enum lock_scope scope_of(struct fs *fs, uint64_t id, bool all)
{
    const struct cache_inode *inode = cache_inode_at(fs->cache, id);
    uint32_t                  mode = inode ? __atomic_load_n(&inode->attr.mode, __ATOMIC_RELAXED) : 0; /* its type never changes */
    if (!S_ISREG(mode) && !S_ISLNK(mode))
        return LOCK_SCOPE_PART;
    return all ? LOCK_SCOPE_ALL : LOCK_SCOPE_SHRINK;
}

static void recall_data(struct fs *fs, const struct work_item *item)
{
    struct lock_ref ref = cache_lock_ref(fs->cache, item->key);
    uint32_t        first = (uint32_t)(item->arg >> 32), count = (uint32_t)item->arg;
    if (!ref.words || is_void(fs, item, ref.words))
        return;
    if (lock_recall_begin(fs->lock, &ref, scope_of(fs, item->key, first == 0 && count == UINT32_MAX))) {
        first = 0;
        count = UINT32_MAX;
    }
    if (seg_fault_here("recall.drop.data")) {
        fs_slip_gate(fs, &ref, item->round);
        return;
    }
    if (!count) { /* attributes only: waits for nothing */
        fuse_lowlevel_notify_inval_inode(fs->se, item->key, -1, 0);
        fs_slip_gate(fs, &ref, item->round);
        return;
    }
    struct fs_node *node = fs_node_at(fs, item->key);
    if (node)
        atomic_store(&node->shared, 1); /* before A2: pages that are read from then on are marked */
    struct fs_job *job = fs_job_new(FS_JOB_DATA, item->key);
    if (!job)
        return;
    job->acknowledge = true;
    job->round = item->round;
    job->first = first;
    job->last = count == UINT32_MAX ? UINT64_MAX : (uint64_t)first + count - 1;
    fs_job_publish(fs, job);
    fs_job_run_data(fs, job);
    fs_job_release(fs, job);
}

static bool waits_for_nothing(const struct work_item *item)
{
    return item->kind == WORK_LOCK_EVENT || item->kind == WORK_LOCK_GRANT || item->kind == WORK_PING || item->kind == WORK_NONE;
}

static void carry_out(struct fs *fs, const struct work_item *item)
{
    switch (item->kind) {
    case WORK_RECALL_DATA:
        recall_data(fs, item);
        break;
    case WORK_RECALL_NAME:
    case WORK_RECALL_NAME_MORE:
    case WORK_RECALL_NAMES:
        recall_names(fs, item);
        break;
    case WORK_LOCK_EVENT:
        lock_event(fs->lock, item->key);
        break;
    case WORK_PRUNE:
        prune(fs, item->key);
        break;
    case WORK_LOCK_GRANT:
        fs_lock_granted(fs, item->key, item->arg);
        break;
    case WORK_FORGOTTEN:
        fs_node_forgotten(fs, item->key);
        break;
    case WORK_EVICT:
        cache_evict(fs->cache, item->key < 1024 ? (uint32_t)item->key : 1024);
        break;
    default:
        break; /* a kind of a newer program, or a peer's nonsense */
    }
}

/* Leads: takes the next item, or sleeps for a moment. False: nothing there. */
static bool lead(struct fs *fs, struct work_item *item)
{
    fs_lock_tick(fs);
    if (work_take(fs->work, item) == 1 || work_take_shared(fs->work, item) == 1)
        return true;
    pthread_mutex_lock(&fs->notify->mutex);
    bool busy = fs->notify->jobs != NULL;
    pthread_mutex_unlock(&fs->notify->mutex);
    work_sleep(fs->work, busy ? NAMES_STUCK_MS : WORK_SLEEP_MS);
    return false;
}

static void *notify_main(void *arg)
{
    struct fs        *fs = arg;
    struct fs_notify *notify = fs->notify;

    prctl(PR_SET_NAME, "hearth-notify");
    pthread_mutex_lock(&notify->mutex);
    while (!notify->stop || notify->head) {
        struct task *task = notify->head;
        if (task) {
            if (!(notify->head = task->next))
                notify->tail = &notify->head;
            if (!notify->led || notify->head)
                wake_another(fs); /* this thread may be gone for long */
            pthread_mutex_unlock(&notify->mutex);
            task->run(fs, task->arg);
            free(task);
            pthread_mutex_lock(&notify->mutex);
            continue;
        }
        if (notify->led) {
            notify->idle++;
            pthread_cond_wait(&notify->cond, &notify->mutex);
            notify->idle--;
            continue;
        }
        struct work_item item;
        notify->led = true;
        pthread_mutex_unlock(&notify->mutex);
        bool taken = lead(fs, &item);
        while (taken && waits_for_nothing(&item)) {
            carry_out(fs, &item);
            taken = lead(fs, &item);
        }
        rescue_stuck(fs);
        pthread_mutex_lock(&notify->mutex);
        notify->led = false;
        if (!taken)
            continue;
        wake_another(fs);
        pthread_mutex_unlock(&notify->mutex);
        carry_out(fs, &item);
        pthread_mutex_lock(&notify->mutex);
    }
    if (--notify->threads == 0)
        pthread_cond_signal(&notify->gone);
    else
        pthread_cond_broadcast(&notify->cond);
    pthread_mutex_unlock(&notify->mutex);
    return NULL;
}

static void probe_kernel(struct fs *fs)
{
    struct {
        uint32_t count, padding;
        uint64_t spare;
    } none = {0};
    fs->epoch_ok = !fs->config.names_plain && fs_kernel_notify(fs, NOTIFY_CODE_EPOCH, NULL, 0) == 0;
    fs->prune_ok = fs_kernel_notify(fs, NOTIFY_CODE_PRUNE, &none, sizeof none) == 0;
}

int fs_notify_start(struct fs *fs)
{
    fs->notify = calloc(1, sizeof *fs->notify);
    if (!fs->notify)
        return -ENOMEM;
    pthread_mutex_init(&fs->notify->mutex, NULL);
    pthread_cond_init(&fs->notify->cond, NULL);
    pthread_cond_init(&fs->notify->gone, NULL);
    fs->notify->tail = &fs->notify->head;
    lock_stuck_set(fs->lock, names_stuck, fs);
    probe_kernel(fs);
    pthread_mutex_lock(&fs->notify->mutex);
    wake_another(fs);
    wake_another(fs);
    pthread_mutex_unlock(&fs->notify->mutex);
    return 0;
}

void fs_notify_stop(struct fs *fs)
{
    struct fs_notify *notify = fs->notify;
    if (!notify)
        return;
    pthread_mutex_lock(&notify->mutex);
    notify->stop = true;
    pthread_cond_broadcast(&notify->cond);
    work_kick(fs->work);
    while (notify->threads)
        pthread_cond_wait(&notify->gone, &notify->mutex);
    pthread_mutex_unlock(&notify->mutex);
    lock_stuck_set(fs->lock, NULL, NULL); /* nobody waits for a lock any more */
    free(notify);
    fs->notify = NULL;
}
