/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache_fixture.h - a small segment with up to eight members in one process, for the unit tests of cache/.
 *
 *   struct fixture *f = fixture_open(4 << 20);      4 MiB of frames; f->member[0] has joined: f->cache is its cache
 *   struct fixture_member *b = fixture_join(f);     another member, by a second mapping (not under TSan: one mapping only)
 *   fixture_leave(f, b);  fixture_kill(f, b);       leaves in order; or is gone without a word, its liveness lock free
 *   fixture_close(f);
 * fixture_open_shape() says how many elements each pool has. A dead member is settled by fixture_settle(), which is also what the lock
 * manager's `dead` callback does.
 */
#ifndef HEARTH_CACHE_FIXTURE_H
#define HEARTH_CACHE_FIXTURE_H

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cache.h"
#include "cache_internal.h"
#include "lock.h"
#include "seg.h"
#include "work.h"

enum { FIXTURE_MEMBERS = 8, FIXTURE_ALIGN = 4096 };

struct fixture_shape {
    uint64_t frames, inodes, names, chunks;
};
struct fixture_member {
    struct fixture  *fixture;
    struct seg      *seg;
    struct work     *work;
    struct lock_mgr *lock;
    struct cache    *cache;
    unsigned         slot;
    uint32_t         incarnation;
};
struct fixture {
    char                  path[128];
    struct seg_plan       plan;
    struct cache         *cache; /* of member[0] */
    struct seg           *seg;   /* of member[0] */
    struct fixture_member member[FIXTURE_MEMBERS];
};

static inline void fixture_section(struct seg_plan *plan, uint32_t kind, uint64_t stride, uint64_t count)
{
    plan->section[plan->section_count++] = (struct seg_plan_section){kind, FIXTURE_ALIGN, stride, count};
}

static inline uint64_t fixture_buckets(uint64_t count)
{
    uint64_t buckets = 16;
    while (buckets < count)
        buckets *= 2;
    return buckets;
}

static inline void fixture_pool(struct seg_plan *plan, uint32_t elements, uint32_t hints, uint32_t buckets,
                                uint64_t stride, uint64_t count)
{
    fixture_section(plan, elements, stride, count);
    fixture_section(plan, hints, 8, (count + 63) / 64);
    if (buckets)
        fixture_section(plan, buckets, 8, fixture_buckets(count));
}

static inline void fixture_plan(struct seg_plan *plan, const struct fixture_shape *shape)
{
    memset(plan, 0, sizeof *plan);
    strcpy(plan->name, "fixture");
    plan->signature = cache_layout_signature();
    fixture_section(plan, SEG_SECTION_MEMBERS, sizeof(struct seg_member), SEG_MEMBERS_MAX);
    fixture_section(plan, SEG_SECTION_INBOXES, work_inbox_stride(), SEG_MEMBERS_MAX);
    fixture_section(plan, SEG_SECTION_SHARED_QUEUE, work_shared_stride(), 1);
    fixture_section(plan, SEG_SECTION_INTENTS, sizeof(struct cache_intents), SEG_MEMBERS_MAX);
    fixture_pool(plan, SEG_SECTION_INODES, SEG_SECTION_INODE_HINTS, SEG_SECTION_INODE_BUCKETS,
                 sizeof(struct cache_inode), shape->inodes);
    fixture_pool(plan, SEG_SECTION_NAMES, SEG_SECTION_NAME_HINTS, SEG_SECTION_NAME_BUCKETS, sizeof(struct cache_name),
                 shape->names);
    fixture_pool(plan, SEG_SECTION_CHUNKS, SEG_SECTION_CHUNK_HINTS, SEG_SECTION_CHUNK_BUCKETS,
                 sizeof(struct cache_chunk), shape->chunks);
    fixture_pool(plan, SEG_SECTION_FRAMES, SEG_SECTION_FRAME_HINTS, 0, sizeof(struct cache_frame), shape->frames);
    fixture_section(plan, SEG_SECTION_DATA, CACHE_PAGE, shape->frames);

    plan->size_bytes = 2 * SEG_PAGE;
    for (uint32_t i = 0; i < plan->section_count; i++) {
        uint64_t bytes = plan->section[i].stride * plan->section[i].count;
        plan->size_bytes += (bytes + FIXTURE_ALIGN - 1) / FIXTURE_ALIGN * FIXTURE_ALIGN;
    }
    plan->size_bytes += SEG_PAGE;
}

/* Settles everything a dead member held: what persist/ does, in the least form. */
static inline void fixture_settle(struct fixture_member *me, unsigned slot, uint32_t incarnation)
{
    if (seg_recovery_lock(me->seg, false) != 0)
        return;
    uint32_t              now = 0;
    enum seg_member_state state = seg_member_state(me->seg, slot, &now);
    if (now == incarnation && state != SEG_PARKED && state != SEG_FREE) {
        seg_member_fence(me->seg, slot, incarnation);
        seg_epoch_clear(me->seg, slot);
        work_recover(me->work, slot);
        cache_recover(me->cache, slot);
        seg_member_park(me->seg, slot);
    }
    seg_recovery_unlock(me->seg);
}

static inline void fixture_dead(void *arg, seg_who who)
{
    fixture_settle(arg, seg_who_slot(who), seg_who_incarnation(who));
}

static inline struct lock_shared *fixture_resolve(void *arg, uint64_t id)
{
    struct fixture_member *me = arg;
    struct cache_inode    *inode = me->cache ? cache_inode_at(me->cache, id) : NULL;
    return inode ? &inode->lock : NULL;
}

/* Joins with the next free entry of f->member; ends the test when that fails. */
static inline struct fixture_member *fixture_join(struct fixture *f)
{
    unsigned n = 0;
    while (n < FIXTURE_MEMBERS && f->member[n].seg)
        n++;
    cr_assert_lt(n, FIXTURE_MEMBERS, "too many members");
    struct fixture_member *me = &f->member[n];
    memset(me, 0, sizeof *me);
    me->fixture = f;

    char err[SEG_ERR_BYTES] = "";
    bool created = false;
    cr_assert_eq(seg_open(f->path, &f->plan, SEG_OPEN_CREATE, &me->seg, &created, err), 0, "seg_open: %s", err);
    if (created) {
        work_format(me->seg);
        cache_format(me->seg);
    }
    char name[16];
    snprintf(name, sizeof name, "member%u", n);
    struct seg_join join = {.name = name, .mountpoint = "/mnt", .flags = SEG_MEMBER_HAS_ORIGIN, .slot_wanted = -1};
    memset(join.uuid, 0x10 + (int)n, sizeof join.uuid);
    cr_assert_eq(seg_member_join(me->seg, &join, err), 0, "seg_member_join: %s", err);
    cr_assert_eq(work_open(me->seg, &me->work), 0);
    struct lock_config config = {
        .recall_timeout_ms = 2000, .dead = fixture_dead, .dead_arg = me, .resolve = fixture_resolve, .resolve_arg = me};
    cr_assert_eq(lock_mgr_open(me->seg, me->work, &config, &me->lock), 0);
    cr_assert_eq(cache_open(me->seg, me->lock, me->work, &me->cache), 0);
    seg_member_activate(me->seg);
    me->slot = (unsigned)seg_self_slot(me->seg);
    me->incarnation = seg_self_incarnation(me->seg);
    return me;
}

static inline void fixture_end(struct fixture_member *me, bool leave)
{
    cache_close(me->cache);
    lock_mgr_close(me->lock);
    work_close(me->work);
    if (leave)
        seg_member_leave(me->seg);
    seg_close(me->seg);
    memset(me, 0, sizeof *me);
}

static inline void fixture_leave(struct fixture *f, struct fixture_member *me)
{
    (void)f;
    fixture_end(me, true);
}

/* The member is gone without having left: its state stays ACTIVE, its liveness lock is free. Its slot and incarnation are in *was (may be NULL). */
static inline void fixture_kill(struct fixture *f, struct fixture_member *me, struct fixture_member *was)
{
    (void)f;
    if (was)
        *was = *me;
    fixture_end(me, false);
}

static _Atomic unsigned fixture_serial;

static inline void fixture_path(char path[128], unsigned serial)
{
    snprintf(path, 128, "/dev/shm/hearthfs-test-cache-%d-%u", (int)getpid(), serial);
}

/* For .fini: a test that failed leaves its files. */
static inline void fixture_remove(void)
{
    char path[128];
    for (unsigned serial = 0; serial < atomic_load(&fixture_serial); serial++) {
        fixture_path(path, serial);
        unlink(path);
    }
}

static inline struct fixture *fixture_open_shape(const struct fixture_shape *shape)
{
    struct fixture *f = calloc(1, sizeof *f);
    cr_assert(f != NULL);
    fixture_path(f->path, atomic_fetch_add(&fixture_serial, 1));
    unlink(f->path);
    fixture_plan(&f->plan, shape);
    fixture_join(f);
    f->cache = f->member[0].cache;
    f->seg = f->member[0].seg;
    return f;
}

/* data_bytes: of the frames alone. */
static inline struct fixture *fixture_open(uint64_t data_bytes)
{
    uint64_t             frames = data_bytes / CACHE_PAGE;
    struct fixture_shape shape = {
        .frames = frames, .inodes = frames / 8 + 64, .names = frames / 4 + 64, .chunks = frames / 8 + 64};
    return fixture_open_shape(&shape);
}

static inline void fixture_close(struct fixture *f)
{
    for (unsigned n = FIXTURE_MEMBERS; n-- > 0;) {
        if (f->member[n].seg)
            fixture_end(&f->member[n], true);
    }
    unlink(f->path);
    free(f);
}

/* A regular file's inode with a reference made of `serial`, `size_bytes` long, attributes valid. */
static inline uint64_t fixture_file(struct cache *cache, uint64_t serial, uint64_t size_bytes)
{
    uint8_t ref[CACHE_REF_BYTES] = {0};
    memcpy(ref, &serial, sizeof serial);
    ref[8] = 0xf1;
    uint64_t id = 0;
    cr_assert_eq(cache_inode_intern(cache, ref, true, &id, NULL), 0);
    struct cache_attr attr = {
        .ino = serial, .size_bytes = size_bytes, .mode = 0100644, .nlink = 1, .blksize = CACHE_PAGE};
    cr_assert_eq(cache_attr_publish(cache, id, &attr), 0);
    return id;
}

#endif
