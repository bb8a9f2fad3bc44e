/* SPDX-License-Identifier: Apache-2.0 */
/*
 * origin_fd.c - the open nodes of an origin: a bounded cache of descriptors.
 *
 * Purpose. A node that was reached once stays open, so that the next call on it costs one look into a hash table and
 * no walk. Each node has an O_PATH descriptor, and, once somebody reads or writes, one for that.
 *
 * Finding takes no lock: the table is liburcu's cds_lfht, keyed by the whole reference, of fixed size (so it needs no
 * resize thread). `users` counts the threads that use a node and is also its state:
 *
 *     0 idle -- find --> n in use -- put --> 0
 *     0 -- sweep or forget --> DEAD (leaves table and ring, is closed, and freed after a grace period; never comes back)
 *     0 -- sweep ------------> STRIP (loses its reading and writing descriptors; back to 0 at once; finders spin)
 *
 * Invariants: only who moved users from 0 to DEAD or STRIP touches the descriptors of an idle node. A node in the table
 * with users > 0 is not closed. DEAD nodes are freed after a grace period, a batch at a time, by whoever filled the
 * batch; never inside a read-side section, which is never longer than one look-up.
 *
 * Eviction is a clock over a ring of all nodes. What costs least goes first (enum origin_keep): nodes that their
 * reference opens again; then pinned PATH nodes that still have a name; nodes without a name only when there are too
 * many of them, or nothing else is left: their content goes with the descriptor. Pinned nodes lose their reading and
 * writing descriptors before that. Above fd_max a sweep takes a bounded number of steps for each descriptor that is
 * opened; at EMFILE it goes round until it has freed something. *
 * If we die here, the kernel closes everything; nothing of this is shared.
 */
#include "origin_posix.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define NODE_DEAD  (1u << 31)
#define NODE_STRIP (1u << 30)

enum {
    SWEEP_STEPS = 64, /* of the hand, for one descriptor too many */
    SWEEP_FDS = 96,   /* closed by one sweep at most */
    GRAVE_BATCH = 64, /* nodes freed by one grace period */
    BUCKETS_MIN = 64,
    BUCKETS_MAX = 65536,
};

struct sweep_result {
    int                 fds[SWEEP_FDS];
    uint32_t            fd_count;
    struct origin_node *dead;
    uint32_t            freed; /* descriptors */
};

static inline void reader_enter(void)
{
    urcu_bp_read_lock();
}

static inline void reader_leave(struct origin *origin)
{
#if defined(__SANITIZE_THREAD__)
    atomic_fetch_add_explicit(&origin->reader_exits, 1, memory_order_release); /* pairs with nodes_free */
#else
    (void)origin;
#endif
    urcu_bp_read_unlock();
}

static uint64_t ref_hash(const struct origin_ref *ref)
{
    /* splitmix64's finalizer; inode numbers alone are too regular for power-of-two tables */
    uint64_t x = ref->ino + ref->dev * 0x9e3779b97f4a7c15u + ref->birth_ns;

    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static int node_match(struct cds_lfht_node *hash, const void *key)
{
    const struct origin_node *node = caa_container_of(hash, struct origin_node, hash);

    atomic_load_explicit(&node->users, memory_order_acquire); /* pairs with the release in node_new */
    return memcmp(&node->ref, key, sizeof node->ref) == 0;
}

/* ---- using a node ------------------------------------------------------------------------------------------------ */

/* True: counted as used. False: it is dead and about to leave the table. Inside a read-side section. */
static bool node_use(struct origin_node *node)
{
    uint32_t users = atomic_load_explicit(&node->users, memory_order_relaxed);

    for (;;) {
        if (users & NODE_DEAD)
            return false;
        if (users & NODE_STRIP) {
            sched_yield();
            users = atomic_load_explicit(&node->users, memory_order_relaxed);
            continue;
        }
        /* acquire: pairs with the release in node_new, strip and origin_fd_put */
        if (atomic_compare_exchange_weak_explicit(&node->users, &users, users + 1, memory_order_acquire,
                                                  memory_order_relaxed))
            break;
    }
    if (!atomic_load_explicit(&node->touched, memory_order_relaxed))
        atomic_store_explicit(&node->touched, 1, memory_order_relaxed);
    return true;
}

struct origin_node *origin_fd_find(struct origin *origin, const struct origin_ref *ref)
{
    struct cds_lfht_iter iter;
    struct origin_node  *node = NULL;

    reader_enter();
    cds_lfht_lookup(origin->table, ref_hash(ref), node_match, ref, &iter);
    struct cds_lfht_node *hash = cds_lfht_iter_get_node(&iter);
    if (hash) {
        node = caa_container_of(hash, struct origin_node, hash);
        if (!node_use(node))
            node = NULL;
    }
    reader_leave(origin);
    return node;
}

/* Moves an idle node to DEAD and out of the table. Inside a read-side section or under ring_lock. */
static bool node_kill(struct origin *origin, struct origin_node *node)
{
    uint32_t idle = 0;

    /* acquire: pairs with the release of the last user in origin_fd_put */
    if (!atomic_compare_exchange_strong_explicit(&node->users, &idle, NODE_DEAD, memory_order_acquire,
                                                 memory_order_relaxed))
        return false;
    reader_enter();
    cds_lfht_del(origin->table, &node->hash);
    reader_leave(origin);
    return true;
}

/* ring_lock held. */
static void ring_remove(struct origin *origin, struct origin_node *node)
{
    if (origin->hand == node)
        origin->hand = node->ring_next;
    node->ring_prev->ring_next = node->ring_next;
    node->ring_next->ring_prev = node->ring_prev;
    origin->node_count--;
}

static void nodes_free(struct origin *origin, struct origin_node *node)
{
    atomic_load_explicit(&origin->reader_exits, memory_order_acquire); /* pairs with reader_leave */
    while (node) {
        struct origin_node *next = node->ring_next;
        pthread_mutex_destroy(&node->lock);
        free(node);
        node = next;
    }
}

/* Closes nodes that are dead, out of the ring, and linked by ring_next; frees them when a batch has come together. */
static void nodes_bury(struct origin *origin, struct origin_node *dead)
{
    struct origin_node *batch = NULL, *last = NULL;
    uint32_t            count = 0;

    if (!dead)
        return;
    for (struct origin_node *node = dead; node; node = node->ring_next, count++) {
        origin_fd_close(origin, node->path_fd);
        origin_fd_close(origin, atomic_load_explicit(&node->read_fd, memory_order_relaxed));
        origin_fd_close(origin, node->write_fd);
        origin_fd_keep_set(origin, node, ORIGIN_KEEP_NO);
        last = node;
    }
    pthread_mutex_lock(&origin->ring_lock);
    last->ring_next = origin->grave;
    origin->grave = dead;
    origin->grave_count += count;
    if (origin->grave_count >= GRAVE_BATCH) {
        batch = origin->grave;
        origin->grave = NULL;
        origin->grave_count = 0;
    }
    pthread_mutex_unlock(&origin->ring_lock);
    if (batch) {
        urcu_bp_synchronize_rcu();
        nodes_free(origin, batch);
    }
}

void origin_fd_put(struct origin *origin, struct origin_node *node)
{
    bool dead = false;

    reader_enter(); /* it may be killed and freed by others from the moment that we do not count any more */
    /* release: pairs with node_use, node_kill and strip; acquire: with the put of who set `doomed` */
    if (atomic_fetch_sub_explicit(&node->users, 1, memory_order_acq_rel) == 1 &&
        atomic_load_explicit(&node->doomed, memory_order_relaxed))
        dead = node_kill(origin, node);
    reader_leave(origin);
    if (!dead)
        return;
    pthread_mutex_lock(&origin->ring_lock);
    ring_remove(origin, node);
    pthread_mutex_unlock(&origin->ring_lock);
    node->ring_next = NULL;
    nodes_bury(origin, node);
}

void origin_fd_keep_set(struct origin *origin, struct origin_node *node, enum origin_keep keep)
{
    uint8_t before = atomic_exchange_explicit(&node->keep, (uint8_t)keep, memory_order_relaxed);

    if (keep == ORIGIN_KEEP_ORPHAN && before != ORIGIN_KEEP_ORPHAN)
        atomic_fetch_add_explicit(&origin->orphan_count, 1, memory_order_relaxed);
    if (keep != ORIGIN_KEEP_ORPHAN && before == ORIGIN_KEEP_ORPHAN)
        atomic_fetch_sub_explicit(&origin->orphan_count, 1, memory_order_relaxed);
}

void origin_forget(struct origin *origin, const struct origin_ref *ref)
{
    struct origin_node *node = origin_fd_find(origin, ref);

    if (!node)
        return;
    if (node != origin->root_node) {
        origin_fd_keep_set(origin, node, ORIGIN_KEEP_NO);
        atomic_store_explicit(&node->doomed, 1, memory_order_relaxed); /* ordered by the put that follows */
    }
    origin_fd_put(origin, node);
}

/* ---- the sweep --------------------------------------------------------------------------------------------------- */

/* Takes the reading and writing descriptors of an idle node that itself must stay. */
static void strip(struct origin_node *node, struct sweep_result *result)
{
    uint32_t idle = 0;

    if (!atomic_compare_exchange_strong_explicit(&node->users, &idle, NODE_STRIP, memory_order_acquire,
                                                 memory_order_relaxed)) /* pairs with origin_fd_put */
        return;
    int read_fd = atomic_exchange_explicit(&node->read_fd, -1, memory_order_relaxed);
    if (read_fd >= 0)
        result->fds[result->fd_count++] = read_fd;
    if (node->write_fd >= 0)
        result->fds[result->fd_count++] = node->write_fd;
    result->freed += (read_fd >= 0) + (node->write_fd >= 0);
    node->write_fd = -1;
    atomic_store_explicit(&node->users, 0, memory_order_release); /* pairs with node_use */
}

/* What must not be closed because it has lost its name since. ring_lock held: rare, and the origin answers a stat of an
 * open node mostly from memory. */
static enum origin_keep keep_now(struct origin *origin, struct origin_node *node, enum origin_keep level)
{
    enum origin_keep keep = atomic_load_explicit(&node->keep, memory_order_relaxed);
    struct stat      st;

    if (keep == ORIGIN_KEEP_PIN && level >= ORIGIN_KEEP_PIN && fstat(node->path_fd, &st) == 0 && st.st_nlink == 0) {
        keep = ORIGIN_KEEP_ORPHAN;
        origin_fd_keep_set(origin, node, keep);
    }
    return keep;
}

/* Moves the hand up to `steps` nodes on and closes idle ones, up to `want` descriptors. Returns how many were closed. */
static uint32_t sweep(struct origin *origin, uint32_t want, enum origin_keep level, uint32_t steps)
{
    struct sweep_result result = {.fd_count = 0};

    pthread_mutex_lock(&origin->ring_lock);
    for (; steps && result.freed < want && result.fd_count + 2 <= SWEEP_FDS; steps--) {
        struct origin_node *node = origin->hand;

        origin->hand = node->ring_next;
        if (node == &origin->ring || atomic_load_explicit(&node->users, memory_order_relaxed) ||
            atomic_exchange_explicit(&node->touched, 0, memory_order_relaxed))
            continue;
        if (keep_now(origin, node, level) > level) {
            strip(node, &result);
        } else if (node_kill(origin, node)) {
            ring_remove(origin, node);
            result.freed +=
                1u + (atomic_load_explicit(&node->read_fd, memory_order_relaxed) >= 0) + (node->write_fd >= 0);
            node->ring_next = result.dead;
            result.dead = node;
        }
    }
    pthread_mutex_unlock(&origin->ring_lock);
    for (uint32_t i = 0; i < result.fd_count; i++)
        origin_fd_close(origin, result.fds[i]);
    nodes_bury(origin, result.dead);
    return result.freed;
}

/* The bounded part: SWEEP_STEPS of the hand at each level. */
void origin_fd_trim(struct origin *origin)
{
    uint32_t open_fds = atomic_load_explicit(&origin->open_fds, memory_order_relaxed);

    if (open_fds <= origin->fd_max)
        return;
    uint32_t want = open_fds - origin->fd_max < SWEEP_STEPS ? open_fds - origin->fd_max : SWEEP_STEPS;
    if (sweep(origin, want, ORIGIN_KEEP_NO, SWEEP_STEPS) == 0)
        sweep(origin, want, ORIGIN_KEEP_PIN, SWEEP_STEPS);
    if (atomic_load_explicit(&origin->orphan_count, memory_order_relaxed) > origin->fd_max / 2)
        sweep(origin, want, ORIGIN_KEEP_ORPHAN, SWEEP_STEPS);
}

/* Is it worth opening again after this errno? Makes room if there was no descriptor left. */
bool origin_fd_relieve(struct origin *origin, int error, unsigned *tries)
{
    if (error == EINTR)
        return true;
    if ((error != EMFILE && error != ENFILE) || (*tries)++ >= ORIGIN_RELIEVE_TRIES)
        return false;
    pthread_mutex_lock(&origin->ring_lock);
    uint32_t round = 2 * (origin->node_count + 1); /* twice: the first time round clears `touched` */
    pthread_mutex_unlock(&origin->ring_lock);
    for (int level = ORIGIN_KEEP_NO; level <= ORIGIN_KEEP_ORPHAN; level++) {
        if (sweep(origin, 8, (enum origin_keep)level, round) > 0)
            return true;
    }
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL); /* all are in use this moment */
    return true;
}

/* ---- inserting, the table's life --------------------------------------------------------------------------------- */

static struct origin_node *node_new(const struct origin_ref *ref, uint32_t mode, int path_fd)
{
    struct origin_node *node = calloc(1, sizeof *node);

    if (!node)
        return NULL;
    node->ref = *ref;
    node->type = mode & S_IFMT;
    node->path_fd = path_fd;
    node->write_fd = -1;
    pthread_mutex_init(&node->lock, NULL);
    cds_lfht_node_init(&node->hash);
    atomic_store_explicit(&node->mode, mode, memory_order_relaxed);
    atomic_store_explicit(&node->touched, 1, memory_order_relaxed);
    atomic_store_explicit(&node->read_fd, -1, memory_order_relaxed);
    atomic_store_explicit(&node->users, 1, memory_order_release); /* pairs with node_match and node_use */
    return node;
}

/* Puts the node into the table, or counts the one that is there already as used. */
static struct origin_node *table_add(struct origin *origin, struct origin_node *node)
{
    struct origin_node *there;

    for (;;) {
        reader_enter();
        struct cds_lfht_node *hash =
            cds_lfht_add_unique(origin->table, ref_hash(&node->ref), node_match, &node->ref, &node->hash);
        there = caa_container_of(hash, struct origin_node, hash);
        bool usable = there == node || node_use(there);
        reader_leave(origin);
        if (usable)
            return there;
        sched_yield(); /* a dead one, about to leave the table */
    }
}

/* A node that was just found by name has the reference of one that is open already: is that still the same node? By a
 * handle it is, for sure. A PATH reference comes back when an inode number is reused, on file systems without a time of
 * birth that do not keep a deleted node for the sake of an O_PATH descriptor (FUSE). */
static bool superseded(const struct origin *origin, const struct origin_node *there, const struct origin_ref *ref,
                       uint32_t mode)
{
    struct stat st;

    if (ref->kind != ORIGIN_REF_PATH || there == origin->root_node)
        return false;
    if (there->type != (mode & S_IFMT) ||
        atomic_load_explicit(&there->keep, memory_order_relaxed) == ORIGIN_KEEP_ORPHAN)
        return true;
    return ref->birth_ns == 0 && (fstat(there->path_fd, &st) < 0 || st.st_nlink == 0);
}

/* Makes sure that `node` or one that is the same is in the table; which, counted as used, is returned. */
static struct origin_node *insert_or_find(struct origin *origin, struct origin_node *node, uint32_t mode)
{
    struct origin_node *there;

    while ((there = table_add(origin, node)) != node && superseded(origin, there, &node->ref, mode)) {
        origin_fd_keep_set(origin, there, ORIGIN_KEEP_NO);
        atomic_store_explicit(&there->doomed, 1, memory_order_relaxed); /* ordered by the put that follows */
        origin_fd_put(origin, there);
        sched_yield(); /* whoever uses it this moment will be the one to close it */
    }
    return there;
}

int origin_fd_insert(struct origin *origin, const struct origin_ref *ref, uint32_t mode, int path_fd,
                     enum origin_keep keep, struct origin_node **out)
{
    struct origin_node *node = node_new(ref, mode, path_fd);

    if (!node) {
        origin_fd_close(origin, path_fd);
        return -ENOMEM;
    }
    struct origin_node *there = insert_or_find(origin, node, mode);
    if (there != node) {
        pthread_mutex_destroy(&node->lock);
        free(node);
        origin_fd_close(origin, path_fd);
        atomic_store_explicit(&there->mode, mode, memory_order_relaxed);
        atomic_store_explicit(&there->doomed, 0, memory_order_relaxed);
    } else {
        pthread_mutex_lock(&origin->ring_lock);
        node->ring_prev = origin->ring.ring_prev;
        node->ring_next = &origin->ring;
        node->ring_prev->ring_next = node;
        origin->ring.ring_prev = node;
        origin->node_count++;
        pthread_mutex_unlock(&origin->ring_lock);
        origin_fd_trim(origin);
    }
    if (keep > atomic_load_explicit(&there->keep, memory_order_relaxed))
        origin_fd_keep_set(origin, there, keep);
    *out = there;
    return 0;
}

int origin_fd_table_open(struct origin *origin)
{
    unsigned long buckets = BUCKETS_MIN;

    while (buckets < origin->fd_max && buckets < BUCKETS_MAX)
        buckets *= 2;
    origin->table = cds_lfht_new_flavor(buckets, BUCKETS_MIN, buckets, 0, &urcu_bp_flavor, NULL);
    if (!origin->table)
        return -ENOMEM;
    pthread_mutex_init(&origin->ring_lock, NULL);
    origin->ring.ring_next = origin->ring.ring_prev = origin->hand = &origin->ring;
    return 0;
}

void origin_fd_table_close(struct origin *origin)
{
    struct origin_node *dead = NULL;

    if (origin->root_node)
        origin_fd_put(origin, origin->root_node);
    for (struct origin_node *node = origin->ring.ring_next, *next; node != &origin->ring; node = next) {
        next = node->ring_next;
        if (!node_kill(origin, node))
            continue; /* a caller broke the contract and still uses it: leaked, not freed under its feet */
        ring_remove(origin, node);
        node->ring_next = dead;
        dead = node;
    }
    nodes_bury(origin, dead);
    urcu_bp_synchronize_rcu();
    nodes_free(origin, origin->grave);
    cds_lfht_destroy(origin->table, NULL);
    pthread_mutex_destroy(&origin->ring_lock);
}
