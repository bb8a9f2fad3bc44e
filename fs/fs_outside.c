/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fs_outside.c - the origin was changed by somebody who is no member: noticing it, and putting cache and kernels right.
 *
 * What is compared: change time, size, modification time and link count of the origin's node with what the cache has. Every change by a member ends with the cache having what the
 * origin has, under the inode's write lock; so a difference that is still there under that lock, and after what was slipping past it is over, is somebody else's.
 *
 *   quick look        without a lock: a difference may be a member's change that is under way
 *   settle            under the write lock: looks again; the other kernels are recalled (phase WRITING: nothing slips by now); looks once more; drops pages, or names and listing; publishes
 *                     what the origin says
 *   own kernel        after that, and after the lock where somebody waits for it: what it asks for from now on is new, so one invalidation is enough, and nothing that it may
 *                     wait for waits for us
 * If this member dies while it settles: the lock word says WRITING, and recovery drops everything of the inode.
 *
 * Who looks:
 *   OPEN              at the inode, and at the directories above it as far as their names are known here: a name that leads elsewhere now is answered ESTALE,
 *                     and the kernel walks the path anew
 *                     with LOOKUP_REVAL, once; so is the OPEN that finds that a file has lost its last name (who comes by /proc/self/fd gets in then)
 *   every change      at what it is about to change: it publishes the origin's times afterwards, which would hide what was changed before
 *   the watch         at what the origin's watch names (fs_watch.c)
 *
 * OPEN is looked at by the receiver itself while enough others receive, or in lane CHECK; what takes a lock goes to that lane. Nobody needs an OPEN to go on: the lane may wait for anything.
 */
#include <stdlib.h>
#include <string.h>

#include "fs_internal.h"

enum { DEPTH_MAX = 64, SECOND_WALK_MS = 100 };

static bool time_is(const struct origin_time *a, const struct cache_time *b)
{
    return a->sec == b->sec && a->nsec == b->nsec;
}

enum seen { SEEN_SAME = 0, SEEN_DIFFERS = 1, SEEN_GONE = 2 };

/* One look: enum seen or -errno. *was: what the cache has (ino 0: the type only); *now: what the origin has, if it is there. */
static int look(struct fs *fs, uint64_t id, struct cache_attr *was, struct cache_attr *now)
{
    struct origin_ref  ref;
    struct origin_attr fresh;
    *was = (struct cache_attr){0};
    seg_epoch_enter(fs->seg);
    const struct cache_inode *inode = cache_inode_at(fs->cache, id);
    int                       known = inode ? cache_attr_get(fs->cache, id, was) : -ESTALE;
    if (inode && known != 0)
        was->mode = __atomic_load_n(&inode->attr.mode, __ATOMIC_RELAXED);
    if (inode)
        memcpy(&ref, inode->ref, sizeof ref);
    seg_epoch_exit(fs->seg);
    if (known == -ESTALE || (known != 0 && !was->mode))
        return known == -ESTALE ? -ESTALE : SEEN_SAME; /* nothing has ever been known of it, so nothing is cached */
    if (known != 0)
        was->nlink = 1;
    int result = origin_getattr(fs->origin, &ref, &fresh);
    if (result == -ESTALE || result == -ENOENT)
        return known == 0 && !was->nlink ? SEEN_SAME : SEEN_GONE;
    if (result != 0)
        return result;
    if (known == 0 && time_is(&fresh.ctime, &was->ctime) && fresh.size_bytes == was->size_bytes && time_is(&fresh.mtime, &was->mtime) &&
        fresh.nlink == was->nlink)
        return SEEN_SAME;
    fs_attr_to_cache(&fresh, now);
    return SEEN_DIFFERS;
}

static void names_drop(struct fs *fs, uint64_t dir, const struct cache_attr *attr)
{
    const uint64_t           dirs[2] = {dir, 0};
    const struct cache_attr *attrs[2] = {attr, NULL};
    cache_names_publish(fs->cache, NULL, 0, dirs, attrs); /* the version moves: what is being fetched is refused */
    cache_names_forget(fs->cache, dir);
}

static void own_data(struct fs *fs, void *arg)
{
    fs_inval_data(fs, (uint64_t)(uintptr_t)arg, 0, UINT32_MAX);
}

/* The own kernel, when the cache is right. wait: until it has dropped it all. */
static void own_kernel(struct fs *fs, uint64_t id, bool is_dir, bool wait)
{
    struct fs_node *node = fs_node_at(fs, id);
    if (is_dir) {
        fs_names_drop_own(fs, id, NULL, wait);
        return;
    }
    if (node)
        atomic_store(&node->shared, 1); /* as any recall of pages */
    if (wait || fs_notify_task(fs, own_data, (void *)(uintptr_t)id) != 0)
        own_data(fs, (void *)(uintptr_t)id);
}

/* It has no name any more, and the one that kernels know it by may have been forgotten here. */
static void prune_everywhere(struct fs *fs, uint64_t id)
{
    struct work_item          item = {.kind = WORK_PRUNE, .key = id};
    const struct cache_inode *inode = cache_inode_at(fs->cache, id);
    for (uint64_t known = inode ? atomic_load(&inode->known) : 0; known; known &= known - 1)
        work_post(fs->work, (unsigned)__builtin_ctzll(known), &item, true);
}

/* 1: it was changed, and is right now but in the own kernel. */
static int settle(struct fs *fs, struct lock_ref lock, bool *is_dir)
{
    struct cache_attr was, now;
    int               seen = look(fs, lock.id, &was, &now);
    if (seen <= 0)
        return seen;
    *is_dir = S_ISDIR(was.mode);
    struct lock_recall recall = {.ref = lock, .kind = *is_dir ? WORK_RECALL_NAMES : WORK_RECALL_DATA, .arg = *is_dir ? 0 : UINT32_MAX};
    int                result = lock_recall_all(fs->lock, &recall, 1, 0);
    if (result != 0)
        return result;
    seen = look(fs, lock.id, &was, &now); /* without what has slipped by meanwhile */
    if (seen <= 0)
        return seen;
    seg_count(fs->seg, SEG_COUNTER_outside_changes, 1);
    if (seen == SEEN_GONE) {
        now = was;
        now.nlink = 0;
    }
    const struct cache_attr *attr = now.ino ? &now : NULL;
    if (*is_dir)
        names_drop(fs, lock.id, attr);
    else
        cache_drop(fs->cache, lock.id, 0, UINT64_MAX, attr);
    if (!now.nlink)
        prune_everywhere(fs, lock.id);
    return 1;
}

static bool is_on(const struct fs *fs)
{
    return fs->config.revalidate_ms != FS_REVALIDATE_NEVER || fs->config.watch != FS_WATCH_NONE;
}

int fs_outside_settle(struct fs *fs, struct lock_ref lock)
{
    bool is_dir = false;
    int  result = is_on(fs) && lock.words ? settle(fs, lock, &is_dir) : 0;
    if (result == 1)
        own_kernel(fs, lock.id, is_dir, false);
    return result == 1; /* an error is the change's own to find */
}

int fs_outside_check(struct fs *fs, uint64_t id)
{
    struct cache_attr was, now;
    bool              is_dir = false;
    int               result = is_on(fs) ? look(fs, id, &was, &now) : 0;
    if (result <= 0)
        return result;
    struct lock_ref lock = cache_lock_ref(fs->cache, id);
    result = lock.words ? lock_write_acquire(fs->lock, &lock, 0, NULL, NULL) : -ESTALE;
    if (result != 0)
        return result;
    result = settle(fs, lock, &is_dir);
    lock_write_release(fs->lock, &lock);
    if (result == 1)
        own_kernel(fs, id, is_dir, true);
    return result;
}

/* ---- OPEN ---- */
struct step { /* one level of the path: an inode, and what is known of the way to it */
    uint64_t id, dir; /* dir 0: not known, or the root */
    char     name[256];
};

static uint32_t now_ms(void)
{
    return (uint32_t)fs_now_ms() | 1;
}

/* Is it to be looked at, or was it a moment ago? */
static bool is_due(struct fs *fs, uint64_t id)
{
    const struct fs_node *node = fs_node_at(fs, id);
    uint32_t              last = node ? atomic_load_explicit(&node->checked_ms, memory_order_relaxed) : 0;
    return !fs->config.revalidate_ms || !last || now_ms() - last >= fs->config.revalidate_ms;
}

static void is_checked(struct fs *fs, uint64_t id)
{
    struct fs_node *node = fs_node_at(fs, id);
    if (node && fs->config.revalidate_ms)
        atomic_store_explicit(&node->checked_ms, now_ms(), memory_order_relaxed);
}

static void step_find(struct fs *fs, struct step *step, uint64_t id)
{
    size_t length;
    step->id = id;
    if (id == CACHE_ROOT_ID || cache_name_of(fs->cache, id, &step->dir, step->name, &length) != 0)
        step->dir = 0;
}

static bool is_without_name(struct fs *fs, uint64_t id)
{
    struct cache_attr attr;
    seg_epoch_enter(fs->seg);
    bool gone = cache_attr_get(fs->cache, id, &attr) == 0 && !attr.nlink;
    seg_epoch_exit(fs->seg);
    return gone;
}

/*
 * ESTALE makes the kernel walk the path once more, with each name looked up anew; a second ESTALE would reach the program. What that walk finds was there
 * after the call began, and is right whatever
 * has happened since. So the next OPEN of a thread that was just answered so is let in. The slot may be another thread's: then one of the two sees the old file or ESTALE.
 */
static bool is_second_walk(struct fs *fs, pid_t thread)
{
    _Atomic uint64_t *slot = &fs->revalidating[(uint32_t)thread % 64];
    uint64_t          have = atomic_load_explicit(slot, memory_order_relaxed);
    if (!have || have >> 32 != (uint32_t)thread)
        return false;
    atomic_store_explicit(slot, 0, memory_order_relaxed);
    return now_ms() - (uint32_t)have < SECOND_WALK_MS;
}

static void walk_again(struct fs *fs, pid_t thread)
{
    atomic_store_explicit(&fs->revalidating[(uint32_t)thread % 64], (uint64_t)(uint32_t)thread << 32 | now_ms(), memory_order_relaxed);
}

/* 0: all is as the cache has it. */
static int path_look(struct fs *fs, uint64_t id)
{
    struct cache_attr was, now;
    struct step       step;
    for (unsigned depth = 0; id && depth < DEPTH_MAX; depth++, id = step.dir) {
        if (is_due(fs, id)) {
            if (look(fs, id, &was, &now) != SEEN_SAME)
                return 1;
            is_checked(fs, id);
        }
        step_find(fs, &step, id);
    }
    return 0;
}

/* Looks under the locks, from the file upwards. The names are noted first: what settles a directory forgets them. */
static int path_check(struct fs *fs, uint64_t id)
{
    struct step *step = calloc(DEPTH_MAX, sizeof *step);
    unsigned     count = 0;
    int          result = step ? 0 : -ENOMEM;
    for (uint64_t at = id; result == 0 && at && count < DEPTH_MAX; at = step[count++].dir)
        step_find(fs, &step[count], at);
    bool moved = false; /* the way led elsewhere, or nowhere */
    for (unsigned i = 0; i < count && result == 0; i++) {
        uint64_t child = 0;
        if (fs_node_get(fs, step[i].id) != 0) /* a directory above may be one that this kernel has forgotten */
            continue;
        int changed = fs_outside_check(fs, step[i].id);
        fs_node_put(fs, step[i].id, 1);
        is_checked(fs, step[i].id);
        if (changed != 1)
            continue;
        moved |= i == 0 ? is_without_name(fs, id) : fs_lookup_now(fs, step[i].id, step[i - 1].name, false, &child, NULL) != 0 || child != step[i - 1].id;
    }
    free(step);
    return result == 0 && moved ? -ESTALE : result;
}

static void open_answer(struct fs *fs, struct fs_call *call, int result)
{
    if (result == 0) {
        fs_open_flags(fs, call->ino, &call->fi);
        fuse_reply_open(call->req, &call->fi);
    } else {
        fs_reply_error(call->req, result);
    }
}

static void open_check(struct fs *fs, struct fs_call *call)
{
    int result = path_check(fs, call->ino);
    if (result == -ESTALE && call->plus)
        result = 0; /* the second walk */
    else if (result == -ESTALE)
        walk_again(fs, fuse_req_ctx(call->req)->pid);
    open_answer(fs, call, result);
}

static void open_look(struct fs *fs, struct fs_call *call)
{
    if (path_look(fs, call->ino) == 0) {
        open_answer(fs, call, 0);
        return;
    }
    call->run = open_check;
    fs_call_again(fs, call, FS_LANE_CHECK);
}

bool fs_outside_open(fuse_req_t req, uint64_t ino, struct fuse_file_info *fi)
{
    struct fs *fs = fs_of(req);
    bool       looked = false;
    if (fs->config.revalidate_ms == FS_REVALIDATE_NEVER)
        return false;
    bool second = is_second_walk(fs, fuse_req_ctx(req)->pid); /* also where nothing has changed: it is over then */
    if (fs_in_place_begin(fs)) {
        looked = true;
        bool same = path_look(fs, ino) == 0;
        fs_in_place_end(fs);
        if (same)
            return false;
    }
    struct fs_call *call = fs_call_new(req, looked ? open_check : open_look, ino, false);
    if (call) {
        call->fi = *fi;
        call->plus = second;
        fs_call_queue(fs, call, FS_LANE_CHECK);
    }
    return true;
}
