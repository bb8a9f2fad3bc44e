/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fs_attr.c - attributes: GETATTR, STATX (birth times), SETATTR, and the conversions between the shapes of origin, cache and kernel.
 *
 * Only GETATTR grants the kernel attributes for good. Replies to LOOKUP, CREATE, READDIRPLUS and SETATTR carry attributes with no time, because the kernel installs those
 * without looking whether they were recalled while the reply was on its way; a GETATTR's are dropped then (attr_version in the kernel).
 *
 * SETATTR holds the inode's write lock over the origin's change. A truncate stops write-back in the own kernel until it is answered, and a recall may be waiting for
 * that write-back: so a truncate that finds its member owing an acknowledgement slips past the lock, like write-back itself (fs_write.c).
 */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "fs_internal.h"

static void time_to_cache(const struct origin_time *from, struct cache_time *to)
{
    *to = (struct cache_time){.sec = from->sec, .nsec = from->nsec};
}

void fs_attr_to_cache(const struct origin_attr *from, struct cache_attr *to)
{
    memset(to, 0, sizeof *to);
    to->ino = from->ino;
    to->size_bytes = from->size_bytes;
    to->blocks = from->blocks;
    to->rdev = from->rdev;
    to->mode = from->mode;
    to->nlink = from->nlink;
    to->uid = from->uid;
    to->gid = from->gid;
    to->blksize = from->blksize;
    time_to_cache(&from->atime, &to->atime);
    time_to_cache(&from->mtime, &to->mtime);
    time_to_cache(&from->ctime, &to->ctime);
    time_to_cache(&from->btime, &to->btime);
}

void fs_attr_to_stat(const struct cache_attr *attr, struct stat *st)
{
    memset(st, 0, sizeof *st);
    st->st_ino = attr->ino;
    st->st_size = (off_t)attr->size_bytes;
    st->st_blocks = (blkcnt_t)attr->blocks;
    st->st_rdev = attr->rdev;
    st->st_mode = attr->mode;
    st->st_nlink = attr->nlink;
    st->st_uid = attr->uid;
    st->st_gid = attr->gid;
    st->st_blksize = attr->blksize;
    st->st_atim = (struct timespec){attr->atime.sec, attr->atime.nsec};
    st->st_mtim = (struct timespec){attr->mtime.sec, attr->mtime.nsec};
    st->st_ctim = (struct timespec){attr->ctime.sec, attr->ctime.nsec};
}

int fs_ref(struct fs *fs, uint64_t id, struct origin_ref *ref)
{
    return cache_ref_get(fs->cache, id, ref);
}

void fs_reply_error(fuse_req_t req, int result)
{
    int error = -result;
    if (error == EUCLEAN || error == EBADMSG || error == EPROTO || error == ESRCH || error <= 0)
        error = EIO;
    fuse_reply_err(req, error);
}

int fs_attr_now(struct fs *fs, uint64_t id, struct cache_attr *attr)
{
    struct origin_ref  ref;
    struct origin_attr fresh;

    for (unsigned tries = 0; tries < 1000; tries++) {
        seg_epoch_enter(fs->seg);
        int result = cache_attr_get(fs->cache, id, attr);
        seg_epoch_exit(fs->seg);
        if (result == 0)
            return 0;
        if (result != -ENODATA && result != -EAGAIN)
            return result;
        uint64_t version = cache_version(fs->cache, id);
        if (!version || fs_ref(fs, id, &ref) != 0)
            return -ESTALE;
        if (!fs_stands(fs))
            return -EIO;
        seg_count(fs->seg, SEG_COUNTER_origin_meta_ops, 1);
        result = origin_getattr(fs->origin, &ref, &fresh);
        if (result != 0)
            return result;
        fs_attr_to_cache(&fresh, attr);
        if (cache_attr_fill(fs->cache, id, version, attr) == 0)
            return 0;
    }
    return -EIO;
}

#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 18)
static struct statx_timestamp time_to_statx(const struct cache_time *from)
{
    return (struct statx_timestamp){.tv_sec = from->sec, .tv_nsec = from->nsec};
}

static void reply_statx(fuse_req_t req, const struct cache_attr *attr)
{
    struct statx stx = {
        .stx_mask = STATX_BASIC_STATS, .stx_blksize = attr->blksize, .stx_nlink = attr->nlink, .stx_uid = attr->uid, .stx_gid = attr->gid,
        .stx_mode = (uint16_t)attr->mode, .stx_ino = attr->ino, .stx_size = attr->size_bytes, .stx_blocks = attr->blocks,
        .stx_atime = time_to_statx(&attr->atime), .stx_mtime = time_to_statx(&attr->mtime), .stx_ctime = time_to_statx(&attr->ctime),
        .stx_rdev_major = major(attr->rdev), .stx_rdev_minor = minor(attr->rdev),
    };
    if (attr->btime.sec || attr->btime.nsec) {
        stx.stx_btime = time_to_statx(&attr->btime);
        stx.stx_mask |= STATX_BTIME;
    }
    fuse_reply_statx(req, 0, &stx, FS_FOREVER);
}
#else
static void reply_statx(fuse_req_t req, const struct cache_attr *attr)
{
    (void)attr;
    fuse_reply_err(req, ENOSYS); /* never asked */
}
#endif

/* 0 replied, -EAGAIN wait for a turn, -ENODATA ask the origin. with_birth: the kernel has asked by STATX, and the reply is one of that. */
static int try_getattr(struct fs *fs, fuse_req_t req, uint64_t ino, bool with_birth)
{
    struct cache_attr attr;
    struct stat       st;
    int               result;

    seg_epoch_enter(fs->seg);
    struct cache_inode *inode = cache_inode_at(fs->cache, ino);
    if (!inode)
        result = -ESTALE;
    else if (lock_read_begin(fs->lock, &inode->lock) == LOCK_READ_WAIT)
        result = -EINPROGRESS;
    else
        result = cache_attr_get(fs->cache, ino, &attr);
    seg_epoch_exit(fs->seg);
    if (result == -EAGAIN)
        return -ENODATA;
    if (result == -EINPROGRESS)
        return -EAGAIN;
    if (result == 0 && !fs_stands(fs))
        result = -EIO;
    if (result == -ENODATA)
        return result;
    if (result != 0) {
        fs_reply_error(req, result);
        return 0;
    }
    if (with_birth) {
        reply_statx(req, &attr);
        return 0;
    }
    fs_attr_to_stat(&attr, &st);
    fuse_reply_attr(req, &st, FS_FOREVER);
    return 0;
}

static void fetch_getattr(struct fs *fs, struct fs_call *call)
{
    struct cache_attr attr;
    for (;;) {
        int result = try_getattr(fs, call->req, call->ino, call->plus);
        if (result == 0)
            return;
        if (result == -EAGAIN) {
            fs_call_turn(fs, call, call->ino);
            return;
        }
        result = fs_attr_now(fs, call->ino, &attr);
        if (result != 0 || ++call->tries > 100) {
            fs_reply_error(call->req, result ? result : -EIO);
            return;
        }
    }
}

static void getattr_start(fuse_req_t req, fuse_ino_t ino, bool with_birth)
{
    struct fs *fs = fs_of(req);
    int        result = try_getattr(fs, req, ino, with_birth);
    if (result == 0) {
        seg_count(fs->seg, SEG_COUNTER_requests_inline, 1);
        return;
    }
    struct fs_call *call = fs_call_new(req, fetch_getattr, ino, false);
    if (!call)
        return;
    call->plus = with_birth;
    if (result == -EAGAIN)
        fs_call_turn(fs, call, ino);
    else
        fs_call_queue(fs, call, FS_LANE_FETCH);
}

void fs_op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)fi;
    getattr_start(req, ino, false);
}

#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 18)
void fs_op_statx(fuse_req_t req, fuse_ino_t ino, int flags, int mask, struct fuse_file_info *fi)
{
    (void)flags;
    (void)mask;
    (void)fi;
    getattr_start(req, ino, true);
}
#endif

/* ---- the caller ---- */
void fs_cred_get(fuse_req_t req, struct fs_cred *cred)
{
    const struct fuse_ctx *ctx = fuse_req_ctx(req);
    cred->cred = (struct origin_cred){.uid = ctx->uid, .gid = ctx->gid, .umask = ctx->umask & 07777};
    if (ctx->uid == 0)
        return;
    int count = fuse_req_getgroups(req, ORIGIN_GROUPS_MAX, cred->groups);
    if (count > 0) {
        cred->cred.group_count = (uint32_t)(count < ORIGIN_GROUPS_MAX ? count : ORIGIN_GROUPS_MAX);
        cred->cred.groups = cred->groups;
    }
}

enum origin_clear fs_clears_setid(fuse_req_t req, const struct cache_attr *attr)
{
    struct fs_cred cred;
    if (!(attr->mode & (S_ISUID | S_ISGID)) || fuse_req_ctx(req)->uid == 0)
        return ORIGIN_CLEAR_NONE;
    if ((attr->mode & (S_ISGID | S_IXGRP)) == S_ISGID) {
        fs_cred_get(req, &cred);
        if (!origin_cred_in_group(&cred.cred, attr->gid))
            return ORIGIN_CLEAR_SGID_TOO;
    }
    return ORIGIN_CLEAR_SETID;
}

/* ---- SETATTR ---- */
static uint32_t set_of(int to_set)
{
    static const struct {
        int      fuse;
        uint32_t ours;
    } map[] = {
        {FUSE_SET_ATTR_MODE, ORIGIN_SET_MODE},           {FUSE_SET_ATTR_UID, ORIGIN_SET_UID},
        {FUSE_SET_ATTR_GID, ORIGIN_SET_GID},             {FUSE_SET_ATTR_SIZE, ORIGIN_SET_SIZE},
        {FUSE_SET_ATTR_ATIME, ORIGIN_SET_ATIME},         {FUSE_SET_ATTR_MTIME, ORIGIN_SET_MTIME},
        {FUSE_SET_ATTR_ATIME_NOW, ORIGIN_SET_ATIME_NOW}, {FUSE_SET_ATTR_MTIME_NOW, ORIGIN_SET_MTIME_NOW},
    };
    uint32_t set = 0;
    for (unsigned i = 0; i < sizeof map / sizeof *map; i++)
        if (to_set & map[i].fuse)
            set |= map[i].ours;
    return set;
}

static void want_of(const struct stat *st, struct origin_attr *want)
{
    memset(want, 0, sizeof *want);
    want->mode = st->st_mode;
    want->uid = st->st_uid;
    want->gid = st->st_gid;
    want->size_bytes = (uint64_t)st->st_size;
    want->atime = (struct origin_time){.sec = st->st_atim.tv_sec, .nsec = (uint32_t)st->st_atim.tv_nsec};
    want->mtime = (struct origin_time){.sec = st->st_mtim.tv_sec, .nsec = (uint32_t)st->st_mtim.tv_nsec};
}

/* Carries it out at the origin and publishes what came of it. The lock is held, or the call slips. */
static int setattr_now(struct fs *fs, struct fs_call *call, const struct cache_attr *old, struct cache_attr *attr)
{
    struct origin_ref  ref;
    struct origin_attr want, fresh;
    struct fs_cred     cred;
    int                result = fs_ref(fs, call->ino, &ref);

    if (result != 0)
        return result;
    want_of(&call->attr, &want);
    fs_cred_get(call->req, &cred);
    bool shrinks = (call->set & ORIGIN_SET_SIZE) && want.size_bytes < old->size_bytes;
    seg_count(fs->seg, SEG_COUNTER_origin_meta_ops, 1);
    result = origin_setattr(fs->origin, &ref, call->set, &want, &cred.cred, &fresh);
    if (result == -EPERM && !call->set) /* not chown(-1, -1) but what the kernel sends before a write that takes set-id bits away; the write does */
        result = origin_getattr(fs->origin, &ref, &fresh);
    if (result == 0)
        fs_attr_to_cache(&fresh, attr);
    if (shrinks)
        cache_drop(fs->cache, call->ino, want.size_bytes / CACHE_PAGE, UINT64_MAX, result == 0 ? attr : NULL);
    else
        cache_attr_publish(fs->cache, call->ino, result == 0 ? attr : NULL);
    return result;
}

/* own_later: a kernel that truncates writes nothing back until it is answered, so its dirty pages cannot be recalled before. */
static int setattr_locked(struct fs *fs, struct fs_call *call, struct lock_ref ref, struct cache_attr *attr, bool *own_later)
{
    struct cache_attr  old;
    struct lock_recall recall = {.ref = ref, .kind = WORK_RECALL_DATA, .arg = 0, .own_later = call->set & ORIGIN_SET_SIZE ? own_later : NULL};

    fs_outside_settle(fs, ref);
    int result = fs_attr_now(fs, call->ino, &old);
    if (result != 0)
        return result;
    if ((call->set & ORIGIN_SET_SIZE) && (uint64_t)call->attr.st_size < old.size_bytes)
        recall.arg = ((uint64_t)call->attr.st_size / CACHE_PAGE) << 32 | UINT32_MAX;
    result = lock_recall_all(fs->lock, &recall, 1, 0);
    if (result == 0)
        result = fs_attr_now(fs, call->ino, &old); /* what slipped by may have moved the end */
    return result ? result : setattr_now(fs, call, &old, attr);
}

static int setattr_slipping(struct fs *fs, struct fs_call *call, struct lock_ref ref, struct cache_attr *attr)
{
    struct cache_attr old;
    if (!fs_slip_begin(fs, call->ino, ref.words))
        return -EDEADLK; /* no longer: take the lock after all */
    int result = fs_attr_now(fs, call->ino, &old);
    if (result == 0)
        result = setattr_now(fs, call, &old, attr);
    fs_slip_end(fs, call->ino, ref.words);
    return result;
}

static void change_setattr(struct fs *fs, struct fs_call *call)
{
    struct cache_attr attr;
    struct stat       st;
    int               result;
    bool              own_later = false;
    unsigned          flags = call->set & ORIGIN_SET_SIZE ? LOCK_MAY_SLIP : 0;

    do {
        struct lock_ref ref = cache_lock_ref(fs->cache, call->ino);
        result = ref.words ? lock_write_acquire(fs->lock, &ref, flags, flags ? fs_back_crowded : NULL, fs) : -ESTALE;
        if (result == -EINTR) {
            fs_call_round(fs, call);
            return;
        }
        if (result == 0) {
            result = setattr_locked(fs, call, ref, &attr, &own_later);
            lock_write_release(fs->lock, &ref);
        } else if (result == -EDEADLK) {
            result = setattr_slipping(fs, call, ref, &attr);
        }
    } while (result == -EDEADLK);
    fs_inflight_done(fs, call->inflight);
    if (result != 0) {
        fs_reply_error(call->req, result);
        return;
    }
    fs_attr_to_stat(&attr, &st);
    fuse_reply_attr(call->req, &st, 0);
    if (own_later)
        fs_inval_later(fs, call->ino);
}

void fs_op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set, struct fuse_file_info *fi)
{
    struct fs      *fs = fs_of(req);
    struct fs_call *call = fs_call_new(req, change_setattr, ino, false);
    uint64_t        id = ino;
    (void)fi;
    if (!call)
        return;
    call->attr = *attr;
    call->set = set_of(to_set);
    call->inflight = fs_inflight_dirs(fs, &id, 1, false); /* chmod of a directory holds it, too */
    fs_call_queue(fs, call, call->set & ORIGIN_SET_SIZE ? FS_LANE_BACK : FS_LANE_CHANGE);
}
