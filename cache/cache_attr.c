/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache_attr.c - attributes of an inode, and the version that orders all changes of it.
 *
 * Readers take no lock. `version` is odd while words or attributes are swapped, and grows with each change, also over the
 * reuse of the slot:
 *
 *   reader  (V1) load version, even   (V2) flags say VALID   (V3) copy   (V4) load version again: the same
 *   change  (C1) version odd   (C2) store attributes, page words   (C3) version even, two higher
 *   fill    (F1) store attributes   (F2) flags := VALID          only while they are not VALID, so that nobody is reading them
 *
 * V3 that saw anything of C2 makes V4 see C1 (fences after C1 and before V4). A fill does not move the version: it adds what
 * was true under it, and other fetches under the same version stay good. V2 acquires F2. The copies go by 64-bit relaxed
 * atomics, because reader and writer do meet; V4 throws away what was torn.
 *
 * If we die here: the publish lock bears our slot. Recovery finds it, makes the attributes invalid and the version even.
 */
#include <errno.h>

#include "cache_internal.h"

enum { GET_SPINS = 2000, VERSION_SPINS = 2000 };

typedef uint64_t __attribute__((may_alias)) attr_word;
enum { ATTR_WORDS = sizeof(struct cache_attr) / sizeof(attr_word) };
static_assert(sizeof(struct cache_attr) % sizeof(attr_word) == 0, "copied by words");

static void attr_copy_out(struct cache_attr *to, const struct cache_attr *from)
{
    const attr_word *source = (const attr_word *)from;
    attr_word       *target = (attr_word *)to;
    for (unsigned i = 0; i < ATTR_WORDS; i++)
        target[i] = __atomic_load_n(&source[i], __ATOMIC_RELAXED);
}

static void attr_copy_in(struct cache_attr *to, const struct cache_attr *from)
{
    const attr_word *source = (const attr_word *)from;
    attr_word       *target = (attr_word *)to;
    for (unsigned i = 0; i < ATTR_WORDS; i++)
        __atomic_store_n(&target[i], source[i], __ATOMIC_RELAXED);
}

int cache_attr_get(const struct cache *cache, uint64_t id, struct cache_attr *attr)
{
    struct cache_inode *inode = cache_inode_at(cache, id);
    struct cache_attr   copy;

    if (!inode)
        return -ESTALE;
    for (unsigned spins = 0; spins < GET_SPINS; spins++) {
        uint64_t version = atomic_load_explicit(&inode->version, memory_order_acquire); /* V1, pairs with C3 */
        if (version & 1) {
            cache_relax();
            continue;
        }
        bool valid = atomic_load_explicit(&inode->flags, memory_order_acquire) & CACHE_ATTR_VALID; /* V2, pairs with F2 */
        if (valid)
            attr_copy_out(&copy, &inode->attr); /* V3 */
        atomic_thread_fence(memory_order_acquire);
        if (atomic_load_explicit(&inode->version, memory_order_relaxed) != version) /* V4, pairs with C1 */
            continue;
        seg_count(cache->seg, valid ? SEG_COUNTER_attr_hits : SEG_COUNTER_attr_misses, 1);
        if (!valid)
            return -ENODATA;
        cache_used_set(&inode->used, 1);
        *attr = copy;
        return 0;
    }
    return -EAGAIN;
}

/* An odd version that lasts: its changer was preempted, or died. Waiting for its lock tells which, and settles the second case. */
static void version_await(struct cache *cache, uint64_t id)
{
    struct cache_inode *inode;

    if (cache_publish_enter(cache, id, &inode))
        return;
    if (atomic_load_explicit(&inode->version, memory_order_relaxed) & 1) { /* nobody is at it any more */
        cache_attr_store(inode, NULL);
        cache_version_shut(inode);
    }
    cache_publish_exit(cache, inode);
}

uint64_t cache_version(const struct cache *cache, uint64_t id)
{
    for (unsigned spins = 0;; spins++) {
        const struct cache_inode *inode = cache_inode_at(cache, id);
        if (!inode)
            return 0;
        uint64_t version = atomic_load_explicit(&inode->version, memory_order_acquire); /* pairs with C3 */
        if (!(version & 1))
            return version;
        if (spins < VERSION_SPINS)
            cache_relax();
        else if (seg_epoch_inside(cache->seg) || !cache->lock || !seg_self_stands(cache->seg))
            return 0; /* must not wait here: the caller starts over */
        else
            version_await((struct cache *)cache, id); /* it changes the segment, not the handle */
    }
}

void cache_attr_store(struct cache_inode *inode, const struct cache_attr *attr)
{
    uint32_t flags = atomic_load_explicit(&inode->flags, memory_order_relaxed) & ~(uint32_t)(CACHE_ATTR_VALID | CACHE_UNLINKED);

    if (attr) {
        attr_copy_in(&inode->attr, attr);
        flags |= CACHE_ATTR_VALID | (attr->nlink ? 0 : CACHE_UNLINKED);
    } else {
        flags |= atomic_load_explicit(&inode->flags, memory_order_relaxed) & CACHE_UNLINKED;
    }
    atomic_store_explicit(&inode->flags, flags, memory_order_release); /* F2, pairs with V2 */
}

int cache_attr_fill(struct cache *cache, uint64_t id, uint64_t version, const struct cache_attr *attr)
{
    struct cache_inode *inode;
    int                 rc = cache_publish_enter(cache, id, &inode);

    if (rc)
        return rc;
    if (atomic_load_explicit(&inode->version, memory_order_relaxed) != version)
        rc = -EAGAIN;
    else if (!(atomic_load_explicit(&inode->flags, memory_order_relaxed) & CACHE_ATTR_VALID))
        cache_attr_store(inode, attr); /* F1, F2 */
    cache_publish_exit(cache, inode);
    return rc;
}

int cache_attr_publish(struct cache *cache, uint64_t id, const struct cache_attr *attr)
{
    struct cache_inode *inode;
    int                 rc = cache_publish_enter(cache, id, &inode);

    if (rc)
        return rc;
    cache_version_open(inode);     /* C1 */
    cache_attr_store(inode, attr); /* C2 */
    cache_version_shut(inode);     /* C3 */
    cache_publish_exit(cache, inode);
    return 0;
}
