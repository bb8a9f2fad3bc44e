/* SPDX-License-Identifier: Apache-2.0 */
/*
 * seg_fixture.h - small segments of an invented shape for the unit tests of segment/.
 *
 * Sections: the member table, one pool (CHUNKS, with hints) and its buckets. Files live in /dev/shm under the test's
 * process id, so tests do not meet. A second fixture_open() of the same path is a second mapping with an open file
 * description of its own: another member as far as locks go.
 */
#ifndef HEARTH_SEG_FIXTURE_H
#define HEARTH_SEG_FIXTURE_H

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "seg.h"
#include "seg_chain.h"
#include "seg_epoch.h"
#include "seg_member.h"
#include "seg_pool.h"

enum { FIXTURE_SIZE = 8 << 20, FIXTURE_BUCKETS = 16, FIXTURE_SIGNATURE = 4711 };

struct fixture_element {
    _Atomic uint64_t word;
    _Atomic uint32_t link;
    uint32_t         zero;
    _Atomic uint64_t key;
    uint64_t         plain[5]; /* not atomic: ThreadSanitizer sees who races for an element */
};
static_assert(sizeof(struct fixture_element) == 64, "one cache line");

static inline const char *fixture_path(void)
{
    static char path[64];
    snprintf(path, sizeof path, "/dev/shm/hearthfs-test-%d", (int)getpid());
    return path;
}

static inline struct seg_plan fixture_plan(uint64_t elements)
{
    struct seg_plan plan = {
        .size_bytes = FIXTURE_SIZE, .signature = FIXTURE_SIGNATURE, .name = "fixture", .section_count = 4};
    plan.section[0] =
        (struct seg_plan_section){SEG_SECTION_MEMBERS, SEG_PAGE, sizeof(struct seg_member), SEG_MEMBERS_MAX};
    plan.section[1] = (struct seg_plan_section){SEG_SECTION_CHUNKS, 64, sizeof(struct fixture_element), elements};
    plan.section[2] = (struct seg_plan_section){SEG_SECTION_CHUNK_HINTS, 64, 8, (elements + 63) / 64};
    plan.section[3] = (struct seg_plan_section){SEG_SECTION_CHUNK_BUCKETS, 64, 8, FIXTURE_BUCKETS};
    return plan;
}

static inline struct seg *fixture_open(const char *path, uint64_t elements)
{
    struct seg_plan plan = fixture_plan(elements);
    char            err[SEG_ERR_BYTES] = "";
    struct seg     *seg = NULL;
    int             rc = seg_open(path, &plan, SEG_OPEN_CREATE, &seg, NULL, err);
    cr_assert_eq(rc, 0, "%s", err);
    return seg;
}

static inline int fixture_join_as(struct seg *seg, uint8_t id, const char *name, int slot_wanted, char *err)
{
    struct seg_join join = {.name = name, .mountpoint = "/mnt/test", .slot_wanted = slot_wanted};
    memset(join.uuid, id, sizeof join.uuid);
    return seg_member_join(seg, &join, err);
}

/* Joins and activates a member whose uuid is all `id`. */
static inline void fixture_join(struct seg *seg, uint8_t id)
{
    char err[SEG_ERR_BYTES] = "", name[16];
    snprintf(name, sizeof name, "member%u", id);
    int rc = fixture_join_as(seg, id, name, -1, err);
    cr_assert_eq(rc, 0, "%s", err);
    seg_member_activate(seg);
}

static inline struct seg_pool *fixture_pool(struct seg *seg, bool keep_aux)
{
    struct seg_pool *pool = NULL;
    cr_assert_eq(seg_pool_open(seg, SEG_SECTION_CHUNKS, SEG_SECTION_CHUNK_HINTS, keep_aux, &pool), 0);
    return pool;
}

static inline struct seg_chain fixture_chain(struct seg *seg, struct seg_pool *pool)
{
    struct seg_chain chain;
    cr_assert_eq(seg_chain_open(&chain, seg, pool, SEG_SECTION_CHUNK_BUCKETS, offsetof(struct fixture_element, link)),
                 0);
    return chain;
}

/* Fills an element that nobody else may be looking at; fixture_read() then finds it whole, or says so. */
static inline void fixture_fill(struct fixture_element *element, uint64_t key)
{
    atomic_store_explicit(&element->key, key, memory_order_relaxed);
    for (int i = 0; i < 5; i++)
        element->plain[i] = key + (uint64_t)i;
}

static inline bool fixture_read(const struct fixture_element *element, uint64_t *key)
{
    *key = element->plain[0];
    for (int i = 4; i >= 0; i--)
        if (element->plain[i] != *key + (uint64_t)i)
            return false;
    return atomic_load_explicit(&element->key, memory_order_relaxed) == *key;
}

#if defined(__SANITIZE_THREAD__)
enum { FIXTURE_MAPPINGS = 1 }; /* it does not see a race through two mappings */
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
enum { FIXTURE_MAPPINGS = 1 };
#else
enum { FIXTURE_MAPPINGS = 2 };
#endif
#else
enum { FIXTURE_MAPPINGS = 2 };
#endif

static inline void fixture_remove(void)
{
    unlink(fixture_path());
}

/* xorshift64*: the seed is printed by the test that uses it */
static inline uint64_t fixture_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 2685821657736338717ull;
}

#endif
