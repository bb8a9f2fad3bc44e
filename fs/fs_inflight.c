/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fs_inflight.c - requests of the own kernel that hold something in it until they are answered.
 *
 * A WRITE may keep the page at its edge locked in its kernel; CREATE, UNLINK, RENAME and the like hold their directories. An invalidation waits for those,
 * and they may be waiting for the very writer that asked for the invalidation. So each such request is registered when it arrives, before
 * it waits for anything, and recalls that are in the way look again (fs_inval.c, fs_notify.c). It is taken off just before its reply: from then on nothing it needs
 * can be held up.
 *
 * A READ for the page cache holds its pages locked from before it is sent. So a WRITE that is in flight at the same moment does not hold any of them: its edge is `loose`. What is
 * left is a READ that was answered before the WRITE arrived, to a fault that puts the answer into the page itself, once it gets the processor. Such READs are of one page; `answered`
 * remembers when, by a hash of inode and page, until the page is dropped: that waits for its lock, so the answer was in it. Pages that share a slot may be taken for one another; then
 * somebody waits a moment longer, no more.
 *
 * Pages are "held" while a READ that is not answered before a writer is done, or the write-back that is that writer, has them locked or under write-back: they are left out.
 *
 * One list under one mutex; it holds what is in flight at this moment, seldom more than a few.
 */
#include <stdlib.h>
#include <time.h>

#include "fs_internal.h"

enum { DIRS_MAX = 4, DROPPED_MAX = 256, MIXED_US = 1000000 };

struct inflight {
    struct inflight *next;
    enum { IN_DIRS, IN_WRITE, IN_HELD } kind;
    uint64_t         first, last; /* WRITE: the pages at its two edges; HELD: all of them */
    bool             loose[2];    /* WRITE: the edge is not locked by it */
    uint32_t         quiet_from[2]; /* WRITE: when a READ of that page may last have been answered before it arrived */
    unsigned         count;
    uint64_t         id[DIRS_MAX];
};

static pthread_mutex_t  mutex = PTHREAD_MUTEX_INITIALIZER;
static struct inflight *all; /* of every mount of this process: one */

enum { ANSWERED_BITS = 16 };
static _Atomic uint64_t answered[1 << ANSWERED_BITS]; /* which page << 32 | when, fs_inflight_clock(); 0: none */

uint32_t fs_inflight_clock(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint32_t)((uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000) | 1;
}

static _Atomic uint64_t *answered_at(uint64_t id, uint64_t page, uint32_t *which)
{
    uint64_t hash = (id * 0x9e3779b97f4a7c15u + page) * 0xc2b2ae3d27d4eb4fu;
    *which = (uint32_t)hash | 1;
    return &answered[hash >> (64 - ANSWERED_BITS)];
}

static uint32_t answered_when(uint64_t id, uint64_t page)
{
    uint32_t which;
    return (uint32_t)atomic_load(answered_at(id, page, &which));
}

/* A slot that two pages have used is of neither (0) until it is empty again or long over. */
static void answered_now(uint64_t id, uint64_t page)
{
    uint32_t          which, now = fs_inflight_clock();
    _Atomic uint64_t *slot = answered_at(id, page, &which);
    uint64_t          old = atomic_load(slot);
    do {
        if (old && (uint32_t)(old >> 32) != which && now - (uint32_t)old < MIXED_US)
            which = 0;
    } while (!atomic_compare_exchange_weak(slot, &old, (uint64_t)which << 32 | now));
}

static void add(struct inflight *entry)
{
    pthread_mutex_lock(&mutex);
    entry->next = all;
    all = entry;
    pthread_mutex_unlock(&mutex);
}

void *fs_inflight_write(struct fs *fs, uint64_t id, uint64_t off, size_t size)
{
    struct inflight *entry = calloc(1, sizeof *entry);
    if (!entry)
        return NULL; /* the recall then waits for recall_timeout at worst */
    entry->kind = IN_WRITE;
    entry->first = off / CACHE_PAGE;
    entry->last = (off + (size ? size - 1 : 0)) / CACHE_PAGE;
    entry->count = 1;
    entry->id[0] = id;
    struct fs_node *node = fs_node_at(fs, id);
    pthread_mutex_lock(&mutex);
    if (node)
        atomic_fetch_add(&node->writes, 1); /* a READ that is answered now looks for us after this, or we see its time */
    entry->quiet_from[0] = answered_when(id, entry->first);
    entry->quiet_from[1] = answered_when(id, entry->last);
    entry->next = all;
    all = entry;
    pthread_mutex_unlock(&mutex);
    fs_notify_arrived_write(fs, id);
    return entry;
}

void fs_inflight_read(struct fs *fs, uint64_t id, uint64_t off, size_t size)
{
    uint64_t        first = off / CACHE_PAGE, last = (off + (size ? size - 1 : 0)) / CACHE_PAGE;
    struct fs_node *node = fs_node_at(fs, id);
    if (first == last)
        answered_now(id, first);
    if (!node || !atomic_load(&node->writes))
        return;
    pthread_mutex_lock(&mutex);
    for (struct inflight *entry = all; entry; entry = entry->next) {
        if (entry->kind != IN_WRITE || entry->id[0] != id)
            continue;
        entry->loose[0] |= entry->first >= first && entry->first <= last;
        entry->loose[1] |= entry->last >= first && entry->last <= last;
    }
    pthread_mutex_unlock(&mutex);
}

void *fs_inflight_held(struct fs *fs, uint64_t id, uint64_t off, size_t size)
{
    struct inflight *entry = calloc(1, sizeof *entry);
    if (!entry)
        return NULL;
    entry->kind = IN_HELD;
    entry->first = off / CACHE_PAGE;
    entry->last = (off + (size ? size - 1 : 0)) / CACHE_PAGE;
    entry->count = 1;
    entry->id[0] = id;
    add(entry);
    fs_notify_arrived_write(fs, id); /* whoever is blocked by it goes round it */
    return entry;
}

void *fs_inflight_dirs(struct fs *fs, const uint64_t *id, unsigned count, bool victim_unknown)
{
    struct inflight *entry = calloc(1, sizeof *entry);
    if (!entry)
        return NULL;
    for (unsigned i = 0; i < count && entry->count < DIRS_MAX; i++)
        if (id[i])
            entry->id[entry->count++] = id[i];
    if (victim_unknown && entry->count < DIRS_MAX)
        entry->id[entry->count++] = UINT64_MAX; /* stands for any directory */
    add(entry);
    for (unsigned i = 0; i < entry->count; i++)
        fs_notify_arrived_dir(fs, entry->id[i] == UINT64_MAX ? 0 : entry->id[i]);
    return entry;
}

void fs_inflight_done(struct fs *fs, void *inflight)
{
    struct inflight *entry = inflight;
    if (!entry)
        return;
    struct fs_node *node = entry->kind == IN_WRITE ? fs_node_at(fs, entry->id[0]) : NULL;
    if (node)
        atomic_fetch_sub(&node->writes, 1);
    pthread_mutex_lock(&mutex);
    for (struct inflight **at = &all; *at; at = &(*at)->next) {
        if (*at == inflight) {
            *at = (*at)->next;
            break;
        }
    }
    pthread_mutex_unlock(&mutex);
    free(inflight);
}

bool fs_inflight_dir_busy(struct fs *fs, uint64_t dir)
{
    bool busy = false;
    (void)fs;
    pthread_mutex_lock(&mutex);
    for (const struct inflight *entry = all; entry && !busy; entry = entry->next)
        for (unsigned i = 0; entry->kind == IN_DIRS && i < entry->count; i++)
            busy |= entry->id[i] == dir || entry->id[i] == UINT64_MAX;
    pthread_mutex_unlock(&mutex);
    return busy;
}

uint64_t fs_inflight_next(struct fs *fs, uint64_t id, uint64_t page, uint64_t last, uint64_t *end, bool *held)
{
    uint64_t found = UINT64_MAX;
    (void)fs;
    pthread_mutex_lock(&mutex);
    for (const struct inflight *entry = all; entry; entry = entry->next) {
        if (entry->kind == IN_DIRS || entry->id[0] != id)
            continue;
        if (entry->kind == IN_HELD && entry->last >= page && entry->first <= last) {
            uint64_t from = entry->first > page ? entry->first : page;
            if (from <= found) {
                found = from;
                *end = entry->last < last ? entry->last : last;
                *held = true;
            }
            continue;
        }
        const uint64_t edge[2] = {entry->first, entry->last};
        for (unsigned i = 0; i < 2 && entry->kind == IN_WRITE; i++) {
            if (!entry->loose[i] && edge[i] >= page && edge[i] <= last && edge[i] < found) {
                found = *end = edge[i];
                *held = false;
            }
        }
    }
    pthread_mutex_unlock(&mutex);
    return found;
}

void fs_inflight_dropped(uint64_t id, uint64_t first, uint64_t last, uint32_t started)
{
    for (uint64_t page = first; page <= last && page - first < DROPPED_MAX; page++) {
        uint32_t          which;
        _Atomic uint64_t *slot = answered_at(id, page, &which);
        uint64_t          have = atomic_load(slot);
        if ((uint32_t)(have >> 32) == which && (int32_t)((uint32_t)have - started) < 0)
            atomic_compare_exchange_strong(slot, &have, 0);
    }
}

bool fs_inflight_edge(struct fs *fs, uint64_t id, uint64_t page, uint32_t *quiet_us)
{
    uint32_t now = fs_inflight_clock();
    bool     found = false;
    (void)fs;
    *quiet_us = UINT32_MAX;
    pthread_mutex_lock(&mutex);
    for (const struct inflight *entry = all; entry; entry = entry->next) {
        if (entry->kind == IN_DIRS || entry->id[0] != id)
            continue;
        if (entry->kind == IN_HELD && entry->first <= page && entry->last >= page) {
            found = false;
            break;
        }
        for (unsigned i = 0; i < 2 && entry->kind == IN_WRITE; i++) {
            if ((i ? entry->last : entry->first) != page || entry->loose[i])
                continue;
            found = true;
            if (entry->quiet_from[i] && now - entry->quiet_from[i] < *quiet_us)
                *quiet_us = now - entry->quiet_from[i];
        }
    }
    pthread_mutex_unlock(&mutex);
    return found;
}
