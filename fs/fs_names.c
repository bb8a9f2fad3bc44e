/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fs_names.c - everything that changes names: CREATE, MKNOD, MKDIR, SYMLINK, LINK, UNLINK, RMDIR, RENAME.
 *
 * One shape for all (struct change):
 *   arrived    the directories (and directories that may vanish) are registered in fs_inflight: the kernel holds them until we answer
 *   resolved   which inodes do the names stand for now?
 *   locked     directories and those inodes, in node-id order; do the names still stand for them? otherwise again
 *   recalled   the names from the directories' other kernels, attributes from the inodes'
 *   intent     written; then the origin's one step, as the caller
 *   published  names, attributes and listings in one version step for each directory; intent cleared; unlocked; answered
 * If this member dies: until the origin's step nothing has happened; then recovery forgets all names of the directories and attributes of the inodes in the intent.
 *
 * The kernel validates its cached listing by the directory's mtime, so that mtime must move with every change: where the origin's clock did not, it is moved by
 * one nanosecond.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs_internal.h"

enum { RESOLVE_TRIES_MAX = 100 };

struct change {
    struct fs         *fs;
    fuse_req_t         req;
    uint64_t           dir[2];
    const char        *name[2];
    bool               resolve[2]; /* the name must be resolved and its inode locked */
    uint64_t           child[2];   /* what the names stand for; 0: nothing           */
    uint64_t           extra;      /* a further inode to lock: the source of a link  */
    struct lock_ref    lock[FS_LOCKS];
    unsigned           lock_count;
    uint64_t           pin[2];
    bool               pinned[2];
    uint32_t           intent;
    struct fs_cred     cred;
    struct origin_ref  dir_ref[2];
    struct cache_attr  old_attr[2];
};

static int resolve(struct change *c, uint64_t child[2])
{
    for (unsigned i = 0; i < 2; i++) {
        child[i] = 0;
        if (!c->dir[i] || !c->resolve[i])
            continue;
        int result = fs_lookup_now(c->fs, c->dir[i], c->name[i], false, &child[i], NULL);
        if (result != 0)
            return result;
    }
    return 0;
}

static int lock_all(struct change *c)
{
    const uint64_t id[5] = {c->dir[0], c->dir[1], c->child[0], c->child[1], c->extra};
    c->lock_count = 0;
    for (unsigned i = 0; i < 5; i++) {
        if (!id[i])
            continue;
        struct lock_ref ref = cache_lock_ref(c->fs->cache, id[i]);
        if (!ref.words)
            return -EAGAIN; /* gone since it was resolved */
        c->lock[c->lock_count++] = ref;
    }
    return lock_write_acquire_set(c->fs->lock, c->lock, c->lock_count, NULL, NULL);
}

/* Locks what the names stand for, and makes sure that they do. */
static int lock_resolved(struct change *c)
{
    for (unsigned tries = 0; tries < RESOLVE_TRIES_MAX; tries++) {
        uint64_t now[2];
        int      result = resolve(c, c->child);
        if (result != 0)
            return result;
        result = lock_all(c);
        if (result == -EAGAIN)
            continue;
        if (result != 0)
            return result;
        result = resolve(c, now);
        if (result == 0 && now[0] == c->child[0] && now[1] == c->child[1] && cache_inode_at(c->fs->cache, c->dir[0]))
            return 0;
        lock_write_release_set(c->fs->lock, c->lock, c->lock_count);
        if (result != 0)
            return result;
    }
    return -EBUSY;
}

static struct lock_ref locked_ref(const struct change *c, uint64_t id)
{
    for (unsigned i = 0; i < c->lock_count; i++)
        if (c->lock[i].id == id)
            return c->lock[i];
    return (struct lock_ref){0};
}

/* A directory that gets another parent: kernels have its listing, with the old "..", and nothing of its own says that it is old. */
static bool moves_away(const struct change *c, uint64_t child)
{
    struct cache_attr attr;
    return child && c->dir[1] && c->dir[0] != c->dir[1] && (fs_attr_now(c->fs, child, &attr) != 0 || S_ISDIR(attr.mode));
}

static int recall_all(struct change *c)
{
    struct lock_recall recall[FS_LOCKS + 2];
    const uint64_t     inode[3] = {c->child[0], c->child[1], c->extra};
    unsigned           count = 0;

    for (unsigned i = 0; i < 2; i++) {
        if (!c->dir[i])
            continue;
        lock_interest_take(c->fs->lock, locked_ref(c, c->dir[i]).words); /* own interest: this kernel keeps the outcome */
        recall[count] = (struct lock_recall){.ref = locked_ref(c, c->dir[i]), .kind = WORK_RECALL_NAMES};
        c->pinned[i] = cache_name_pin(c->fs->cache, c->dir[i], c->name[i], strlen(c->name[i]), &c->pin[i]) == 0;
        if (c->pinned[i]) {
            recall[count].kind = i > 0 && c->dir[i] == c->dir[0] ? WORK_RECALL_NAME_MORE : WORK_RECALL_NAME;
            recall[count].arg = c->pin[i];
        }
        count++;
    }
    for (unsigned i = 0; i < 3; i++)
        if (inode[i] && inode[i] != c->dir[0] && inode[i] != c->dir[1])
            recall[count++] = (struct lock_recall){.ref = locked_ref(c, inode[i]), .kind = moves_away(c, inode[i]) ? WORK_RECALL_NAMES : WORK_RECALL_DATA};
    return lock_recall_all(c->fs->lock, recall, count, 0);
}

static void release(struct change *c)
{
    for (unsigned i = 0; i < 2; i++)
        if (c->pinned[i])
            cache_name_unpin(c->fs->cache, c->pin[i]);
    lock_write_release_set(c->fs->lock, c->lock, c->lock_count);
}

/* Were the directories, or what the names stand for, changed from outside? Then the names may stand for something else: 1. */
static int settle_outside(struct change *c)
{
    int changed = 0;
    for (unsigned i = 0; i < c->lock_count; i++)
        changed |= c->lock[i].id ? fs_outside_settle(c->fs, c->lock[i]) : 0;
    return changed;
}

/* From "arrived" to "intent". 0: the caller carries it out and calls change_end; otherwise everything is undone. */
static int change_begin(struct change *c)
{
    int result = lock_resolved(c);
    for (unsigned tries = 0; result == 0 && tries < RESOLVE_TRIES_MAX && settle_outside(c); tries++) {
        lock_write_release_set(c->fs->lock, c->lock, c->lock_count);
        result = lock_resolved(c);
    }
    if (result != 0)
        return result;
    for (unsigned i = 0; i < 2 && result == 0; i++) {
        if (!c->dir[i])
            continue;
        result = fs_ref(c->fs, c->dir[i], &c->dir_ref[i]);
        if (result == 0)
            result = fs_attr_now(c->fs, c->dir[i], &c->old_attr[i]);
    }
    if (result == 0)
        result = recall_all(c);
    if (result != 0) {
        release(c);
        return result;
    }
    const uint64_t id[4] = {c->dir[0], c->dir[1], c->child[0] ? c->child[0] : c->extra, c->child[1]};
    c->intent = cache_intent_take(c->fs->cache, CACHE_INTENT_NAMES, id, 0, 0);
    seg_count(c->fs->seg, SEG_COUNTER_origin_meta_ops, 1);
    fs_cred_get(c->req, &c->cred);
    return 0;
}

static bool not_after(const struct origin_time *a, const struct cache_time *b)
{
    return a->sec < b->sec || (a->sec == b->sec && a->nsec <= b->nsec);
}

static int dir_attr_after(struct change *c, unsigned i, struct cache_attr *attr)
{
    static const struct origin_cred daemon_cred = {0};
    struct origin_attr              fresh;
    const struct cache_time        *old = &c->old_attr[i].mtime;
    int                             result = origin_getattr(c->fs->origin, &c->dir_ref[i], &fresh);

    if (result == 0 && not_after(&fresh.mtime, old)) {
        struct origin_attr want = {.mtime = {.sec = old->sec + (old->nsec == 999999999), .nsec = (old->nsec + 1) % 1000000000}};
        result = origin_setattr(c->fs->origin, &c->dir_ref[i], ORIGIN_SET_MTIME, &want, &daemon_cred, &fresh);
    }
    if (result == 0)
        fs_attr_to_cache(&fresh, attr);
    return result;
}

/* Attributes of an inode whose link count or ctime has changed. */
static void publish_inode(struct change *c, uint64_t id)
{
    struct origin_ref  ref;
    struct origin_attr fresh;
    struct cache_attr  attr;

    if (!id || id == c->dir[0] || id == c->dir[1])
        return;
    int result = fs_ref(c->fs, id, &ref);
    if (result == 0)
        result = origin_getattr(c->fs->origin, &ref, &fresh);
    if (result == 0)
        fs_attr_to_cache(&fresh, &attr);
    if (result != -ESTALE && result != -ENOENT) {
        cache_attr_publish(c->fs->cache, id, result == 0 ? &attr : NULL);
        return;
    }
    seg_epoch_enter(c->fs->seg);
    int known = cache_attr_get(c->fs->cache, id, &attr);
    seg_epoch_exit(c->fs->seg);
    attr.nlink = 0; /* its last name is gone, and the origin no longer gives it */
    cache_attr_publish(c->fs->cache, id, known == 0 ? &attr : NULL);
}

/* The own kernel adjusts the link count of the inode that it believes behind the name; after a change elsewhere it may have been another one. Waits for nothing. */
static void forget_own_attr(struct change *c)
{
    const uint64_t id[3] = {c->child[0], c->child[1], c->extra};
    for (unsigned i = 0; i < 3; i++)
        if (id[i])
            fuse_lowlevel_notify_inval_inode(c->fs->se, id[i], -1, 0);
}

/*
 * What the names stand for now (CACHE_NAME_UNKNOWN: look again), then unlocks. changed false: the origin refused, nothing has changed.
 */
static void change_end(struct change *c, bool changed, uint64_t child0, uint64_t child1)
{
    struct cache_attr        attr[2];
    const struct cache_attr *attr_of[2] = {NULL, NULL};
    struct cache_name_change names[2];
    unsigned                 count = 0;
    uint64_t                 dir[2] = {c->dir[0], c->dir[1] == c->dir[0] ? 0 : c->dir[1]};

    if (changed) {
        for (unsigned i = 0; i < 2; i++) {
            if (c->dir[i])
                names[count++] = (struct cache_name_change){c->dir[i], c->name[i], strlen(c->name[i]), i ? child1 : child0};
            if (dir[i] && dir_attr_after(c, i, &attr[i]) == 0)
                attr_of[i] = &attr[i];
        }
        cache_names_publish(c->fs->cache, names, count, dir, attr_of);
        publish_inode(c, c->child[0]);
        if (c->child[1] != c->child[0])
            publish_inode(c, c->child[1]);
        publish_inode(c, c->extra);
    }
    cache_intent_clear(c->fs->cache, c->intent);
    release(c);
    if (changed)
        forget_own_attr(c);
}

/* Errors after which the origin is as it was; after any other one must look again. */
static bool surely_unchanged(int result)
{
    switch (-result) {
    case EEXIST: case ENOENT: case ENOTEMPTY: case ENOTDIR: case EISDIR: case EPERM: case EACCES: case EINVAL: case ENAMETOOLONG:
    case ENOSPC: case EDQUOT: case EROFS: case EMLINK: case EXDEV: case ELOOP: case EBUSY:
        return true;
    default:
        return false;
    }
}

static void change_failed(struct change *c, int result)
{
    bool unchanged = surely_unchanged(result) && result != -EEXIST && result != -ENOENT; /* those say that what we know is old */
    change_end(c, !unchanged, CACHE_NAME_UNKNOWN, CACHE_NAME_UNKNOWN);
}

static struct change change_of(struct fs *fs, struct fs_call *call)
{
    return (struct change){.fs = fs, .req = call->req, .dir = {call->ino, call->other}, .name = {call->name, call->name2}};
}

/* ---- making ---- */
static int make(struct change *c, struct fs_call *call, struct origin_ref *ref, struct origin_attr *attr, bool *created)
{
    const struct origin_ref *dir = &c->dir_ref[0];
    *created = true;
    switch (call->mode & S_IFMT) {
    case S_IFDIR:
        return origin_mkdir(c->fs->origin, dir, call->name, call->mode & 07777, &c->cred.cred, ref, attr);
    case S_IFLNK:
        return origin_symlink(c->fs->origin, dir, call->name, call->data, &c->cred.cred, ref, attr);
    case S_IFREG:
        return origin_create(c->fs->origin, dir, call->name, call->mode & 07777, (int)call->flags, &c->cred.cred, ref, attr, created);
    default:
        return origin_mknod(c->fs->origin, dir, call->name, call->mode, call->rdev, &c->cred.cred, ref, attr);
    }
}

/* Makes the node; on success it is known to this kernel once more. */
static int make_node(struct fs *fs, struct fs_call *call, uint64_t *id, struct cache_attr *attr)
{
    struct change      c = change_of(fs, call);
    struct origin_ref  ref;
    struct origin_attr fresh;
    bool               created;

    c.dir[1] = 0;
    int result = change_begin(&c);
    if (result != 0)
        return result;
    result = make(&c, call, &ref, &fresh, &created);
    if (result == 0)
        result = fs_intern(fs, &ref, true, id);
    if (result != 0) {
        change_failed(&c, result);
        return result;
    }
    change_end(&c, true, *id, 0);
    if (fs_attr_now(fs, *id, attr) != 0)
        fs_attr_to_cache(&fresh, attr); /* another member has removed it already: it was made all the same */
    return 0;
}

static void change_make(struct fs *fs, struct fs_call *call)
{
    struct cache_attr       attr;
    struct fuse_entry_param entry;
    uint64_t                id;
    int                     result = make_node(fs, call, &id, &attr);

    fs_inflight_done(fs, call->inflight);
    if (result != 0) {
        fs_reply_error(call->req, result);
        return;
    }
    fs_entry_fill(id, &attr, fs_name_seconds(fs, call->ino), &entry);
    if (fuse_reply_entry(call->req, &entry) != 0)
        fs_node_put(fs, id, 1);
}

/* CREATE of a name that is there, without O_EXCL, is an open: no lock, no recall. */
static int create_or_find(struct fs *fs, struct fs_call *call, uint64_t *id, struct cache_attr *attr)
{
    if (!(call->flags & O_EXCL)) {
        struct lock_ref ref = cache_lock_ref(fs->cache, call->ino);
        while (ref.words && lock_read_begin(fs->lock, ref.words) == LOCK_READ_WAIT)
            if (lock_read_wait(fs->lock, &ref, false, NULL, NULL) != 0)
                return -EIO;
        int result = fs_lookup_now(fs, call->ino, call->name, true, id, attr);
        if (result != 0)
            return result;
        if (*id && fs_outside_check(fs, *id) != 1)
            return 0;
        if (*id && (result = fs_attr_now(fs, *id, attr)) != 0)
            fs_node_put(fs, *id, 1);
        if (*id)
            return result;
    }
    return make_node(fs, call, id, attr);
}

static void change_create(struct fs *fs, struct fs_call *call)
{
    struct cache_attr       attr;
    struct fuse_entry_param entry;
    uint64_t                id = 0;
    int                     result = create_or_find(fs, call, &id, &attr);

    if (result == 0 && !S_ISREG(attr.mode)) { /* made since the kernel looked: it would take anything but a file for nonsense. ESTALE has it look again. */
        fs_node_put(fs, id, 1);
        result = S_ISDIR(attr.mode) ? -EISDIR : -ESTALE;
    }
    fs_inflight_done(fs, call->inflight);
    if (result != 0) {
        fs_reply_error(call->req, result);
        return;
    }
    fs_entry_fill(id, &attr, fs_name_seconds(fs, call->ino), &entry);
    fs_open_flags(fs, id, &call->fi);
    if (fuse_reply_create(call->req, &entry, &call->fi) != 0)
        fs_node_put(fs, id, 1);
}

static void start(fuse_req_t req, struct fs_call *call, const uint64_t *dirs, unsigned count, bool unknown)
{
    struct fs *fs = fs_of(req);
    call->inflight = fs_inflight_dirs(fs, dirs, count, unknown);
    fs_call_queue(fs, call, FS_LANE_CHANGE);
}

static bool name_fits(fuse_req_t req, const char *name)
{
    if (strlen(name) <= 255)
        return true;
    fuse_reply_err(req, ENAMETOOLONG);
    return false;
}

static struct fs_call *make_call(fuse_req_t req, fs_call_fn run, uint64_t dir, const char *name, uint32_t mode)
{
    struct fs_call *call = name_fits(req, name) ? fs_call_new(req, run, dir, true) : NULL;
    if (call) {
        call->name = name;
        call->mode = mode;
    }
    return call;
}

void fs_op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi)
{
    uint64_t        dir = parent;
    struct fs_call *call = make_call(req, change_create, parent, name, S_IFREG | (mode & 07777));
    if (!call)
        return;
    call->fi = *fi;
    call->flags = (uint32_t)(fi->flags & ~O_TRUNC) | O_CREAT;
    start(req, call, &dir, 1, false);
}

void fs_op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
    uint64_t        dir = parent;
    struct fs_call *call = make_call(req, change_make, parent, name, mode & S_IFMT ? mode : mode | S_IFREG);
    if (!call)
        return;
    call->rdev = rdev;
    call->flags = O_CREAT | O_EXCL | O_RDWR;
    start(req, call, &dir, 1, false);
}

void fs_op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
    uint64_t        dir = parent;
    struct fs_call *call = make_call(req, change_make, parent, name, S_IFDIR | (mode & 07777));
    if (call)
        start(req, call, &dir, 1, false);
}

void fs_op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
    uint64_t        dir = parent;
    struct fs_call *call = make_call(req, change_make, parent, name, S_IFLNK | 0777);
    if (!call)
        return;
    call->data = target;
    start(req, call, &dir, 1, false);
}

/* ---- linking ---- */
static void change_link(struct fs *fs, struct fs_call *call)
{
    struct change           c = change_of(fs, call);
    struct origin_ref       ref;
    struct origin_attr      fresh;
    struct cache_attr       attr;
    struct fuse_entry_param entry;

    c.dir[1] = 0;
    c.extra = call->other;
    int result = change_begin(&c);
    if (result == 0) {
        result = fs_ref(fs, call->other, &ref);
        if (result == 0)
            result = origin_link(fs->origin, &ref, &c.dir_ref[0], call->name, &c.cred.cred, &fresh);
        if (result == 0)
            change_end(&c, true, call->other, 0);
        else
            change_failed(&c, result);
    }
    if (result == 0 && fs_attr_now(fs, call->other, &attr) != 0)
        fs_attr_to_cache(&fresh, &attr);
    if (result == 0)
        result = fs_node_get(fs, call->other);
    fs_inflight_done(fs, call->inflight);
    if (result != 0) {
        fs_reply_error(call->req, result);
        return;
    }
    fs_entry_fill(call->other, &attr, fs_name_seconds(fs, call->ino), &entry);
    if (fuse_reply_entry(call->req, &entry) != 0)
        fs_node_put(fs, call->other, 1);
}

void fs_op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t new_parent, const char *new_name)
{
    uint64_t        held[2] = {new_parent, ino};
    struct fs_call *call = make_call(req, change_link, new_parent, new_name, 0);
    if (!call)
        return;
    call->other = ino;
    start(req, call, held, 2, false);
}

/* ---- removing ---- */
static void change_remove(struct fs *fs, struct fs_call *call)
{
    struct change c = change_of(fs, call);
    c.dir[1] = 0;
    c.resolve[0] = true;
    int result = change_begin(&c);
    if (result == 0) {
        result = call->mode == S_IFDIR ? origin_rmdir(fs->origin, &c.dir_ref[0], call->name, &c.cred.cred)
                                       : origin_unlink(fs->origin, &c.dir_ref[0], call->name, &c.cred.cred);
        if (result == 0)
            change_end(&c, true, CACHE_NAME_NEGATIVE, 0);
        else
            change_failed(&c, result);
    }
    fs_inflight_done(fs, call->inflight);
    if (result == 0)
        fuse_reply_err(call->req, 0);
    else
        fs_reply_error(call->req, result);
}

/* The inode behind a name if the cache knows it: the kernel holds it, too, while it is removed. */
static uint64_t victim_of(struct fs *fs, uint64_t dir, const char *name, bool *unknown)
{
    uint64_t child = 0;
    seg_epoch_enter(fs->seg);
    if (cache_name_find(fs->cache, dir, name, strlen(name), &child) != 0 || child == CACHE_NAME_UNKNOWN) {
        *unknown = true;
        child = 0;
    }
    seg_epoch_exit(fs->seg);
    return child;
}

static void remove_start(fuse_req_t req, fuse_ino_t parent, const char *name, uint32_t mode)
{
    bool            unknown = false;
    struct fs_call *call = make_call(req, change_remove, parent, name, mode);
    if (!call)
        return;
    uint64_t held[2] = {parent, mode == S_IFDIR ? victim_of(fs_of(req), parent, name, &unknown) : 0};
    start(req, call, held, 2, unknown);
}

void fs_op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    remove_start(req, parent, name, 0);
}

void fs_op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    remove_start(req, parent, name, S_IFDIR);
}

/* ---- renaming ---- */
static void rename_publish(struct change *c, unsigned flags)
{
    uint64_t from = CACHE_NAME_NEGATIVE, to = c->child[0];
    if (flags & RENAME_EXCHANGE)
        from = c->child[1];
    if (flags & RENAME_WHITEOUT)
        from = CACHE_NAME_UNKNOWN;
    if (c->child[0] == c->child[1]) /* two links to one file: nothing happens, says POSIX */
        from = to = CACHE_NAME_UNKNOWN;
    for (unsigned i = 0; i < 2; i++) {
        if (!moves_away(c, c->child[i]))
            continue;
        cache_drop(c->fs->cache, c->child[i], 0, UINT64_MAX, NULL);
        fuse_lowlevel_notify_inval_inode(c->fs->se, c->child[i], 0, 0); /* the own kernel holds the directory: no READDIR is in flight there */
    }
    change_end(c, true, from, to);
}

static void change_rename(struct fs *fs, struct fs_call *call)
{
    struct change c = change_of(fs, call);
    c.resolve[0] = c.resolve[1] = true;
    int result = change_begin(&c);
    if (result == 0) {
        result = origin_rename(fs->origin, &c.dir_ref[0], call->name, &c.dir_ref[1], call->name2, call->flags, &c.cred.cred);
        if (result == 0)
            rename_publish(&c, call->flags);
        else
            change_failed(&c, result);
    }
    fs_inflight_done(fs, call->inflight);
    if (result == 0)
        fuse_reply_err(call->req, 0);
    else
        fs_reply_error(call->req, result);
}

void fs_op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent, const char *new_name, unsigned flags)
{
    bool            unknown = false;
    struct fs_call *call = name_fits(req, new_name) ? make_call(req, change_rename, parent, name, 0) : NULL;
    if (!call)
        return;
    call->other = new_parent;
    call->name2 = new_name;
    call->flags = flags;
    uint64_t held[4] = {parent, new_parent, victim_of(fs_of(req), parent, name, &unknown), victim_of(fs_of(req), new_parent, new_name, &unknown)};
    start(req, call, held, 4, unknown);
}
