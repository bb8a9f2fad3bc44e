/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fs_node.c - how often this mount's kernel refers to each inode.
 *
 * The count stands in a table by inode index, because an inode index is not reused while any member knows it. The inode's `known` bit of this member is set
 * exactly while the count is not zero: both move under a stripe's mutex when the count leaves or reaches zero, and by one atomic step otherwise, so
 * that hits take no lock.
 */
#include <time.h>

#include "fs_internal.h"

static pthread_mutex_t *stripe(struct fs *fs, uint64_t id)
{
    return &fs->node_stripe[cache_id_index(id) % FS_STRIPES];
}

int fs_node_get(struct fs *fs, uint64_t id)
{
    struct fs_node *node = fs_node_at(fs, id);
    if (!node)
        return -ESTALE;
    uint64_t n = atomic_load_explicit(&node->lookups, memory_order_relaxed);
    while (n)
        if (atomic_compare_exchange_weak(&node->lookups, &n, n + 1))
            return 0;
    int result = 0;
    pthread_mutex_lock(stripe(fs, id));
    if (atomic_load(&node->lookups) == 0)
        result = cache_known_set(fs->cache, id); /* -ESTALE: evicted before the bit was seen */
    if (!result)
        atomic_fetch_add(&node->lookups, 1);
    pthread_mutex_unlock(stripe(fs, id));
    return result;
}

/* Takes the own bit out of `known`. True: no kernel knows the inode any more, and it has no name. */
static bool known_drop(struct fs *fs, uint64_t id)
{
    const struct cache_inode *inode = cache_inode_at(fs->cache, id);
    bool                      unlinked = inode && (atomic_load(&inode->flags) & CACHE_UNLINKED); /* not nlink: that may be of the slot's last life */
    cache_known_drop(fs->cache, id);
    return unlinked && !atomic_load(&inode->known);
}

static void forget_task(struct fs *fs, void *arg)
{
    fs_node_forgotten(fs, (uint64_t)(uintptr_t)arg);
}

/* A file without names lives as long as somebody has it open. Whoever unlinked it keeps a descriptor for the others until now. */
static void forgotten_by_all(struct fs *fs, uint64_t id)
{
    struct work_item item = {.kind = WORK_FORGOTTEN, .key = id};
    for (uint64_t left = seg_members_active(fs->seg) & ~seg_self_bit(fs->seg); left; left &= left - 1)
        work_post(fs->work, (unsigned)__builtin_ctzll(left), &item, true);
    fs_notify_task(fs, forget_task, (void *)(uintptr_t)id);
}

void fs_node_forgotten(struct fs *fs, uint64_t id)
{
    struct origin_ref ref;
    if (fs_ref(fs, id, &ref) == 0)
        origin_forget(fs->origin, &ref);
}

void fs_node_put(struct fs *fs, uint64_t id, uint64_t n)
{
    struct fs_node *node = fs_node_at(fs, id);
    if (!node || id == CACHE_ROOT_ID)
        return;
    uint64_t have = atomic_load_explicit(&node->lookups, memory_order_relaxed);
    while (have > n)
        if (atomic_compare_exchange_weak(&node->lookups, &have, have - n))
            return;
    bool gone = false, last = false;
    pthread_mutex_lock(stripe(fs, id));
    have = atomic_load(&node->lookups);
    for (;;) {
        uint64_t left = have > n ? have - n : 0;
        if (atomic_compare_exchange_weak(&node->lookups, &have, left)) {
            gone = !left;
            break;
        }
    }
    if (gone)
        last = known_drop(fs, id);
    pthread_mutex_unlock(stripe(fs, id));
    if (last)
        forgotten_by_all(fs, id);
}

void fs_node_drop_all(struct fs *fs)
{
    for (uint32_t index = 1; index < fs->node_count; index++) {
        if (!atomic_load(&fs->node[index].lookups) && index != cache_id_index(CACHE_ROOT_ID))
            continue;
        atomic_store(&fs->node[index].lookups, 0);
        struct seg_array inodes = seg_section(fs->seg, SEG_SECTION_INODES);
        struct cache_inode *inode = seg_elem(&inodes, index);
        uint64_t            word = atomic_load(&inode->pool);
        cache_known_drop(fs->cache, (uint64_t)seg_pool_word_aux(word) << 32 | index);
    }
}

/* ---- slipping past a lock, and the acknowledgement that waits for it ---- */
bool fs_slip_begin(struct fs *fs, uint64_t id, struct lock_shared *words)
{
    struct fs_node *node = fs_node_at(fs, id);
    pthread_mutex_lock(stripe(fs, id));
    bool may = node && lock_recall_owed(fs->lock, words);
    if (may)
        atomic_fetch_add(&node->slips, 1);
    pthread_mutex_unlock(stripe(fs, id));
    return may;
}

void fs_slip_end(struct fs *fs, uint64_t id, struct lock_shared *words)
{
    lock_slipped(fs->lock, words);
    atomic_fetch_sub(&fs_node_at(fs, id)->slips, 1);
}

void fs_slip_gate(struct fs *fs, const struct lock_ref *ref, uint32_t round)
{
    struct fs_node *node = fs_node_at(fs, ref->id);
    struct timespec pause = {.tv_nsec = 20000};
    pthread_mutex_lock(stripe(fs, ref->id));
    while (node && atomic_load(&node->slips)) {
        pthread_mutex_unlock(stripe(fs, ref->id));
        nanosleep(&pause, NULL);
        pthread_mutex_lock(stripe(fs, ref->id));
    }
    lock_recall_ack(fs->lock, ref, round);
    pthread_mutex_unlock(stripe(fs, ref->id));
}

void fs_op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t n)
{
    fs_node_put(fs_of(req), ino, n);
    fuse_reply_none(req);
}

void fs_op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
    for (size_t i = 0; i < count; i++)
        fs_node_put(fs_of(req), forgets[i].ino, forgets[i].nlookup);
    fuse_reply_none(req);
}
