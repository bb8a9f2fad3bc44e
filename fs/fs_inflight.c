/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fs_inflight.c - requests of the own kernel that hold something in it until they are answered.
 *
 * A WRITE may keep the page at its edge locked in its kernel; CREATE, UNLINK, RENAME and the like hold their directories. An invalidation waits for those,
 * and they may be waiting for the very writer that asked for the invalidation. So each such request is registered when it arrives, before
 * it waits for anything, and recalls that are in the way look again (fs_inval.c, fs_notify.c). It is taken off just before its reply: from then on nothing it needs
 * can be held up.
 *
 * Pages are "held" while a READ that is not answered before a writer is done, or the write-back that is that writer, has them locked or under write-back: they are left out.
 *
 * One list under one mutex; it holds what is in flight at this moment, seldom more than a few.
 */
#include <stdlib.h>

#include "fs_internal.h"

enum { DIRS_MAX = 4 };

struct inflight {
    struct inflight *next;
    enum { IN_DIRS, IN_WRITE, IN_HELD } kind;
    uint64_t         first, last; /* WRITE: the pages at its two edges; HELD: all of them */
    unsigned         count;
    uint64_t         id[DIRS_MAX];
};

static pthread_mutex_t  mutex = PTHREAD_MUTEX_INITIALIZER;
static struct inflight *all; /* of every mount of this process: one */

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
    add(entry);
    fs_notify_arrived_write(fs, id);
    return entry;
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
    (void)fs;
    if (!inflight)
        return;
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
            if (edge[i] >= page && edge[i] <= last && edge[i] < found) {
                found = *end = edge[i];
                *held = false;
            }
        }
    }
    pthread_mutex_unlock(&mutex);
    return found;
}

bool fs_inflight_edge(struct fs *fs, uint64_t id, uint64_t page)
{
    uint64_t end;
    bool     held;
    return fs_inflight_next(fs, id, page, page, &end, &held) == page && !held;
}
