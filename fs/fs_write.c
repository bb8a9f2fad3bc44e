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
 * does without the lock, its claims alone exclude. The acknowledgement is held back until it is done (fs_slip_begin), so the owner is still recalling, finds the `slipped`
 * mark and recalls everybody once more before it writes. (model: tests/model/recall_mmap.pml)
 *
 * Own pages. The kernel puts the new bytes into its page before it sends the WRITE. If that page is recalled while the WRITE waits here and then read again (by a fault of a mapping,
 * say), the kernel holds the old bytes, would show them after the write has returned, and would even write them back if the mapping is stored to. So where a
 * page of this inode has been recalled before and its region read again since (node->reread), the own kernel is recalled as well before the write is carried
 * out: what a mapping has dirtied comes
 * first, then the write. READs that come after the lock was taken wait until it is released (lock_read_begin_page).
 *
 * Direct I/O (files opened with O_APPEND, O_DIRECT, and all of a mount with cache=shared) leaves nothing in the kernel's page cache, but pages of a mapping may be there. The kernel
 * writes those of the range back and drops them before it sends the WRITE, and, by its version, not again afterwards; one that faults in between would stay
 * old. So from the open on READs of such files mark
 * their regions (fs_open_flags), and the WRITE recalls its own kernel as above.
 *
 * O_APPEND is placed at the true end; pages the kernel put at a stale end are taken back from it before the answer. The kernel may cut a buffered write into several
 * WRITEs at a page it does not have; files opened with O_APPEND are therefore written past its page cache (fs_file.c), so that each append is one WRITE and whole.
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
    enum origin_clear clear;
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
    ssize_t            wrote = origin_write(fs->origin, ref, buf, extent->size, extent->off, sync, extent->clear, &fresh);

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

/* What is to be recalled where the own kernel is, too: the regions whose marks are taken away, or the whole file where a bit stands for several. */
static uint64_t own_range(const struct extent *extent)
{
    uint64_t first = extent->first / FS_REGION_PAGES * FS_REGION_PAGES;
    uint64_t end = (extent->first + extent->count + FS_REGION_PAGES - 1) / FS_REGION_PAGES * FS_REGION_PAGES;
    if (end > FS_REGION_PAGES * FS_REGIONS || extent->old_size > FS_REGION_PAGES * FS_REGIONS * (uint64_t)CACHE_PAGE)
        return UINT32_MAX;
    return first << 32 | (end - first);
}

/* No kernel holds the range any more but as the claims allow: others are recalled, the own one where its pages may be older than this write. Write-back (`back`)
 * is what the own kernel has, and leaves the marks to the writes they are meant for. */
static int recall_and_claim(struct fs *fs, uint64_t ino, struct lock_ref lock, const struct extent *extent, bool back,
                            struct cache_write *write)
{
    struct lock_recall recall = {.ref = lock, .kind = WORK_RECALL_DATA};
    struct fs_node    *node = fs_node_at(fs, ino);
    uint64_t           mask = fs_region_mask(extent->first, extent->first + extent->count - 1);

    bool own = !back && node && atomic_load(&node->shared) && (atomic_load(&node->reread) & mask);
    recall.arg = own ? own_range(extent) : extent->first << 32 | extent->count;
    if (own)
        atomic_fetch_and(&node->reread, recall.arg == UINT32_MAX ? 0 : ~mask);
    int result = lock_recall_all(fs->lock, &recall, 1, own);
    return result ? result : cache_write_begin(fs->cache, ino, extent->first, extent->count, write);
}

static ssize_t write_locked(struct fs *fs, struct fs_call *call, struct lock_ref lock, struct extent *extent)
{
    struct cache_write write;
    struct cache_attr  attr;
    struct origin_ref  ref;
    bool               append = (call->fi.flags & O_APPEND) && !call->fi.writepage;

    fs_outside_settle(fs, lock);
    int result = fs_attr_now(fs, call->ino, &attr);
    if (result == 0)
        result = fs_ref(fs, call->ino, &ref);
    while (result == 0) {
        extent_set(extent, append ? attr.size_bytes : call->off, call->size, &attr);
        extent->clear = call->fi.writepage ? ORIGIN_CLEAR_NONE : fs_clears_setid(call->req, &attr);
        if (!fs_is_direct(&call->fi))
            lock_interest_take(fs->lock, lock.words); /* own interest: this kernel keeps what it writes */
        result = recall_and_claim(fs, call->ino, lock, extent, call->fi.writepage, &write);
        if (result != 0)
            break;
        /* What slipped by while we recalled may have moved the end. */
        if ((result = fs_attr_now(fs, call->ino, &attr)) == 0 && attr.size_bytes == extent->old_size)
            break;
        cache_write_end(fs->cache, &write, 0, result == 0 ? &attr : NULL);
    }
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

    if (!fs_slip_begin(fs, call->ino, lock.words))
        return -EDEADLK;
    ssize_t result = fs_attr_now(fs, call->ino, &attr);
    if (result == 0)
        result = fs_ref(fs, call->ino, &ref);
    if (result == 0) {
        extent_set(extent, call->off, call->size, &attr);
        result = cache_write_begin(fs->cache, call->ino, extent->first, extent->count, &write);
    }
    if (result == 0)
        result = write_claimed(fs, extent, &write, &ref, call->data, sync_of(call));
    fs_slip_end(fs, call->ino, lock.words);
    return result;
}

/* An append that the kernel had put elsewhere: what it cached there is wrong, and what it has cached at the true place is old. */
static void take_back(struct fs *fs, const struct fs_call *call, const struct extent *extent)
{
    if (extent->off == call->off)
        return;
    uint64_t first = call->off / CACHE_PAGE, last = (call->off + call->size - 1) / CACHE_PAGE;
    fs_inval_data(fs, call->ino, (uint32_t)first, (uint32_t)(last - first + 1));
    fs_inval_data(fs, call->ino, (uint32_t)extent->first, extent->count);
}

/*
 * Write-back that owns the lock may recall its own kernel, which must not wait for it: its pages are held, and it does not count as write-back that will be over by itself. In this order, and
 * back in the other (models: recall_mmap.pml, mutants 10, 13 and 14).
 */
static void *back_hold(struct fs *fs, struct fs_call *call)
{
    struct fs_node *node = fs_node_at(fs, call->ino);
    void           *held = fs_inflight_held(fs, call->ino, call->off, call->size);
    if (node)
        atomic_fetch_sub(&node->backs, 1);
    return held;
}

static void back_let_go(struct fs *fs, struct fs_call *call, void *held)
{
    struct fs_node *node = fs_node_at(fs, call->ino);
    if (node)
        atomic_fetch_add(&node->backs, 1);
    fs_inflight_done(fs, held);
}

static void change_write(struct fs *fs, struct fs_call *call)
{
    struct extent extent = {0};
    ssize_t       wrote;
    size_t        whole = call->size;
    bool          again;

    do {
        again = false;
        struct lock_ref lock = cache_lock_ref(fs->cache, call->ino);
        bool back = call->fi.writepage;
        void *held = NULL;
        wrote = lock.words ? lock_write_acquire(fs->lock, &lock, back ? LOCK_MAY_SLIP : 0, back ? fs_back_crowded : NULL, fs) : -ESTALE;
        if (wrote == -EINTR) {
            fs_call_round(fs, call);
            return;
        }
        if (wrote == 0) {
            held = back ? back_hold(fs, call) : NULL;
            wrote = write_locked(fs, call, lock, &extent);
            if (back)
                back_let_go(fs, call, held); /* first: the next owner's recall must wait for this page, which is up to date */
            lock_write_release(fs->lock, &lock);
        } else if (wrote == -EDEADLK) {
            wrote = write_slipping(fs, call, lock, &extent);
        }
        if (back && wrote > 0 && (size_t)wrote < call->size) { /* the kernel takes any answer but an error for all of it: go on until the origin says what is wrong */
            call->data = (const char *)call->data + wrote;
            call->off += (uint64_t)wrote;
            call->size -= (size_t)wrote;
            again = true;
        }
    } while (wrote == -EDEADLK || again);
    if (wrote > 0)
        take_back(fs, call, &extent);
    if (wrote > 0 && extent.clear && fs_is_direct(&call->fi)) /* the kernel does not know that the mode has changed; it decides about execve() by it */
        fuse_lowlevel_notify_inval_inode(fs->se, call->ino, -1, 0);
    fs_inflight_done(fs, call->inflight);
    struct fs_node *node = call->fi.writepage ? fs_node_at(fs, call->ino) : NULL;
    if (wrote < 0)
        fs_reply_error(call->req, (int)wrote);
    else
        fuse_reply_write(call->req, call->fi.writepage ? whole : (size_t)wrote);
    if (node)
        atomic_fetch_sub(&node->backs, 1);
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
    struct fs_node *node = fi->writepage ? fs_node_at(fs, ino) : NULL;
    if (node)
        atomic_fetch_add(&node->backs, 1);
    if (!fi->writepage && !fs_is_direct(fi))
        call->inflight = fs_inflight_write(fs, ino, (uint64_t)off, size);
    fs_call_queue(fs, call, fi->writepage ? FS_LANE_BACK : FS_LANE_CHANGE);
}
