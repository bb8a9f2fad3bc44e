/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fs_atime.c - access times.
 *
 * The kernel of a FUSE mount keeps none, and reads of ours do not move them at the origin (O_NOATIME). Where the mount asks for access times (relatime and the like), a READ, READLINK or READDIR that reaches the daemon is noted, if the access time is due:
 * as with relatime, when it is not after mtime and ctime, or a day old. A moment later one thread takes the inode's write lock, recalls the attributes from the other
 * kernels, and has the origin's file system note an access (origin_access), which moves the time as the origin's own mount options say, and nothing else: setting the time
 * would move ctime. Then the own kernel drops the attributes.
 *
 * What a kernel answers out of its page cache is not noted. What is noted is lost when the queue is full, or when the member ends before it is carried out: a later read notes it again.
 *
 * Locks: the mutex of the queue is a leaf. The thread waits for inode locks and recalls like any writer, and nobody waits for it.
 */
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>

#include "fs_internal.h"

enum { ATIME_QUEUE_MAX = 16384, ATIME_PAUSE_MS = 30, ATIME_DAY_S = 24 * 3600 };

struct fs_atime {
    pthread_mutex_t mutex;
    pthread_cond_t  cond;
    pthread_t       thread;
    _Atomic bool    stop;
    unsigned        head, count;
    uint64_t        id[ATIME_QUEUE_MAX];
};

static bool not_after(const struct cache_time *a, const struct cache_time *b)
{
    return a->sec < b->sec || (a->sec == b->sec && a->nsec <= b->nsec);
}

/* Times that are read while they change decide too early or too late, no more. */
static bool is_due(const struct fs *fs, const struct cache_attr *attr)
{
    struct timespec now;
    if (S_ISDIR(attr->mode) && fs->config.atime == FS_ATIME_NOT_OF_DIRS)
        return false;
    if (fs->config.atime == FS_ATIME_STRICT)
        return true;
    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    return not_after(&attr->atime, &attr->mtime) || not_after(&attr->atime, &attr->ctime) || now.tv_sec - attr->atime.sec >= ATIME_DAY_S;
}

void fs_atime_note(struct fs *fs, uint64_t id)
{
    struct fs_atime *atime = fs->atime;
    struct fs_node  *node = fs_node_at(fs, id);
    if (!atime || !node || atomic_load_explicit(&node->atime_noted, memory_order_relaxed))
        return;
    seg_epoch_enter(fs->seg);
    const struct cache_inode *inode = cache_inode_at(fs->cache, id);
    bool known = inode && (atomic_load_explicit(&inode->flags, memory_order_relaxed) & CACHE_ATTR_VALID);
    struct cache_attr attr = {0};
    if (known) {
        attr.mode = __atomic_load_n(&inode->attr.mode, __ATOMIC_RELAXED);
        attr.atime.sec = __atomic_load_n(&inode->attr.atime.sec, __ATOMIC_RELAXED);
        attr.atime.nsec = __atomic_load_n(&inode->attr.atime.nsec, __ATOMIC_RELAXED);
        attr.mtime.sec = __atomic_load_n(&inode->attr.mtime.sec, __ATOMIC_RELAXED);
        attr.mtime.nsec = __atomic_load_n(&inode->attr.mtime.nsec, __ATOMIC_RELAXED);
        attr.ctime.sec = __atomic_load_n(&inode->attr.ctime.sec, __ATOMIC_RELAXED);
        attr.ctime.nsec = __atomic_load_n(&inode->attr.ctime.nsec, __ATOMIC_RELAXED);
    }
    seg_epoch_exit(fs->seg);
    if ((known && !is_due(fs, &attr)) || atomic_exchange(&node->atime_noted, 1))
        return;
    pthread_mutex_lock(&atime->mutex);
    bool kept = atime->count < ATIME_QUEUE_MAX;
    if (kept) {
        atime->id[(atime->head + atime->count) % ATIME_QUEUE_MAX] = id;
        if (atime->count++ == 0)
            pthread_cond_signal(&atime->cond);
    }
    pthread_mutex_unlock(&atime->mutex);
    if (!kept)
        atomic_store(&node->atime_noted, 0);
}

static bool stopping(void *arg)
{
    const struct fs *fs = arg;
    return atomic_load_explicit(&fs->atime->stop, memory_order_relaxed);
}

static int access_locked(struct fs *fs, uint64_t id, struct lock_ref lock)
{
    struct lock_recall recall = {.ref = lock, .kind = WORK_RECALL_DATA, .arg = 0};
    struct origin_ref  ref;
    struct origin_attr fresh;
    struct cache_attr  attr;

    fs_outside_settle(fs, lock); /* what is published below would hide it */
    int result = fs_ref(fs, id, &ref);
    if (result == 0)
        result = lock_recall_all(fs->lock, &recall, 1, 0);
    if (result != 0)
        return result;
    seg_count(fs->seg, SEG_COUNTER_origin_meta_ops, 1);
    result = origin_access(fs->origin, &ref, &fresh);
    if (result != 0)
        return result; /* nothing has changed that matters */
    fs_attr_to_cache(&fresh, &attr);
    cache_attr_publish(fs->cache, id, &attr);
    return 0;
}

static void carry_out(struct fs *fs, uint64_t id)
{
    struct fs_node   *node = fs_node_at(fs, id);
    struct cache_attr attr;
    struct lock_ref   lock = cache_lock_ref(fs->cache, id);
    int               result = lock.words && fs_stands(fs) && !stopping(fs) ? fs_attr_now(fs, id, &attr) : -ESTALE;

    if (result == 0 && is_due(fs, &attr) && lock_write_acquire(fs->lock, &lock, 0, stopping, fs) == 0) {
        result = access_locked(fs, id, lock);
        lock_write_release(fs->lock, &lock);
        if (result == 0)
            fuse_lowlevel_notify_inval_inode(fs->se, id, -1, 0); /* attributes only: waits for nothing */
    }
    if (node)
        atomic_store(&node->atime_noted, 0);
}

static void *atime_main(void *arg)
{
    struct fs       *fs = arg;
    struct fs_atime *atime = fs->atime;
    struct timespec  pause = {.tv_nsec = ATIME_PAUSE_MS * 1000000L};

    prctl(PR_SET_NAME, "hearth-atime");
    pthread_mutex_lock(&atime->mutex);
    while (!atime->stop) {
        if (!atime->count) {
            pthread_cond_wait(&atime->cond, &atime->mutex);
            pthread_mutex_unlock(&atime->mutex);
            nanosleep(&pause, NULL); /* whoever reads a small file is done by then, and nothing of his waits for the lock */
            pthread_mutex_lock(&atime->mutex);
            continue;
        }
        uint64_t id = atime->id[atime->head];
        atime->head = (atime->head + 1) % ATIME_QUEUE_MAX;
        atime->count--;
        pthread_mutex_unlock(&atime->mutex);
        carry_out(fs, id);
        pthread_mutex_lock(&atime->mutex);
    }
    pthread_mutex_unlock(&atime->mutex);
    return NULL;
}

int fs_atime_start(struct fs *fs)
{
    if (fs->config.atime == FS_ATIME_NEVER || fs->config.read_only)
        return 0;
    struct fs_atime *atime = calloc(1, sizeof *atime);
    if (!atime)
        return -ENOMEM;
    pthread_mutex_init(&atime->mutex, NULL);
    pthread_cond_init(&atime->cond, NULL);
    fs->atime = atime;
    int result = pthread_create(&atime->thread, NULL, atime_main, fs);
    if (result == 0)
        return 0;
    fs->atime = NULL;
    free(atime);
    return -result;
}

void fs_atime_stop(struct fs *fs)
{
    struct fs_atime *atime = fs->atime;
    if (!atime)
        return;
    pthread_mutex_lock(&atime->mutex);
    atomic_store(&atime->stop, true);
    pthread_cond_signal(&atime->cond);
    pthread_mutex_unlock(&atime->mutex);
    pthread_join(atime->thread, NULL);
}

void fs_atime_free(struct fs *fs)
{
    free(fs->atime);
    fs->atime = NULL;
}
