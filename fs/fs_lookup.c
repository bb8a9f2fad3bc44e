/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fs_lookup.c - LOOKUP, and finding or making the inode behind a name.
 *
 * A LOOKUP never waits for a lock of the inode it finds (its attributes are granted no time, fs_attr.c), and of the directory's lock only while a writer of another
 * member is past recalling: so a recall of a name, which waits in the kernel for LOOKUPs in flight, waits for the origin at most.
 *
 * What the origin says is kept only if the directory's version still stands (cache_name_fill); otherwise everything starts over.
 */
#include <string.h>
#include <time.h>

#include "fs_internal.h"

enum { LOOKUP_TRIES_MAX = 1000, NAMELESS_TRIES_MAX = 12, INTERN_WAIT_MS = 3000 };

double fs_name_seconds(struct fs *fs, uint64_t dir)
{
    if (fs->epoch_ok)
        return FS_FOREVER;
    const struct cache_inode *inode = cache_inode_at(fs->cache, dir);
    return inode && !(atomic_load(&inode->flags) & CACHE_WRITE_SHARED) ? FS_FOREVER : 0;
}

void fs_entry_fill(uint64_t id, const struct cache_attr *attr, double name_seconds, struct fuse_entry_param *entry)
{
    memset(entry, 0, sizeof *entry);
    entry->ino = id;
    entry->generation = 1;
    entry->entry_timeout = name_seconds;
    if (id)
        fs_attr_to_stat(attr, &entry->attr);
}

/* When every inode is known to some kernel, they are asked to forget idle ones; that takes a moment. */
int fs_intern(struct fs *fs, const struct origin_ref *ref, bool pin, uint64_t *id)
{
    struct timespec pause = {.tv_nsec = 5000000};
    for (unsigned waited = 0;; waited += 5) {
        int result = cache_inode_intern(fs->cache, ref, false, id, NULL);
        if (result == 0 && pin && (result = fs_node_get(fs, *id)) == -ESTALE)
            continue; /* evicted between the two: find it again */
        if (result != -ENOSPC || waited >= INTERN_WAIT_MS)
            return result == -ENOSPC ? -ENFILE : result;
        nanosleep(&pause, NULL);
    }
}

/* From the cache alone: 0 (child 0: there is none), or -ENODATA. */
static int cached_child(struct fs *fs, uint64_t dir, const char *name, bool pin, uint64_t *child)
{
    seg_epoch_enter(fs->seg);
    int result = cache_name_find(fs->cache, dir, name, strlen(name), child);
    if (result == 0 && *child == CACHE_NAME_UNKNOWN)
        result = -ENODATA;
    if (result == 0 && *child && pin && fs_node_get(fs, *child) != 0)
        result = -ENODATA;
    seg_epoch_exit(fs->seg);
    return result;
}

static int fetch_child(struct fs *fs, uint64_t dir, const char *name, bool pin, uint64_t *child)
{
    struct origin_ref  dir_ref, ref;
    struct origin_attr attr;
    uint64_t           version = cache_version(fs->cache, dir);
    int                result = version ? fs_ref(fs, dir, &dir_ref) : -ESTALE;

    if (result != 0)
        return result;
    seg_count(fs->seg, SEG_COUNTER_origin_meta_ops, 1);
    result = origin_lookup(fs->origin, &dir_ref, name, &ref, &attr);
    if (result == -ENOENT) {
        *child = CACHE_NAME_NEGATIVE;
    } else if (result != 0) {
        return result;
    } else if ((result = fs_intern(fs, &ref, pin, child)) != 0) {
        return result;
    }
    result = cache_name_fill(fs->cache, dir, version, name, strlen(name), *child);
    if (result == -EAGAIN) {
        if (*child && pin)
            fs_node_put(fs, *child, 1);
        return -EAGAIN;
    }
    return 0; /* not kept for want of memory: no matter */
}

int fs_lookup_now(struct fs *fs, uint64_t dir, const char *name, bool pin, uint64_t *child, struct cache_attr *attr)
{
    for (unsigned tries = 0; tries < LOOKUP_TRIES_MAX; tries++) {
        uint64_t found = 0;
        bool     cached = tries % 4 != 3 && cached_child(fs, dir, name, pin, &found) == 0;
        if (!cached) {
            int result = fetch_child(fs, dir, name, pin, &found);
            if (result == -EAGAIN)
                continue;
            if (result != 0)
                return result;
        }
        int  result = found && attr ? fs_attr_now(fs, found, attr) : 0;
        bool is_old = result == 0 && found && attr && !attr->nlink && tries < NAMELESS_TRIES_MAX; /* replaced from outside */
        if (is_old)
            result = -ESTALE;
        if (result == 0) {
            *child = found;
            return 0;
        }
        if (found && pin)
            fs_node_put(fs, found, 1);
        if (result != -ESTALE && result != -ENOENT)
            return result;
        tries |= 2; /* the name led nowhere: ask the origin next */
    }
    return -EIO;
}

static void reply_entry(struct fs *fs, fuse_req_t req, uint64_t dir, uint64_t child, const struct cache_attr *attr)
{
    struct fuse_entry_param entry;
    fs_entry_fill(child, attr, fs_name_seconds(fs, dir), &entry);
    if (fuse_reply_entry(req, &entry) != 0 && child)
        fs_node_put(fs, child, 1); /* interrupted: the kernel never had it */
}

/* 0 replied, -EINPROGRESS wait for a turn, -ENODATA ask the origin. */
static int try_lookup(struct fs *fs, fuse_req_t req, uint64_t dir, const char *name)
{
    struct cache_attr attr;
    uint64_t          child = 0;
    int               result = -ESTALE;

    seg_epoch_enter(fs->seg);
    struct cache_inode *inode = cache_inode_at(fs->cache, dir);
    if (inode)
        result = lock_read_begin(fs->lock, &inode->lock) == LOCK_READ_WAIT ? -EINPROGRESS : cached_child(fs, dir, name, true, &child);
    if (result == 0 && child && (cache_attr_get(fs->cache, child, &attr) != 0 || !attr.nlink)) {
        fs_node_put(fs, child, 1);
        result = -ENODATA;
    }
    seg_epoch_exit(fs->seg);
    if (result == 0 && !fs_stands(fs))
        result = -EIO;
    if (result == -EINPROGRESS || result == -ENODATA)
        return result;
    if (result != 0) {
        fs_reply_error(req, result);
        return 0;
    }
    reply_entry(fs, req, dir, child, &attr);
    return 0;
}

static void fetch_lookup(struct fs *fs, struct fs_call *call)
{
    struct cache_attr attr;
    uint64_t          child;

    int result = try_lookup(fs, call->req, call->ino, call->name);
    if (result == 0)
        return;
    if (result == -EINPROGRESS) {
        fs_call_turn(fs, call, call->ino);
        return;
    }
    result = fs_lookup_now(fs, call->ino, call->name, true, &child, &attr);
    if (result != 0)
        fs_reply_error(call->req, result);
    else
        reply_entry(fs, call->req, call->ino, child, &attr);
}

void fs_op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct fs *fs = fs_of(req);
    if (strlen(name) > 255) {
        fuse_reply_err(req, ENAMETOOLONG);
        return;
    }
    int result = try_lookup(fs, req, parent, name);
    if (result == 0) {
        seg_count(fs->seg, SEG_COUNTER_requests_inline, 1);
        return;
    }
    struct fs_call *call = fs_call_new(req, fetch_lookup, parent, true);
    if (!call)
        return;
    call->name = name;
    if (result == -EINPROGRESS)
        fs_call_turn(fs, call, parent);
    else
        fs_call_queue(fs, call, FS_LANE_FETCH);
}

/* ---- for origins without handles: where was this node last seen? ---- */
int fs_locate(void *arg, const struct origin_ref *node, struct origin_ref *parent, char *name, size_t name_size)
{
    struct cache *cache = arg;
    uint64_t      id, dir;
    size_t        length;

    if (name_size < 256 || cache_inode_intern(cache, node, false, &id, NULL) != 0)
        return -ESTALE;
    if (cache_name_of(cache, id, &dir, name, &length) != 0)
        return -ESTALE;
    return cache_ref_get(cache, dir, parent) == 0 ? 0 : -ESTALE;
}
