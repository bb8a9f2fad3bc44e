/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fs_xattr.c - extended attributes: the origin's, asked each time. The kernel does not cache them, with one exception: ACLs, which it keeps with the attributes and drops when
 * those are recalled. So a GETXATTR takes an interest like a GETATTR, and a change recalls attributes.
 *
 * security.capability is removed as the daemon: the kernel itself sends that when a file with capabilities is written, truncated or given away, on behalf of whoever does it; whether a
 * removexattr() of it is allowed (CAP_SETFCAP) has been decided before it is sent.
 */
#include <stdlib.h>
#include <string.h>

#include "fs_internal.h"

enum { XATTR_MAX = 65536 };

static void fetch_xattr(struct fs *fs, struct fs_call *call)
{
    struct origin_ref ref;
    struct fs_cred    cred;
    char             *value = call->size ? malloc(call->size) : NULL;
    struct lock_ref   lock = cache_lock_ref(fs->cache, call->ino);
    ssize_t           got = lock.words ? fs_ref(fs, call->ino, &ref) : -ESTALE;

    if (got == 0 && call->name && lock_read_begin(fs->lock, lock.words) == LOCK_READ_WAIT) {
        free(value);
        fs_call_turn(fs, call, call->ino);
        return;
    }
    fs_cred_get(call->req, &cred);
    if (got == 0 && call->size && !value)
        got = -ENOMEM;
    if (got == 0 && call->name)
        got = origin_getxattr(fs->origin, &ref, call->name, value, call->size, &cred.cred);
    else if (got == 0)
        got = origin_listxattr(fs->origin, &ref, value, call->size, &cred.cred);
    if (got < 0)
        fs_reply_error(call->req, (int)got);
    else if (call->size)
        fuse_reply_buf(call->req, value, (size_t)got);
    else
        fuse_reply_xattr(call->req, (size_t)got);
    free(value);
}

void fs_op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
    struct fs_call *call = fs_call_new(req, fetch_xattr, ino, true);
    if (!call)
        return;
    call->name = name;
    call->size = size > XATTR_MAX ? XATTR_MAX : size;
    fs_call_queue(fs_of(req), call, FS_LANE_FETCH);
}

void fs_op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
    struct fs_call *call = fs_call_new(req, fetch_xattr, ino, false);
    if (!call)
        return;
    call->size = size > XATTR_MAX ? XATTR_MAX : size;
    fs_call_queue(fs_of(req), call, FS_LANE_FETCH);
}

static int xattr_locked(struct fs *fs, struct fs_call *call, struct lock_ref lock)
{
    struct origin_ref  ref;
    struct origin_attr fresh;
    struct cache_attr  attr;
    struct fs_cred     cred;
    struct lock_recall recall = {.ref = lock, .kind = WORK_RECALL_DATA, .arg = 0};

    fs_outside_settle(fs, lock);
    int result = fs_ref(fs, call->ino, &ref);
    if (result == 0)
        result = lock_recall_all(fs->lock, &recall, 1, 0);
    if (result != 0)
        return result;
    fs_cred_get(call->req, &cred);
    if (call->plus)
        result = origin_setxattr(fs->origin, &ref, call->name, call->data, call->size, (int)call->flags, &cred.cred);
    else
        result = origin_removexattr(fs->origin, &ref, call->name, strcmp(call->name, "security.capability") == 0 ? NULL : &cred.cred);
    int looked = origin_getattr(fs->origin, &ref, &fresh);
    if (looked == 0)
        fs_attr_to_cache(&fresh, &attr);
    cache_attr_publish(fs->cache, call->ino, looked == 0 ? &attr : NULL);
    return result;
}

static void change_xattr(struct fs *fs, struct fs_call *call)
{
    struct lock_ref lock = cache_lock_ref(fs->cache, call->ino);
    int             result = lock.words ? lock_write_acquire(fs->lock, &lock, 0, NULL, NULL) : -ESTALE;
    if (result == 0) {
        result = xattr_locked(fs, call, lock);
        lock_write_release(fs->lock, &lock);
    }
    fs_inflight_done(fs, call->inflight);
    if (result == 0)
        fuse_reply_err(call->req, 0);
    else
        fs_reply_error(call->req, result);
}

static void xattr_start(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size, int flags, bool set)
{
    struct fs      *fs = fs_of(req);
    uint64_t        id = ino;
    struct fs_call *call = fs_call_new(req, change_xattr, ino, true);
    if (!call)
        return;
    call->name = name;
    call->data = value;
    call->size = size;
    call->flags = (uint32_t)flags;
    call->plus = set;
    call->inflight = fs_inflight_dirs(fs, &id, 1, false);
    fs_call_queue(fs, call, FS_LANE_CHANGE);
}

void fs_op_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size, int flags)
{
    xattr_start(req, ino, name, value, size, flags, true);
}

void fs_op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
    xattr_start(req, ino, name, NULL, 0, 0, false);
}
