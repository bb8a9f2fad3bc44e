/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fs_watch.c - what the origin's watch tells, acted upon: -o watch.
 *
 * One thread. It reads what there is, forgets at once what the cache does not know (which most of a file system is), and notes the rest: nodes in a list,
 * names in another. After GATHER_MS, or when the lists are full, it carries
 * them out, each once: many writes to one file are one look. A node is looked at as OPEN does (fs_outside_check). A name is looked up at the origin and
 * compared with what the cache has: the same: somebody's
 * own change, which all kernels have been told of; otherwise, or when the cache does not know it any more (a kernel may), under the directory's write lock the
 * others' kernels are recalled for that name, the cache is put right, and
 * the own kernel follows. Many names of one directory: all of its names at once. A directory's times must not be taken for the truth about a name that waits
 * in the list: names are compared one by one.
 *
 * Everything is looked at when the watch begins (who has watched until now?), and when the queue ran over.
 *
 * This thread waits for locks, recalls and its own kernel, and nobody waits for it. It holds no lock of this process meanwhile.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#include "fs_internal.h"
#include "origin_watch.h"

enum { GATHER_MS = 5, NODES_MAX = 4096, NAMES_MAX = 1024, MANY_NAMES = 16, IDLE_MS = 200 };

struct fs_watch {
    struct fs           *fs;
    struct origin_watch *watch;
    pthread_t            thread;
    _Atomic bool         stop;
    bool                 started, all;
    unsigned             nodes, names;
    uint64_t             node[NODES_MAX];
    struct watched_name {
        uint64_t dir;
        char     name[256];
    } name[NAMES_MAX];
};

/* ---- hearing ---- */

static void note_node(struct fs_watch *watch, uint64_t id)
{
    for (unsigned i = watch->nodes; i > 0 && watch->nodes - i < 64; i--) /* those that come again and again come soon again */
        if (watch->node[i - 1] == id)
            return;
    if (watch->nodes < NODES_MAX)
        watch->node[watch->nodes++] = id;
    else
        watch->all = true;
}

static void note_name(struct fs_watch *watch, uint64_t dir, const char *name)
{
    if (strlen(name) >= sizeof watch->name[0].name)
        return;
    if (watch->names == NAMES_MAX) {
        note_node(watch, dir); /* its times have moved: all names */
        watch->all = true;
        return;
    }
    watch->name[watch->names].dir = dir;
    strcpy(watch->name[watch->names++].name, name);
}

/* The node behind a name, if the cache knows both. */
static uint64_t child_known(struct fs *fs, uint64_t dir, const char *name)
{
    uint64_t child = 0;
    seg_epoch_enter(fs->seg);
    if (cache_name_find(fs->cache, dir, name, strlen(name), &child) != 0 || child == CACHE_NAME_UNKNOWN)
        child = 0;
    seg_epoch_exit(fs->seg);
    return child;
}

static void hear(void *arg, const struct origin_watch_event *event)
{
    struct fs_watch   *watch = arg;
    struct fs         *fs = watch->fs;
    struct origin_ref  dir_ref, ref;
    struct origin_attr attr;
    uint64_t           dir = 0, node = 0;

    if (event->what == ORIGIN_WATCH_ALL) {
        seg_count(fs->seg, SEG_COUNTER_watch_overflows, watch->started);
        watch->all = true;
        return;
    }
    if (event->node && cache_inode_find(fs->cache, event->node, &node) == 0)
        note_node(watch, node);
    if (!event->dir || !event->name || cache_inode_find(fs->cache, event->dir, &dir) != 0)
        return;
    if (event->what == ORIGIN_WATCH_NAME) {
        note_name(watch, dir, event->name);
    } else if (!event->node) {
        node = child_known(fs, dir, event->name);
        if (!node && fs_ref(fs, dir, &dir_ref) == 0 && origin_lookup(fs->origin, &dir_ref, event->name, &ref, &attr) == 0)
            (void)cache_inode_find(fs->cache, &ref, &node);
        if (node)
            note_node(watch, node);
    }
}

/* ---- acting ---- */

static int check_node(struct fs *fs, uint64_t id)
{
    if (fs_node_get(fs, id) != 0)
        return 0;
    int changed = fs_outside_check(fs, id);
    fs_node_put(fs, id, 1);
    return changed;
}

/* What a name stands for at the origin: a node that the cache knows, CACHE_NAME_NEGATIVE, or CACHE_NAME_UNKNOWN: one that it does not know. */
static int name_now(struct fs *fs, uint64_t dir, const char *name, uint64_t *child)
{
    struct origin_ref  dir_ref, ref;
    struct origin_attr attr;
    int                result = fs_ref(fs, dir, &dir_ref);
    if (result == 0)
        result = origin_lookup(fs->origin, &dir_ref, name, &ref, &attr);
    if (result == -ENOENT) {
        *child = CACHE_NAME_NEGATIVE;
        return 0;
    }
    if (result == 0 && cache_inode_find(fs->cache, &ref, child) != 0)
        *child = CACHE_NAME_UNKNOWN;
    return result;
}

/* Does the cache have it as it is? */
static bool name_is_right(struct fs *fs, uint64_t dir, const char *name, uint64_t child)
{
    uint64_t cached = CACHE_NAME_UNKNOWN;
    seg_epoch_enter(fs->seg);
    int result = cache_name_find(fs->cache, dir, name, strlen(name), &cached);
    seg_epoch_exit(fs->seg);
    return result == 0 && cached != CACHE_NAME_UNKNOWN && cached == child;
}

/* The directory's write lock is held. 1: the name was changed, or may have been. */
static int name_settle(struct fs *fs, struct lock_ref lock, const char *name)
{
    const uint64_t    dirs[2] = {lock.id, 0};
    struct origin_ref ref;
    struct cache_attr attr;
    struct origin_attr fresh;
    uint64_t          child, pin = 0;
    int               result = name_now(fs, lock.id, name, &child);

    if (result != 0 || name_is_right(fs, lock.id, name, child))
        return 0;
    bool               pinned = cache_name_pin(fs->cache, lock.id, name, strlen(name), &pin) == 0;
    struct lock_recall recall = {.ref = lock, .kind = pinned ? WORK_RECALL_NAME : WORK_RECALL_NAMES, .arg = pin};
    result = lock_recall_all(fs->lock, &recall, 1, 0);
    if (result == 0 && (result = name_now(fs, lock.id, name, &child)) == 0 && (result = fs_ref(fs, lock.id, &ref)) == 0) {
        const struct cache_name_change change = {lock.id, name, strlen(name), child};
        bool                           known = origin_getattr(fs->origin, &ref, &fresh) == 0;
        if (known)
            fs_attr_to_cache(&fresh, &attr);
        const struct cache_attr *attrs[2] = {known ? &attr : NULL, NULL};
        cache_names_publish(fs->cache, &change, 1, dirs, attrs);
        seg_count(fs->seg, SEG_COUNTER_outside_changes, 1);
    }
    if (pinned)
        cache_name_unpin(fs->cache, pin);
    return result == 0 ? 1 : result;
}

static void check_name(struct fs *fs, uint64_t dir, const char *name)
{
    uint64_t child = 0, before = child_known(fs, dir, name);
    if (name_now(fs, dir, name, &child) != 0)
        return;
    if (!name_is_right(fs, dir, name, child)) {
        struct lock_ref lock = cache_lock_ref(fs->cache, dir);
        if (!lock.words || lock_write_acquire(fs->lock, &lock, 0, NULL, NULL) != 0)
            return;
        int changed = name_settle(fs, lock, name);
        lock_write_release(fs->lock, &lock);
        if (changed == 1)
            fs_names_drop_own(fs, dir, name, true);
    }
    if (before)
        check_node(fs, before); /* it has lost a name, or moved */
    if (child != before && child != CACHE_NAME_NEGATIVE && child != CACHE_NAME_UNKNOWN)
        check_node(fs, child);
}

static int by_dir(const void *a, const void *b)
{
    const struct watched_name *x = a, *y = b;
    if (x->dir != y->dir)
        return x->dir < y->dir ? -1 : 1;
    return strcmp(x->name, y->name);
}

static void act_on_names(struct fs_watch *watch)
{
    struct fs *fs = watch->fs;
    qsort(watch->name, watch->names, sizeof watch->name[0], by_dir);
    for (unsigned i = 0, end; i < watch->names; i = end) {
        uint64_t dir = watch->name[i].dir;
        for (end = i + 1; end < watch->names && watch->name[end].dir == dir; end++)
            ;
        if (fs_node_get(fs, dir) != 0)
            continue;
        bool all = end - i >= MANY_NAMES && fs_outside_check(fs, dir) == 1;
        for (unsigned k = i; k < end; k++) {
            uint64_t child = all ? child_known(fs, dir, watch->name[k].name) : 0;
            if (k > i && strcmp(watch->name[k].name, watch->name[k - 1].name) == 0)
                continue;
            if (!all)
                check_name(fs, dir, watch->name[k].name);
            else if (child)
                check_node(fs, child);
        }
        if (!all)
            (void)fs_outside_check(fs, dir); /* a change that came back to what it was has moved its times */
        fs_node_put(fs, dir, 1);
    }
    watch->names = 0;
}

/* Everything that the cache knows. */
static void act_on_all(struct fs_watch *watch)
{
    struct fs       *fs = watch->fs;
    struct seg_array inodes = seg_section(fs->seg, SEG_SECTION_INODES);
    for (uint32_t index = 1; index < fs->node_count && !atomic_load(&watch->stop); index++) {
        const struct cache_inode *inode = seg_elem(&inodes, index);
        uint64_t                  word = atomic_load(&inode->pool);
        if (seg_pool_word_state(word) == SEG_POOL_LIVE)
            check_node(fs, (uint64_t)seg_pool_word_aux(word) << 32 | index);
    }
}

static void act(struct fs_watch *watch)
{
    if (watch->all) {
        watch->all = false;
        watch->names = watch->nodes = 0;
        act_on_all(watch);
        return;
    }
    act_on_names(watch);
    for (unsigned i = 0; i < watch->nodes; i++)
        check_node(watch->fs, watch->node[i]);
    watch->nodes = 0;
}

static int listen_once(struct fs_watch *watch, int timeout_ms)
{
    struct timespec pause = {.tv_nsec = IDLE_MS * 1000000};
    int             count = origin_watch_read(watch->watch, timeout_ms);
    if (count > 0)
        seg_count(watch->fs->seg, SEG_COUNTER_watch_events, (uint64_t)count);
    if (count < 0) { /* no memory, say: something may have been lost */
        watch->all = true;
        nanosleep(&pause, NULL);
    }
    return count;
}

static void *watch_run(void *arg)
{
    struct fs_watch *watch = arg;
    struct timespec  gather = {.tv_nsec = GATHER_MS * 1000000};
    prctl(PR_SET_NAME, "hearth-watch");
    while (!atomic_load(&watch->stop)) {
        if (!watch->all && listen_once(watch, IDLE_MS) == 0)
            continue;
        if (!watch->all && (watch->nodes || watch->names)) {
            nanosleep(&gather, NULL);
            while (watch->nodes < NODES_MAX / 2 && watch->names < NAMES_MAX / 2 && listen_once(watch, 0) > 0)
                ;
        }
        if (fs_stands(watch->fs))
            act(watch);
    }
    return NULL;
}

static void kind_show(struct fs *fs, uint32_t flag)
{
    struct seg_member *self = seg_member(fs->seg, (unsigned)seg_self_slot(fs->seg));
    if (self)
        self->flags = (self->flags & ~(uint32_t)(SEG_MEMBER_WATCH_FANOTIFY | SEG_MEMBER_WATCH_INOTIFY)) | flag;
}

int fs_watch_start(struct fs *fs)
{
    static const enum origin_watch_kind kind[] = {
        [FS_WATCH_AUTO] = ORIGIN_WATCH_AUTO, [FS_WATCH_FANOTIFY] = ORIGIN_WATCH_FANOTIFY, [FS_WATCH_INOTIFY] = ORIGIN_WATCH_INOTIFY};
    if (fs->config.watch == FS_WATCH_NONE)
        return 0;
    struct fs_watch *watch = calloc(1, sizeof *watch);
    if (!watch)
        return -ENOMEM;
    watch->fs = fs;
    int result = origin_watch_open(fs->origin, kind[fs->config.watch], hear, watch, &watch->watch);
    watch->all = watch->started = true;
    if (result == 0 && (result = -pthread_create(&watch->thread, NULL, watch_run, watch)) != 0)
        origin_watch_close(watch->watch);
    if (result != 0) {
        free(watch);
        return result;
    }
    kind_show(fs, origin_watch_kind(watch->watch) == ORIGIN_WATCH_FANOTIFY ? SEG_MEMBER_WATCH_FANOTIFY : SEG_MEMBER_WATCH_INOTIFY);
    fs->watch = watch;
    return 0;
}

void fs_watch_stop(struct fs *fs)
{
    if (!fs->watch)
        return;
    atomic_store(&fs->watch->stop, true);
    pthread_join(fs->watch->thread, NULL);
    kind_show(fs, 0);
    origin_watch_close(fs->watch->watch);
    free(fs->watch);
    fs->watch = NULL;
}
