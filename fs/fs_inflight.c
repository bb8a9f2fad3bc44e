/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fs_inflight.c - requests of the own kernel that hold something in it until they are answered.
 *
 * A WRITE may keep the page at its edge locked in its kernel; CREATE, UNLINK, RENAME and the like hold their directories. An invalidation waits for those,
 * and they may be waiting for the very writer that asked for the invalidation. So each such request is registered when it arrives, before
 * it waits for anything, and recalls that are in the way look again (fs_inval.c, fs_notify.c). It is taken off just before its reply: from then on nothing it needs
 * can be held up.
 *
 * One table of short lists under one mutex per stripe; the lists hold what is in flight at this moment, seldom more than a few.
 */
#include <stdlib.h>

#include "fs_internal.h"

enum { DIRS_MAX = 4 };

struct inflight {
    struct inflight *next;
    bool             is_write;
    uint64_t         first, last; /* WRITE: the pages at its two edges */
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
    entry->is_write = true;
    entry->first = off / CACHE_PAGE;
    entry->last = (off + (size ? size - 1 : 0)) / CACHE_PAGE;
    entry->count = 1;
    entry->id[0] = id;
    add(entry);
    fs_notify_arrived_write(fs, id);
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
        for (unsigned i = 0; !entry->is_write && i < entry->count; i++)
            busy |= entry->id[i] == dir || entry->id[i] == UINT64_MAX;
    pthread_mutex_unlock(&mutex);
    return busy;
}

uint64_t fs_inflight_next_edge(struct fs *fs, uint64_t id, uint64_t page, uint64_t last)
{
    uint64_t found = UINT64_MAX;
    (void)fs;
    pthread_mutex_lock(&mutex);
    for (const struct inflight *entry = all; entry; entry = entry->next) {
        if (!entry->is_write || entry->id[0] != id)
            continue;
        if (entry->first >= page && entry->first <= last && entry->first < found)
            found = entry->first;
        if (entry->last >= page && entry->last <= last && entry->last < found)
            found = entry->last;
    }
    pthread_mutex_unlock(&mutex);
    return found;
}

bool fs_inflight_edge(struct fs *fs, uint64_t id, uint64_t page)
{
    return fs_inflight_next_edge(fs, id, page, page) == page;
}
