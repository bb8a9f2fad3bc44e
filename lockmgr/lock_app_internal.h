/* SPDX-License-Identifier: Apache-2.0 */
/* lock_app_internal.h - what lock_app.c and lock_app_line.c share; not for other folders. */
#ifndef HEARTH_LOCK_APP_INTERNAL_H
#define HEARTH_LOCK_APP_INTERNAL_H

#include "lock_app.h"
#include "lock_internal.h"
#include "seg_chain.h"

struct lock_app {
    struct seg             *seg;
    struct seg_pool        *pool;
    struct seg_chain        by_inode, by_owner;
    unsigned char          *base;
    struct lock_app_common *common;
    _Atomic uint32_t        own; /* records that this member has */
    uint32_t                own_max;
};

int  lock_app_open(struct lock_mgr *mgr); /* 0 also when the segment has no such sections */
void lock_app_close(struct lock_mgr *mgr);

static inline uint64_t lock_app_hash(uint64_t id)
{
    uint64_t hash = id * 0x9e3779b97f4a7c15u;
    return hash ^ hash >> 32;
}

static inline uint64_t lock_app_owner_hash(uint64_t who, uint64_t owner)
{
    return lock_app_hash(who ^ lock_app_hash(owner));
}

static inline uint32_t lock_app_index(const struct lock_app *app, const struct lock_app_record *record)
{
    return (uint32_t)(((const unsigned char *)record - app->base) / sizeof *record);
}

/* What names a waiter: its index and the generation of the element. */
static inline uint64_t lock_app_wait_make(const struct lock_app *app, uint32_t index)
{
    return (uint64_t)seg_pool_word_aux(seg_pool_load(app->pool, index)) << 32 | index;
}

/* Walks the records of node `id` (and of nodes of the same bucket). [epoch] */
static inline uint32_t lock_app_find(const struct lock_app *app, uint64_t id, seg_chain_match match, const void *key)
{
    return seg_chain_find(&app->by_inode, lock_app_hash(id), match, key);
}

/* lock_app.c; the publish lock of the inode is held, and an epoch. */
void lock_app_remove(struct lock_app *app, uint32_t index);
void lock_app_grant(struct lock_mgr *mgr, uint64_t id);
int  lock_app_replace(struct lock_mgr *mgr, const struct lock_app_record *want);

/* lock_app_line.c: one member at a time puts a waiter in line. Does `waiter`, whose line it would be, wait for itself in the end? [epoch] */
void lock_app_line_enter(struct lock_mgr *mgr);
void lock_app_line_exit(struct lock_mgr *mgr);
bool lock_app_circle(struct lock_mgr *mgr, const struct lock_app_record *waiter);

#endif
