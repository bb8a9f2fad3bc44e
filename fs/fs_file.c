/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fs_file.c - OPEN, RELEASE, FLUSH, FSYNC, FALLOCATE, LSEEK, STATFS, TMPFILE.
 *
 * OPEN and RELEASE carry no state but a number: an inode is all that READ and WRITE need. They are answered all the same, because the locks of an open file go with its
 * RELEASE, and those of a process with FLUSH (fs_lock.c); with -o locks=none they answer ENOSYS once, and opens and closes cost no message from then on.
 */
#include <string.h>

#include "fs_internal.h"

/* Who writes past the page cache may have mapped pages there: READs of those are noted from now on (fs_write.c, "Own pages"). */
void fs_open_flags(struct fs *fs, uint64_t ino, struct fuse_file_info *fi)
{
    static _Atomic uint64_t opened;
    struct fs_node         *node = fs_node_at(fs, ino);
    fi->fh = atomic_fetch_add_explicit(&opened, 1, memory_order_relaxed) + 1; /* whose locks go with RELEASE */
    fi->keep_cache = 1;                                                       /* coherent by recall, not by reopening */
    /* Appends: fs_write.c. O_DIRECT: not to end where this kernel believes the file to end. */
    fi->direct_io = fs->config.cache_shared || (fi->flags & (O_APPEND | O_DIRECT)) ? 1 : 0;
    if (node && fi->direct_io && (fi->flags & O_ACCMODE) != O_RDONLY)
        atomic_store(&node->shared, 1);
}

void fs_op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct fs *fs = fs_of(req);
    if (fs->config.locks_none) {
        fuse_reply_err(req, ENOSYS);
        return;
    }
    if (!cache_inode_at(fs->cache, ino)) {
        fuse_reply_err(req, ESTALE);
        return;
    }
    seg_count(fs->seg, SEG_COUNTER_opens, 1);
    if (fs_outside_open(req, ino, fi))
        return;
    fs_open_flags(fs, ino, fi);
    fuse_reply_open(req, fi);
}

void fs_op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct fs *fs = fs_of(req);
    seg_count(fs->seg, SEG_COUNTER_releases, 1);
    fs_lock_release(fs, ino, fi->fh);
    fuse_reply_err(req, 0);
}

void fs_op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct fs *fs = fs_of(req);
    if (fs->config.locks_none) {
        fuse_reply_err(req, ENOSYS);
        return;
    }
    fs_lock_flush(fs, ino, fi->lock_owner, fi->fh);
    fuse_reply_err(req, 0); /* written through: nothing is pending */
}

/* A write-back that slipped past another member's lock is seen by all when that member is done: wait for it, then the origin. */
static void fetch_fsync(struct fs *fs, struct fs_call *call)
{
    struct origin_ref ref;
    struct lock_ref   lock = cache_lock_ref(fs->cache, call->ino);
    int               result = fs_ref(fs, call->ino, &ref);
    if (result == 0 && lock.words && atomic_load(&lock.words->slipped) && !call->wait_page) {
        call->wait_page = true; /* until nobody recalls or writes: once */
        fs_call_turn(fs, call, call->ino);
        return;
    }
    if (result == 0)
        result = origin_fsync(fs->origin, &ref, call->sync);
    if (result == 0)
        fuse_reply_err(call->req, 0);
    else
        fs_reply_error(call->req, result);
}

void fs_op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
    struct fs_call *call = fs_call_new(req, fetch_fsync, ino, false);
    (void)fi;
    if (!call)
        return;
    call->sync = datasync != 0;
    fs_call_queue(fs_of(req), call, FS_LANE_FETCH);
}

void fs_setid_clear(struct fs *fs, const struct fs_call *call, const struct origin_ref *ref, struct cache_attr *attr)
{
    enum origin_clear  clear = fs_clears_setid(call->req, attr);
    uint32_t           bits = S_ISUID | ((attr->mode & S_IXGRP) || clear == ORIGIN_CLEAR_SGID_TOO ? S_ISGID : 0);
    struct origin_attr fresh, want = {.mode = attr->mode & ~bits};
    if (!clear || want.mode == attr->mode)
        return;
    if (origin_setattr(fs->origin, ref, ORIGIN_SET_MODE, &want, NULL, &fresh) != 0)
        return;
    fs_attr_to_cache(&fresh, attr);
    cache_attr_publish(fs->cache, call->ino, attr);
}

/* ---- FALLOCATE ---- */
static int fallocate_locked(struct fs *fs, struct fs_call *call, struct lock_ref lock)
{
    struct origin_ref  ref;
    struct origin_attr fresh;
    struct cache_attr  attr;
    int                mode = (int)call->mode;
    bool               shifts = mode & (FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE);
    uint64_t           first = call->off / CACHE_PAGE;
    uint64_t           count = shifts ? UINT64_MAX : (call->off + call->len - 1) / CACHE_PAGE - first + 1;
    struct lock_recall recall = {.ref = lock, .kind = WORK_RECALL_DATA};

    recall.arg = first << 32 | (count >= UINT32_MAX ? UINT32_MAX : count);
    fs_outside_settle(fs, lock);
    int result = fs_ref(fs, call->ino, &ref);
    if (result == 0)
        result = lock_recall_all(fs->lock, &recall, 1, 0);
    if (result != 0)
        return result;
    const uint64_t id[4] = {call->ino};
    uint32_t       intent = cache_intent_take(fs->cache, CACHE_INTENT_DATA, id, first, count);
    seg_count(fs->seg, SEG_COUNTER_origin_meta_ops, 1);
    result = origin_fallocate(fs->origin, &ref, mode, call->off, call->len, &fresh);
    if (result == 0) {
        fs_attr_to_cache(&fresh, &attr);
        fs_setid_clear(fs, call, &ref, &attr);
    }
    if (mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_UNSHARE_RANGE) || result != 0)
        cache_drop(fs->cache, call->ino, first, count, result == 0 ? &attr : NULL);
    else
        cache_attr_publish(fs->cache, call->ino, &attr); /* only space was reserved */
    cache_intent_clear(fs->cache, intent);
    return result;
}

static void change_fallocate(struct fs *fs, struct fs_call *call)
{
    struct lock_ref lock = cache_lock_ref(fs->cache, call->ino);
    int             result = lock.words ? lock_write_acquire(fs->lock, &lock, 0, NULL, NULL) : -ESTALE;
    if (result == 0) {
        result = fallocate_locked(fs, call, lock);
        lock_write_release(fs->lock, &lock);
    }
    if (result == 0)
        fuse_reply_err(call->req, 0);
    else
        fs_reply_error(call->req, result);
}

void fs_op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len, struct fuse_file_info *fi)
{
    struct fs_call *call;
    (void)fi;
    if (off < 0 || len <= 0) {
        fuse_reply_err(req, EINVAL);
        return;
    }
    if (!(call = fs_call_new(req, change_fallocate, ino, false)))
        return;
    call->mode = (uint32_t)mode;
    call->off = (uint64_t)off;
    call->len = (uint64_t)len;
    fs_call_queue(fs_of(req), call, FS_LANE_CHANGE);
}

/* ---- LSEEK: holes are the origin's ---- */
static void fetch_lseek(struct fs *fs, struct fs_call *call)
{
    struct origin_ref ref;
    struct lock_ref   lock = cache_lock_ref(fs->cache, call->ino);
    int64_t           result = lock.words ? 0 : -ESTALE;
    if (result == 0 && lock_read_peek(fs->lock, lock.words) == LOCK_READ_WAIT) {
        fs_call_turn(fs, call, call->ino);
        return;
    }
    if (result == 0)
        result = fs_ref(fs, call->ino, &ref);
    if (result == 0)
        result = origin_lseek(fs->origin, &ref, call->off, (int)call->flags);
    if (result < 0)
        fs_reply_error(call->req, (int)result);
    else
        fuse_reply_lseek(call->req, result);
}

void fs_op_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi)
{
    struct fs_call *call = fs_call_new(req, fetch_lseek, ino, false);
    (void)fi;
    if (!call)
        return;
    call->off = (uint64_t)off;
    call->flags = (uint32_t)whence;
    fs_call_queue(fs_of(req), call, FS_LANE_FETCH);
}

/* ---- STATFS ---- */
static void fetch_statfs(struct fs *fs, struct fs_call *call)
{
    struct origin_ref ref;
    struct statvfs    st;
    int               result = fs_ref(fs, call->ino ? call->ino : CACHE_ROOT_ID, &ref);
    if (result == 0)
        result = origin_statfs(fs->origin, &ref, &st);
    if (result == 0)
        fuse_reply_statfs(call->req, &st);
    else
        fs_reply_error(call->req, result);
}

void fs_op_statfs(fuse_req_t req, fuse_ino_t ino)
{
    struct fs_call *call = fs_call_new(req, fetch_statfs, ino, false);
    if (call)
        fs_call_queue(fs_of(req), call, FS_LANE_FETCH);
}

/* ---- TMPFILE: no name changes, so no lock of the directory ---- */
static void change_tmpfile(struct fs *fs, struct fs_call *call)
{
    struct origin_ref       dir, ref;
    struct origin_attr      fresh;
    struct cache_attr       attr;
    struct fs_cred          cred;
    struct fuse_entry_param entry;
    uint64_t                id;
    int                     result = fs_ref(fs, call->ino, &dir);

    fs_cred_get(call->req, &cred);
    if (result == 0)
        result = origin_tmpfile(fs->origin, &dir, call->mode & 07777, &cred.cred, &ref, &fresh);
    if (result == 0)
        result = fs_intern(fs, &ref, true, &id);
    if (result == 0 && (result = fs_attr_now(fs, id, &attr)) != 0)
        fs_node_put(fs, id, 1);
    if (result != 0) {
        fs_reply_error(call->req, result);
        return;
    }
    fs_entry_fill(id, &attr, 0, &entry);
    fs_open_flags(fs, id, &call->fi);
    if (fuse_reply_create(call->req, &entry, &call->fi) != 0)
        fs_node_put(fs, id, 1);
}

void fs_op_tmpfile(fuse_req_t req, fuse_ino_t parent, mode_t mode, struct fuse_file_info *fi)
{
    struct fs_call *call = fs_call_new(req, change_tmpfile, parent, false);
    if (!call)
        return;
    call->mode = mode;
    call->fi = *fi;
    fs_call_queue(fs_of(req), call, FS_LANE_CHANGE);
}
