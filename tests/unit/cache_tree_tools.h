/* SPDX-License-Identifier: Apache-2.0 */
/* cache_tree_tools.h - what the tests of inodes, names, listings and recovery share: nodes made of a serial number, and the check at the end. */
#ifndef HEARTH_CACHE_TREE_TOOLS_H
#define HEARTH_CACHE_TREE_TOOLS_H

#include "cache_data_tools.h"

static inline void ref_make(uint8_t ref[CACHE_REF_BYTES], uint64_t serial)
{
    memset(ref, 0, CACHE_REF_BYTES);
    memcpy(ref, &serial, sizeof serial);
    ref[8] = 0xd1;
}

/* The node of `serial`, made when it is new. */
static inline uint64_t node_get(struct cache *cache, uint64_t serial, bool pin)
{
    uint8_t  ref[CACHE_REF_BYTES];
    uint64_t id = 0;
    ref_make(ref, serial);
    int rc = cache_inode_intern(cache, ref, pin, &id, NULL);
    cr_assert_eq(rc, 0, "intern of %lu: %d", serial, rc);
    return id;
}

static inline uint64_t dir_make(struct cache *cache, uint64_t serial)
{
    uint64_t          id = node_get(cache, serial, true);
    struct cache_attr attr = {.ino = serial, .size_bytes = 4096, .mode = 0040755, .nlink = 2, .blksize = CACHE_PAGE};
    cr_assert_eq(cache_attr_publish(cache, id, &attr), 0);
    return id;
}

static inline int name_find(struct cache *cache, uint64_t dir, const char *name, uint64_t *child)
{
    seg_epoch_enter(cache_seg(cache));
    int rc = cache_name_find(cache, dir, name, strlen(name), child);
    seg_epoch_exit(cache_seg(cache));
    return rc;
}

static inline int name_fill(struct cache *cache, uint64_t dir, const char *name, uint64_t child)
{
    return cache_name_fill(cache, dir, cache_version(cache, dir), name, strlen(name), child);
}

static inline void pools_drain(struct cache *cache)
{
    for (unsigned ms = 0; ms < 2000; ms++) {
        seg_pool_reap(cache->frames);
        seg_pool_reap(cache->chunks);
        seg_pool_reap(cache->names);
        seg_pool_reap(cache->inodes);
        if (!seg_pool_limbo_count(cache->frames) && !seg_pool_limbo_count(cache->chunks) && !seg_pool_limbo_count(cache->names) &&
            !seg_pool_limbo_count(cache->inodes))
            return;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    cr_assert_fail("limbo does not drain");
}

static inline void check_line(void *arg, const char *line)
{
    fprintf(stderr, "check: %s\n", line);
    if (arg)
        snprintf(arg, 256, "%s", line);
}

/* Nobody is at work (the checker itself may be a member): nothing is broken. */
static inline void check_clean(struct cache *cache)
{
    pools_drain(cache);
    int broken = cache_check(cache, true, true, check_line, NULL);
    cr_assert_eq(broken, 0, "%d findings", broken);
}

#endif
