/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fs_read.c - READ and READLINK.
 *
 * A hit: inside an epoch, take an interest (lock_read_begin), collect the frames of one version, check that this member still stands, and reply straight out of
 * the segment; no lock, no copy of ours, no wait. The frames are immutable and cannot be used again before the epoch is left.
 *
 * A miss goes to lane FETCH: claim the missing pages, read the origin into their frames, publish, and look again. Pages that somebody else is fetching are waited for. When
 * there is no frame to be had, or pages vanish as fast as they come, the answer comes straight from the origin.
 *
 * Why an answer collected before a recall does no harm: the kernel keeps the pages of a READ locked until the answer is in them, and the invalidation waits
 * for that; node->reads tells the invalidation that there are READs to wait for (fs_inval.c).
 */
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "fs_internal.h"

enum { READ_TRIES_MAX = 50, CLAIM_WAIT_MS = 1000, READ_TURNS_MAX = 20 };

/* KEPT: in pages that the kernel holds locked until they are answered, so it must be recallable. LOCKED: likewise, and this thread holds the write lock. UNCACHED: the
 * kernel keeps nothing of it. */
enum read_how { READ_KEPT, READ_LOCKED, READ_UNCACHED };

static void reads_begin(struct fs *fs, uint64_t ino)
{
    struct fs_node *node = fs_node_at(fs, ino);
    if (node)
        atomic_fetch_add(&node->reads, 1);
}

/* Before the data is collected: a write of this kernel that has not been carried out must know (fs_write.c). */
static void mark_reread(struct fs *fs, uint64_t ino, uint64_t off, size_t size)
{
    struct fs_node *node = fs_node_at(fs, ino);
    if (!node || !size || !atomic_load_explicit(&node->shared, memory_order_relaxed))
        return;
    uint64_t mask = fs_region_mask(off / CACHE_PAGE, (off + size - 1) / CACHE_PAGE);
    if ((atomic_load(&node->reread) & mask) != mask)
        atomic_fetch_or(&node->reread, mask);
}

static void reads_end(struct fs *fs, uint64_t ino)
{
    struct fs_node *node = fs_node_at(fs, ino);
    if (node)
        atomic_fetch_sub(&node->reads, 1);
}

/* Replies from inside the epoch: 0, or what cache_read said; -EINPROGRESS: wait for a turn. */
static int try_read(struct fs *fs, fuse_req_t req, uint64_t ino, size_t size, uint64_t off, enum read_how how, uint64_t *missing)
{
    struct iovec iov[FS_IOV_MAX];
    unsigned     count = 0;
    size_t       bytes = 0;
    int          result;

    mark_reread(fs, ino, off, size);
    seg_epoch_enter(fs->seg);
    struct cache_inode *inode = cache_inode_at(fs->cache, ino);
    if (!inode)
        result = -ESTALE;
    else if (how == READ_KEPT && lock_read_begin_page(fs->lock, &inode->lock) == LOCK_READ_WAIT)
        result = -EINPROGRESS;
    else
        result = cache_read(fs->cache, ino, off, size, iov, FS_IOV_MAX, &count, &bytes, missing);
    if (result == 0 && !fs_stands(fs))
        result = -EIO;
    if (result == 0) {
        if (how != READ_UNCACHED)
            fs_inflight_read(fs, ino, off, size);
        if (bytes == 0)
            fuse_reply_buf(req, NULL, 0);
        else if (count == 1)
            fuse_reply_buf(req, iov[0].iov_base, bytes);
        else
            fuse_reply_iov(req, iov, (int)count);
    }
    seg_epoch_exit(fs->seg);
    return result;
}

/* Fetches from page `first` on, up to `last` and the end of the file. 0: look again. */
static int fetch_pages(struct fs *fs, uint64_t ino, uint64_t first, uint64_t last)
{
    struct cache_fill fill;
    struct cache_attr attr;
    struct origin_ref ref;

    int result = fs_attr_now(fs, ino, &attr);
    if (result == 0)
        result = fs_ref(fs, ino, &ref);
    if (result != 0)
        return result;
    uint64_t pages = (attr.size_bytes + CACHE_PAGE - 1) / CACHE_PAGE;
    if (first >= pages)
        return 0; /* it has shrunk meanwhile */
    if (last >= pages)
        last = pages - 1;
    uint32_t want = last - first + 1 > CACHE_FILL_MAX ? CACHE_FILL_MAX : (uint32_t)(last - first + 1);
    result = cache_fill_begin(fs->cache, ino, first, want, &fill);
    if (result == -EEXIST)
        return 0;
    if (result != 0)
        return result;
    ssize_t got;
    if (S_ISLNK(attr.mode)) {
        char target[CACHE_PAGE];
        got = origin_readlink(fs->origin, &ref, target, sizeof target);
        if (got > 0)
            memcpy(fill.iov[0].iov_base, target, (size_t)got);
    } else {
        got = origin_readv(fs->origin, &ref, fill.iov, (int)fill.iov_count, first * CACHE_PAGE);
    }
    seg_count(fs->seg, SEG_COUNTER_origin_reads, 1);
    seg_count(fs->seg, SEG_COUNTER_origin_read_bytes, got > 0 ? (uint64_t)got : 0);
    /* The file may have shrunk at the origin without our knowing: what the cache cannot hold is answered from the origin. */
    uint64_t expect = attr.size_bytes - first * CACHE_PAGE;
    if (got >= 0 && (uint64_t)got < expect && (uint64_t)got < (uint64_t)fill.count * CACHE_PAGE && !S_ISLNK(attr.mode)) {
        cache_fill_end(fs->cache, &fill, got);
        cache_fill_release(fs->cache, &fill);
        return got == 0 ? -ENOMEM : 0; /* answer from the origin */
    }
    cache_fill_end(fs->cache, &fill, got);
    cache_fill_release(fs->cache, &fill);
    return got < 0 ? (int)got : 0;
}

/* Past the cache: straight from the origin. */
static void read_around(struct fs *fs, struct fs_call *call)
{
    struct origin_ref ref;
    char             *buf = malloc(call->size ? call->size : 1);
    ssize_t           got = buf ? fs_ref(fs, call->ino, &ref) : -ENOMEM;

    if (got == 0)
        got = origin_read(fs->origin, &ref, buf, call->size, call->off);
    seg_count(fs->seg, SEG_COUNTER_origin_reads, 1);
    seg_count(fs->seg, SEG_COUNTER_origin_read_bytes, got > 0 ? (uint64_t)got : 0);
    if (got >= 0 && call->mode != READ_UNCACHED)
        fs_inflight_read(fs, call->ino, call->off, call->size);
    if (got < 0)
        fs_reply_error(call->req, (int)got);
    else
        fuse_reply_buf(call->req, buf, (size_t)got);
    free(buf);
}

/* One look and what it asks for. 0: answered (also with an error). -EINPROGRESS: a turn must be waited for. -EAGAIN: look again. */
static int read_step(struct fs *fs, struct fs_call *call, enum read_how how)
{
    struct cache_attr attr;
    uint64_t          missing = 0, last = (call->off + (call->size ? call->size - 1 : 0)) / CACHE_PAGE;
    int               result = try_read(fs, call->req, call->ino, call->size, call->off, how, &missing);

    if (result == 0 || result == -EINPROGRESS)
        return result;
    if (result == -ENODATA && missing == UINT64_MAX)
        result = fs_attr_now(fs, call->ino, &attr);
    else if (result == -ENODATA)
        result = fetch_pages(fs, call->ino, missing, last);
    if (result == -EBUSY)
        result = cache_claim_wait(fs->cache, call->ino, missing, CLAIM_WAIT_MS, NULL, NULL);
    if (result == -EAGAIN)
        sched_yield(); /* a publisher is off the processor */
    bool again = result == 0 || result == -EAGAIN || result == -ETIMEDOUT || result == -ENODATA;
    if (result == -ENOMEM || (again && ++call->tries > READ_TRIES_MAX))
        read_around(fs, call);
    else if (again)
        return -EAGAIN;
    else
        fs_reply_error(call->req, result);
    return 0;
}

/* From now on recalls go round the pages of this READ; it is not answered before the writer is done. */
static void wait_for_turn(struct fs *fs, struct fs_call *call)
{
    call->inflight = fs_inflight_held(fs, call->ino, call->off, call->size);
    reads_end(fs, call->ino);
    call->wait_page = true;
    call->len++;
    fs_call_turn(fs, call, call->ino);
}

/* Its turn has not come for long, because writers follow one another: it takes its place among them. */
static int read_locked(struct fs *fs, struct fs_call *call)
{
    struct lock_ref lock = cache_lock_ref(fs->cache, call->ino);
    int             result = lock.words ? lock_write_acquire(fs->lock, &lock, 0, NULL, NULL) : -ESTALE;
    if (result != 0)
        return result;
    lock_interest_take(fs->lock, lock.words);
    reads_begin(fs, call->ino);
    fs_inflight_done(fs, call->inflight);
    call->inflight = NULL;
    do
        result = read_step(fs, call, READ_LOCKED);
    while (result == -EAGAIN);
    lock_write_release(fs->lock, &lock);
    return 0;
}

static void fetch_read(struct fs *fs, struct fs_call *call)
{
    if (call->inflight && call->len > READ_TURNS_MAX) {
        int result = read_locked(fs, call);
        if (result != 0) {
            reads_begin(fs, call->ino);
            fs_inflight_done(fs, call->inflight);
            fs_reply_error(call->req, result);
        }
        reads_end(fs, call->ino);
        return;
    }
    if (call->inflight) { /* before the look at the lock: what is answered must be waited for */
        reads_begin(fs, call->ino);
        fs_inflight_done(fs, call->inflight);
        call->inflight = NULL;
    }
    int result;
    do
        result = read_step(fs, call, (enum read_how)call->mode);
    while (result == -EAGAIN);
    if (result == -EINPROGRESS)
        wait_for_turn(fs, call);
    else
        reads_end(fs, call->ino);
}

void fs_op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
    struct fs *fs = fs_of(req);
    uint64_t   missing = 0;
    /* Only a READ straight into a program's memory bears an owner; a fault through the same descriptor does not, and its page stays. */
    enum read_how how = fi && fi->lock_owner ? READ_UNCACHED : READ_KEPT;
    if (size > FS_REQUEST_MAX)
        size = FS_REQUEST_MAX;
    reads_begin(fs, ino);
    int result = try_read(fs, req, ino, size, (uint64_t)off, how, &missing);
    if (result == 0) {
        seg_count(fs->seg, SEG_COUNTER_hits, 1);
        seg_count(fs->seg, SEG_COUNTER_requests_inline, 1);
        reads_end(fs, ino);
        return;
    }
    struct fs_call *call = fs_call_new(req, fetch_read, ino, false);
    if (!call) {
        reads_end(fs, ino);
        return;
    }
    seg_count(fs->seg, SEG_COUNTER_misses, 1);
    call->size = size;
    call->off = (uint64_t)off;
    call->mode = how;
    if (result == -EINPROGRESS)
        wait_for_turn(fs, call);
    else
        fs_call_queue(fs, call, FS_LANE_FETCH);
}

/* ---- READLINK: the target is page 0 ---- */
static int try_readlink(struct fs *fs, fuse_req_t req, uint64_t ino)
{
    struct iovec iov[2];
    unsigned     count;
    size_t       bytes;
    uint64_t     missing;
    char         target[CACHE_PAGE + 1];
    int          result = -ESTALE;

    seg_epoch_enter(fs->seg);
    struct cache_inode *inode = cache_inode_at(fs->cache, ino);
    if (inode)
        result = lock_read_begin(fs->lock, &inode->lock) == LOCK_READ_WAIT
                     ? -EINPROGRESS
                     : cache_read(fs->cache, ino, 0, CACHE_PAGE, iov, 2, &count, &bytes, &missing);
    if (result == 0) {
        memcpy(target, iov[0].iov_base, count ? bytes : 0);
        target[bytes] = 0;
    }
    seg_epoch_exit(fs->seg);
    if (result == 0)
        fuse_reply_readlink(req, target);
    return result;
}

static void fetch_readlink(struct fs *fs, struct fs_call *call)
{
    struct origin_ref ref;
    char              target[CACHE_PAGE + 1];

    for (; call->tries < READ_TRIES_MAX; call->tries++) {
        int result = try_readlink(fs, call->req, call->ino);
        if (result == 0)
            return;
        if (result == -EINPROGRESS) {
            fs_call_turn(fs, call, call->ino);
            return;
        }
        if (fetch_pages(fs, call->ino, 0, 0) != 0)
            break;
    }
    int length = fs_ref(fs, call->ino, &ref);
    if (length == 0)
        length = origin_readlink(fs->origin, &ref, target, CACHE_PAGE);
    if (length < 0) {
        fs_reply_error(call->req, length);
        return;
    }
    target[length] = 0;
    fuse_reply_readlink(call->req, target);
}

void fs_op_readlink(fuse_req_t req, fuse_ino_t ino)
{
    struct fs *fs = fs_of(req);
    if (try_readlink(fs, req, ino) == 0)
        return;
    struct fs_call *call = fs_call_new(req, fetch_readlink, ino, false);
    if (call)
        fs_call_queue(fs, call, FS_LANE_FETCH);
}
