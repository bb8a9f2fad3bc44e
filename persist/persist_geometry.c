/* SPDX-License-Identifier: Apache-2.0 */
/*
 * persist_geometry.c - how a segment of a given size is divided.
 *
 * Everything follows from the number of frames F: F/10 inodes, F/8 names, F/9 chunks, one descriptor per frame, a hint bit per element, and
 * buckets (8 bytes, a power of two at least as many as there are elements). Per frame that is at most
 *     16 + 384/10 + 128/8 + 192/9 + 0.2 + 2 * 8 * (1/10 + 1/8 + 1/9) = 97.3 bytes beside 4096, or 2.32 %
 * so the 2.5 % of the design hold for every size, with room for alignment in the smallest. The rest is no index: 1.3 MiB of the members' own (table, inboxes,
 * shared queue, intents), and the locks of applications, F/4 records of 128 bytes but at most 65,536 of them (8 MiB; 0.8 % of segments below 1 GiB, 0.2 % of 4 GiB). The largest F that fits is found by halving, because alignment and powers of two make
 * the sum a staircase.
 *
 * Every section whose pages belong to one writer, and the frames, begin on a page. The order is: members' own first, then the index, then the
 * data, so that what is touched most lies together.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/sysinfo.h>

#include <errno.h>

#include "persist_internal.h"

#define MIB (1ull << 20)
#define SIZE_MAX_BYTES (1ull << 39) /* 512 GiB: well below SEG_LIVENESS_OFF, and frame numbers stay below 2^32 */
enum { FRAMES_PER_INODE = 10, FRAMES_PER_NAME = 8, FRAMES_PER_CHUNK = 9, HINTS_PER_WORD = 64, CACHE_LINE = 64 };

int persist_fail(char err[SEG_ERR_BYTES], int rc, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(err, SEG_ERR_BYTES, format, args);
    va_end(args);
    return rc;
}

static void plan_add(struct seg_plan *plan, uint32_t kind, uint32_t align, uint64_t stride, uint64_t count)
{
    plan->section[plan->section_count++] = (struct seg_plan_section){.kind = kind, .align = align, .stride = stride, .count = count};
}

static uint64_t bucket_count(uint64_t elements)
{
    uint64_t count = 64;
    while (count < elements)
        count *= 2;
    return count;
}

/* Elements, their hints, and where they are found by hash (kind 0: nowhere). */
static void plan_add_pool(struct seg_plan *plan, uint32_t kind, uint32_t hints, uint32_t buckets, uint64_t stride, uint64_t count)
{
    plan_add(plan, kind, SEG_PAGE, stride, count);
    plan_add(plan, hints, CACHE_LINE, sizeof(uint64_t), (count + HINTS_PER_WORD - 1) / HINTS_PER_WORD);
    if (buckets)
        plan_add(plan, buckets, CACHE_LINE, sizeof(uint64_t), bucket_count(count));
}

/* Sections for `frames` frames; returns the bytes that they need (as seg_open() will lay them out). */
static uint64_t plan_lay_out(struct seg_plan *plan, uint64_t frames)
{
    plan->section_count = 0;
    plan_add(plan, SEG_SECTION_MEMBERS, SEG_PAGE, sizeof(struct seg_member), SEG_MEMBERS_MAX);
    plan_add(plan, SEG_SECTION_INBOXES, SEG_PAGE, work_inbox_stride(), SEG_MEMBERS_MAX);
    plan_add(plan, SEG_SECTION_SHARED_QUEUE, SEG_PAGE, work_shared_stride(), 1);
    plan_add(plan, SEG_SECTION_INTENTS, SEG_PAGE, sizeof(struct cache_intents), SEG_MEMBERS_MAX);
    plan_add_pool(plan, SEG_SECTION_INODES, SEG_SECTION_INODE_HINTS, SEG_SECTION_INODE_BUCKETS, sizeof(struct cache_inode),
                  frames / FRAMES_PER_INODE + 1);
    plan_add_pool(plan, SEG_SECTION_NAMES, SEG_SECTION_NAME_HINTS, SEG_SECTION_NAME_BUCKETS, sizeof(struct cache_name),
                  frames / FRAMES_PER_NAME + 1);
    plan_add_pool(plan, SEG_SECTION_CHUNKS, SEG_SECTION_CHUNK_HINTS, SEG_SECTION_CHUNK_BUCKETS, sizeof(struct cache_chunk),
                  frames / FRAMES_PER_CHUNK + 1);
    uint64_t app_locks = lock_app_count(frames);
    plan_add_pool(plan, SEG_SECTION_APP_LOCKS, SEG_SECTION_APP_LOCK_HINTS, SEG_SECTION_APP_LOCK_BUCKETS, sizeof(struct lock_app_record),
                  app_locks);
    plan_add(plan, SEG_SECTION_APP_WAIT_BUCKETS, CACHE_LINE, sizeof(uint64_t), bucket_count(app_locks / 4));
    plan_add_pool(plan, SEG_SECTION_FRAMES, SEG_SECTION_FRAME_HINTS, 0, sizeof(struct cache_frame), frames);
    plan_add(plan, SEG_SECTION_DATA, SEG_PAGE, CACHE_PAGE, frames);

    uint64_t end = sizeof(struct seg_super) + sizeof(struct seg_common);
    for (uint32_t i = 0; i < plan->section_count; i++) {
        const struct seg_plan_section *section = &plan->section[i];
        end = (end + section->align - 1) / section->align * section->align + section->stride * section->count;
    }
    return end;
}

int persist_plan(uint64_t size_bytes, const char *name, const uint8_t origin_id[64], struct seg_plan *plan, char err[SEG_ERR_BYTES])
{
    if (size_bytes < PERSIST_SIZE_MIN)
        return persist_fail(err, -EINVAL, "a segment of %llu bytes is too small; give size=%lluM or more",
                            (unsigned long long)size_bytes, PERSIST_SIZE_MIN / MIB);
    if (size_bytes > SIZE_MAX_BYTES)
        return persist_fail(err, -EINVAL, "a segment of %llu GiB is too large; the most is %llu GiB",
                            (unsigned long long)(size_bytes >> 30), SIZE_MAX_BYTES >> 30);

    memset(plan, 0, sizeof *plan);
    plan->size_bytes = size_bytes / SEG_PAGE * SEG_PAGE;
    plan->signature = cache_layout_signature();
    snprintf(plan->name, sizeof plan->name, "%s", name);
    memcpy(plan->origin_id, origin_id, sizeof plan->origin_id);

    uint64_t fits = 0, too_many = plan->size_bytes / CACHE_PAGE;
    while (too_many - fits > 1) {
        uint64_t middle = fits + (too_many - fits) / 2;
        if (plan_lay_out(plan, middle) <= plan->size_bytes)
            fits = middle;
        else
            too_many = middle;
    }
    plan_lay_out(plan, fits);
    return 0;
}

unsigned persist_index_permyriad(const struct seg *seg)
{
    static const enum seg_section_kind index_kinds[] = {
        SEG_SECTION_INODES, SEG_SECTION_INODE_HINTS, SEG_SECTION_INODE_BUCKETS, SEG_SECTION_NAMES,
        SEG_SECTION_NAME_HINTS, SEG_SECTION_NAME_BUCKETS, SEG_SECTION_CHUNKS, SEG_SECTION_CHUNK_HINTS,
        SEG_SECTION_CHUNK_BUCKETS, SEG_SECTION_FRAMES, SEG_SECTION_FRAME_HINTS,
    };
    uint64_t bytes = 0, size = seg_size(seg);
    for (unsigned i = 0; i < sizeof index_kinds / sizeof index_kinds[0]; i++) {
        struct seg_array array = seg_section(seg, index_kinds[i]);
        bytes += array.stride * array.count;
    }
    return (unsigned)((bytes * 10000 + size - 1) / size);
}

uint64_t persist_default_size(void)
{
    uint64_t       size = 64 * MIB;
    struct sysinfo info;
    if (sysinfo(&info) == 0)
        size = (uint64_t)info.totalram * info.mem_unit / 8;
    if (size < 64 * MIB)
        size = 64 * MIB;
    if (size > 4096 * MIB)
        size = 4096 * MIB;

    struct statvfs shm;
    if (statvfs("/dev/shm", &shm) == 0) {
        uint64_t half = (uint64_t)shm.f_bavail * shm.f_frsize / 2;
        if (size > half)
            size = half;
    }
    size = size / MIB * MIB;
    return size < PERSIST_SIZE_MIN ? PERSIST_SIZE_MIN : size;
}
