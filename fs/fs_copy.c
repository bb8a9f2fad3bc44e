/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fs_copy.c - COPY_FILE_RANGE: the origin copies, by reference where it can; the cache shares frames instead of copying bytes.
 *
 *   locked        both inodes' write locks, so the source stands still
 *   recalled      no other kernel holds the range of the destination, its size and times. The own kernel has written back what it had dirty of both ranges before it sent the
 *                 request, and drops the destination's range when it is answered
 *   step by step  CACHE_WRITE_MAX pages: claimed (with an intent), copied by the origin, shared or dropped (cache_share.c), attributes published
 * If this member dies: recovery drops the range of the step, and readers fetch what the origin has.
 *
 * Frames can be shared where both offsets lie alike in their pages, for whole pages, and for the last page when both files end with it (what lies behind the end is zero in both).
 */
#include <stdlib.h>

#include "fs_internal.h"

enum { COPY_MAX = 64 << 20, STEP_PAGES = 256 };

struct span { /* one step */
    uint64_t from, to;
    size_t   size;
};

/* Which pages of the step are wholly the source's: [*first, *end), counted from the step's first page. */
static void pages_alike(const struct span *span, size_t copied, const struct cache_attr *source, const struct cache_attr *target, uint32_t *first,
                        uint32_t *end)
{
    uint64_t base = span->to / CACHE_PAGE, stop = span->to + copied;
    bool     both_end = span->from + copied == source->size_bytes && stop == target->size_bytes;
    *first = (uint32_t)((span->to + CACHE_PAGE - 1) / CACHE_PAGE - base);
    *end = (uint32_t)((both_end ? stop + CACHE_PAGE - 1 : stop) / CACHE_PAGE - base);
    if (*end < *first)
        *end = *first;
}

/* Bytes copied, or -errno. */
static ssize_t copy_step(struct fs *fs, struct fs_call *call, const struct origin_ref ref[2], const struct span *span, struct cache_copy *copy)
{
    struct origin_attr fresh;
    struct cache_attr  source, target;
    uint64_t           first = span->to / CACHE_PAGE;
    uint32_t           count = (uint32_t)((span->to + span->size - 1) / CACHE_PAGE - first + 1), from = 0, to = 0;
    bool               alike = span->from % CACHE_PAGE == span->to % CACHE_PAGE;

    ssize_t result = fs_attr_now(fs, call->other, &source);
    if (result == 0)
        result = cache_copy_begin(fs->cache, call->ino, first, count, call->other, alike ? span->from / CACHE_PAGE : UINT64_MAX, copy);
    if (result != 0)
        return result;
    result = origin_copy(fs->origin, &ref[0], span->from, &ref[1], span->to, span->size, &fresh);
    seg_count(fs->seg, SEG_COUNTER_origin_meta_ops, 1);
    if (result >= 0)
        fs_attr_to_cache(&fresh, &target);
    if (result > 0 && alike)
        pages_alike(span, (size_t)result, &source, &target, &from, &to);
    uint32_t shared = cache_copy_end(fs->cache, copy, from, to, result >= 0 ? &target : NULL);
    seg_count(fs->seg, SEG_COUNTER_pages_shared, shared);
    return result;
}

static ssize_t copy_locked(struct fs *fs, struct fs_call *call, struct lock_ref source, struct lock_ref lock, struct cache_copy *copy)
{
    struct origin_ref  ref[2];
    struct cache_attr  attr;
    uint64_t           first = call->off / CACHE_PAGE, last = (call->off + call->size - 1) / CACHE_PAGE;
    struct lock_recall recall = {.ref = lock, .kind = WORK_RECALL_DATA, .arg = first << 32 | (last - first + 1)};
    size_t             done = 0;

    fs_outside_settle(fs, source);
    if (source.id != lock.id)
        fs_outside_settle(fs, lock);
    ssize_t result = fs_ref(fs, call->other, &ref[0]);
    if (result == 0)
        result = fs_ref(fs, call->ino, &ref[1]);
    if (result == 0)
        result = lock_recall_all(fs->lock, &recall, 1, 0);
    while (result == 0 && done < call->size) {
        uint64_t    at = call->off + done, room = (at / CACHE_PAGE + STEP_PAGES) * CACHE_PAGE - at;
        struct span span = {call->len + done, at, call->size - done < room ? call->size - done : room};
        ssize_t     got = copy_step(fs, call, ref, &span, copy);
        if (got < 0)
            result = got;
        else
            done += (size_t)got;
        if (got < (ssize_t)span.size)
            break;
    }
    if (done && fs_attr_now(fs, call->ino, &attr) == 0)
        fs_setid_clear(fs, call, &ref[1], &attr);
    return done ? (ssize_t)done : result;
}

static void change_copy(struct fs *fs, struct fs_call *call)
{
    struct lock_ref    lock[2] = {cache_lock_ref(fs->cache, call->other), cache_lock_ref(fs->cache, call->ino)}, source = lock[0], target = lock[1];
    struct cache_copy *copy = malloc(sizeof *copy);
    ssize_t            result = !copy ? -ENOMEM : lock[0].words && lock[1].words ? 0 : -ESTALE;

    if (result == 0)
        result = lock_write_acquire_set(fs->lock, lock, 2, NULL, NULL);
    if (result == 0) {
        result = copy_locked(fs, call, source, target, copy);
        lock_write_release_set(fs->lock, lock, 2);
    }
    free(copy);
    if (result < 0)
        fs_reply_error(call->req, (int)result);
    else
        fuse_reply_write(call->req, (size_t)result);
}

void fs_op_copy_file_range(fuse_req_t req, fuse_ino_t ino_in, off_t off_in, struct fuse_file_info *fi_in, fuse_ino_t ino_out, off_t off_out,
                           struct fuse_file_info *fi_out, size_t len, int flags)
{
    struct fs_call *call;
    (void)fi_in;
    (void)fi_out;
    if (flags || off_in < 0 || off_out < 0) {
        fuse_reply_err(req, EINVAL);
        return;
    }
    if (!len) {
        fuse_reply_write(req, 0);
        return;
    }
    if (!(call = fs_call_new(req, change_copy, ino_out, false)))
        return;
    call->other = ino_in;
    call->off = (uint64_t)off_out;
    call->len = (uint64_t)off_in;
    call->size = len < COPY_MAX ? len : COPY_MAX; /* the rest is asked for again */
    fs_call_queue(fs_of(req), call, FS_LANE_CHANGE);
}
