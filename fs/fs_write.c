/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fs_write.c - WRITE, written through to the origin.
 *
 *   arrived       registered in fs_inflight (receiver)
 *   locked        the inode's write lock; own interest bit: this kernel keeps what it writes
 *   recalled      no other kernel holds the range, its size and times, nor can get them
 *   claimed       pages of the range bear our claims; their old frames are still there
 *   merged        partial pages are completed in private frames, now, so that nothing older than the lock gets in
 *   at origin     pwrite returned
 *   published     words and attributes swapped in one version step; lock released; answered
 * If this member dies: before "at origin" nothing has happened; from then on recovery drops the range of the intent, and readers fetch what the origin has.
 *
 * Write-back of mapped pages (fi->writepage) may be what a recall is waiting for. While another member recalls and this one owes it an acknowledgement, such a WRITE
 * does without the lock: claims first, then the `slipped` mark, then a look whether the acknowledgement is still owed. If it is, the owner has not looked at the mark yet
 * and will recall everybody once more before it writes; if not, the claims are given back and the lock is taken like anyone. (model: tests/model)
 *
 * O_APPEND is placed at the true end; pages the kernel put at a stale end are taken back from it before the answer.
 */
#include <stdlib.h>
#include <string.h>

#include "fs_internal.h"

struct extent { /* one WRITE as it is carried out */
    uint64_t off;
    size_t   size;
    uint64_t first;
    uint32_t count;
    uint64_t old_size;
    bool     clear_suid;
};

static void extent_set(struct extent *extent, uint64_t off, size_t size, const struct cache_attr *attr)
{
    extent->off = off;
    extent->size = size;
    extent->first = off / CACHE_PAGE;
    extent->count = (uint32_t)((off + size - 1) / CACHE_PAGE - extent->first + 1);
    extent->old_size = attr->size_bytes;
}

/* The old bytes of page i where new ones do not cover it. False: they cannot be had, the page is not kept. */
static bool old_bytes(struct fs *fs, const struct extent *extent, const struct cache_write *write, const struct origin_ref *ref,
                      uint32_t i, unsigned char *data)
{
    uint64_t start = (extent->first + i) * CACHE_PAGE;
    if (write->old[i]) {
        memcpy(data, write->old[i], CACHE_PAGE);
        return true;
    }
    size_t want = start >= extent->old_size ? 0 : extent->old_size - start < CACHE_PAGE ? extent->old_size - start : CACHE_PAGE;
    if (want) {
        ssize_t got = origin_read(fs->origin, ref, data, want, start);
        seg_count(fs->seg, SEG_COUNTER_origin_reads, 1);
        seg_count(fs->seg, SEG_COUNTER_origin_read_bytes, got > 0 ? (uint64_t)got : 0);
        if (got < 0)
            return false;
        want = (size_t)got;
    }
    memset(data + want, 0, CACHE_PAGE - want);
    return true;
}

/* Puts old and new bytes together in the private frames. Returns how many pages from the first on are whole. */
static uint32_t merge(struct fs *fs, const struct extent *extent, struct cache_write *write, const struct origin_ref *ref, const char *buf)
{
    uint32_t whole = 0;
    bool     broken = false;
    for (uint32_t i = 0; i < extent->count; i++) {
        uint64_t start = (extent->first + i) * CACHE_PAGE;
        uint64_t from = start > extent->off ? start : extent->off;
        uint64_t to = start + CACHE_PAGE < extent->off + extent->size ? start + CACHE_PAGE : extent->off + extent->size;
        unsigned char *data = write->data[i];
        if (data && (from != start || to != start + CACHE_PAGE))
            broken |= !old_bytes(fs, extent, write, ref, i, data);
        if (broken)
            continue;
        if (data)
            memcpy(data + (from - start), buf + (from - extent->off), to - from);
        whole = i + 1;
    }
    return whole;
}

/* Claims are held: merges, writes to the origin, publishes. Returns bytes written or -errno. */
static ssize_t write_claimed(struct fs *fs, const struct extent *extent, struct cache_write *write, const struct origin_ref *ref, const char *buf,
                             unsigned sync)
{
    struct origin_attr fresh;
    struct cache_attr  attr;
    uint32_t           good = merge(fs, extent, write, ref, buf);
    ssize_t            wrote = origin_write(fs->origin, ref, buf, extent->size, extent->off, sync, extent->clear_suid, &fresh);

    seg_count(fs->seg, SEG_COUNTER_origin_writes, 1);
    seg_count(fs->seg, SEG_COUNTER_origin_write_bytes, wrote > 0 ? (uint64_t)wrote : 0);
    if (wrote < 0 || (size_t)wrote != extent->size) {
        uint64_t end = extent->off + (wrote > 0 ? (uint64_t)wrote : 0);
        uint32_t complete = wrote > 0 && end / CACHE_PAGE > extent->first ? (uint32_t)(end / CACHE_PAGE - extent->first) : 0;
        good = good < complete ? good : complete;
    }
    if (wrote >= 0)
        fs_attr_to_cache(&fresh, &attr);
    cache_write_end(fs->cache, write, good, wrote >= 0 ? &attr : NULL);
    return wrote;
}

static unsigned sync_of(const struct fs_call *call)
{
    return call->fi.flags & O_DSYNC ? 1 : 0; /* O_SYNC holds the bit of O_DSYNC */
}

static bool must_clear_suid(const struct fs_call *call, const struct cache_attr *attr)
{
    bool bears = (attr->mode & S_ISUID) || (attr->mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP);
    return bears && fuse_req_ctx(call->req)->uid != 0 && !call->fi.writepage;
}

static ssize_t write_locked(struct fs *fs, struct fs_call *call, struct lock_ref lock, struct extent *extent)
{
    struct cache_write write;
    struct cache_attr  attr;
    struct origin_ref  ref;
    uint64_t           off = call->off;
    int                result = fs_attr_now(fs, call->ino, &attr);

    if (result == 0)
        result = fs_ref(fs, call->ino, &ref);
    if (result != 0)
        return result;
    if ((call->fi.flags & O_APPEND) && !call->fi.writepage)
        off = attr.size_bytes;
    extent_set(extent, off, call->size, &attr);
    extent->clear_suid = must_clear_suid(call, &attr);
    lock_read_begin(fs->lock, lock.words); /* own interest: this kernel keeps what it writes */
    struct lock_recall recall = {.ref = lock, .kind = WORK_RECALL_DATA, .arg = extent->first << 32 | extent->count};
    result = lock_recall_all(fs->lock, &recall, 1, 0);
    if (result == 0)
        result = cache_write_begin(fs->cache, call->ino, extent->first, extent->count, &write);
    if (result != 0)
        return result;
    return write_claimed(fs, extent, &write, &ref, call->data, sync_of(call));
}

/* Write-back that a recall may be waiting for. -EDEADLK: it is no longer. */
static ssize_t write_slipping(struct fs *fs, struct fs_call *call, struct lock_ref lock, struct extent *extent)
{
    struct cache_write write;
    struct cache_attr  attr;
    struct origin_ref  ref;
    int                result = fs_attr_now(fs, call->ino, &attr);

    if (result == 0)
        result = fs_ref(fs, call->ino, &ref);
    if (result != 0)
        return result;
    extent_set(extent, call->off, call->size, &attr);
    result = cache_write_begin(fs->cache, call->ino, extent->first, extent->count, &write);
    if (result != 0)
        return result;
    lock_slipped(fs->lock, lock.words);
    if (!lock_recall_owed(fs->lock, lock.words)) {
        cache_write_end(fs->cache, &write, 0, NULL);
        return -EDEADLK;
    }
    return write_claimed(fs, extent, &write, &ref, call->data, sync_of(call));
}

/* An append that the kernel had put elsewhere: what it cached there is wrong. */
static void take_back(struct fs *fs, const struct fs_call *call, const struct extent *extent)
{
    if (extent->off == call->off)
        return;
    uint64_t first = call->off / CACHE_PAGE, last = (call->off + call->size - 1) / CACHE_PAGE;
    fs_inval_data(fs, call->ino, (uint32_t)first, (uint32_t)(last - first + 1));
}

static void change_write(struct fs *fs, struct fs_call *call)
{
    struct extent extent = {0};
    ssize_t       wrote;

    do {
        struct lock_ref lock = cache_lock_ref(fs->cache, call->ino);
        wrote = lock.words ? lock_write_acquire(fs->lock, &lock, call->fi.writepage ? LOCK_MAY_SLIP : 0, NULL, NULL) : -ESTALE;
        if (wrote == 0) {
            wrote = write_locked(fs, call, lock, &extent);
            lock_write_release(fs->lock, &lock);
        } else if (wrote == -EDEADLK) {
            wrote = write_slipping(fs, call, lock, &extent);
        }
    } while (wrote == -EDEADLK);
    if (wrote > 0)
        take_back(fs, call, &extent);
    fs_inflight_done(fs, call->inflight);
    if (wrote < 0)
        fs_reply_error(call->req, (int)wrote);
    else
        fuse_reply_write(call->req, (size_t)wrote);
}

void fs_op_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off, struct fuse_file_info *fi)
{
    struct fs *fs = fs_of(req);
    if (!size) {
        fuse_reply_write(req, 0);
        return;
    }
    if (size > FS_REQUEST_MAX) {
        fuse_reply_err(req, EINVAL);
        return;
    }
    struct fs_call *call = fs_call_new(req, change_write, ino, true);
    if (!call)
        return;
    call->data = buf;
    call->size = size;
    call->off = (uint64_t)off;
    call->fi = *fi;
    if (!fi->writepage)
        call->inflight = fs_inflight_write(fs, ino, (uint64_t)off, size);
    fs_call_queue(fs, call, fi->writepage ? FS_LANE_BACK : FS_LANE_CHANGE);
}
