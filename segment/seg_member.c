/* SPDX-License-Identifier: Apache-2.0 */
/*
 * seg_member.c - who takes part: join, leave, liveness, fencing.
 *
 *              join (any free, parked or dead slot)           activate
 *   FREE ------------------------------------------> JOINING ----------> ACTIVE
 *                                                     ^  |                 |  \ leave
 *                       join, next incarnation        |  | fence     fence |   v
 *                  PARKED ----------------------------+  +----> FENCED <---+  PARKED
 *                     ^                                            |
 *                     +-------------- park, after recovery --------+
 *
 * Invariants
 *   - A slot is in the hands of one living process: from before JOINING until after PARKED it holds the slot's
 *     liveness lock, and every transition into JOINING is made under that lock and under the recovery lock.
 *   - The incarnation moves with each JOINING and with nothing else. All transitions are CAS on the exact word, so
 *     whoever acts on an old life (a late fencer, a late leaver) fails.
 *   - members_bits: a slot's bit is set before JOINING and cleared at PARKED, never by a fencer. So slots that are
 *     JOINING or ACTIVE have their bit, and scans look at these only. Who clears it still holds the liveness lock
 *     (leave) or the recovery lock (park), so the bit of a next life cannot be hit.
 *   - Identity fields are written under the recovery lock; name and mount point are for people and may be read torn.
 *
 * If we die here: the kernel drops both locks. Dead before JOINING: a slot with our identity, parked or free, is
 * left. Dead later: the slot reads as JOINING or ACTIVE with its liveness lock free, which anyone may fence and
 * recover, or which the same member takes over at its next join (the caller of join always recovers what the slot's
 * last life left).
 *
 * The locks belong to the open file description of struct seg: closing other descriptors of the file does not drop
 * them, but a forked child that keeps the descriptor keeps its parent "alive". Locks: the recovery lock has the rank
 * SEG_MEMBERS.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "lock_rank.h"
#include "seg_epoch.h"
#include "seg_internal.h"

enum { LEAVER_WAIT_NS = 500000000 }; /* between PARKED and the drop of its lock a leaver runs a few instructions */

static uint64_t state_word(enum seg_member_state state, uint32_t incarnation)
{
    return (uint64_t)incarnation << 32 | (uint64_t)state;
}

static enum seg_member_state word_state(uint64_t word)
{
    uint64_t state = word & 0xff;
    return state <= SEG_PARKED ? (enum seg_member_state)state : SEG_FENCED; /* a peer's nonsense: recover it */
}

static uint32_t word_incarnation(uint64_t word)
{
    return (uint32_t)(word >> 32);
}

static bool state_change(struct seg_member *member, uint64_t from, uint64_t to)
{
    /* STATE: release what was written for the new state, acquire what the old one's writer left */
    return atomic_compare_exchange_strong_explicit(&member->state, &from, to, memory_order_acq_rel,
                                                   memory_order_relaxed);
}

/* ---- file locks ---- */

static int byte_lock(const struct seg *seg, uint64_t byte, short type, bool wait)
{
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = (off_t)byte, .l_len = 1};
    int          rc;
    do
        rc = fcntl(seg->fd, wait ? F_OFD_SETLKW : F_OFD_SETLK, &lock);
    while (rc && errno == EINTR);
    if (!rc)
        return 0;
    return errno == EAGAIN || errno == EACCES ? -EAGAIN : -EIO;
}

bool seg_member_is_dead(const struct seg *seg, unsigned slot)
{
    struct flock lock = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)(SEG_LIVENESS_OFF + slot), .l_len = 1};
    if (slot >= SEG_MEMBERS_MAX || (int)slot == seg_self_slot(seg))
        return false;
    enum seg_member_state state = seg_member_state(seg, slot, NULL);
    if (state != SEG_FREE && state != SEG_PARKED && seg->members[slot].flags & SEG_MEMBER_OTHER_KERNEL)
        return false; /* its locks live in another kernel */
    if (fcntl(seg->fd, F_OFD_GETLK, &lock))
        return false; /* not proven */
    return lock.l_type == F_UNLCK;
}

int seg_recovery_lock(struct seg *seg, bool try)
{
    int rc = 0;

    lock_rank_push(LOCK_RANK_SEG_MEMBERS);
    if (!try)
        pthread_mutex_lock(&seg->recovery_mutex);
    else if (pthread_mutex_trylock(&seg->recovery_mutex))
        rc = -EAGAIN;
    if (!rc) {
        rc = byte_lock(seg, SEG_RECOVERY_OFF, F_WRLCK, !try);
        if (rc)
            pthread_mutex_unlock(&seg->recovery_mutex);
    }
    if (rc) {
        lock_rank_pop(LOCK_RANK_SEG_MEMBERS);
        return rc;
    }
    /* for those who look: the OFD lock decides, a dead holder's name stays until the next one comes */
    atomic_store_explicit(&seg_common(seg)->recovery_lock, seg_self(seg), memory_order_relaxed);
    return 0;
}

void seg_recovery_unlock(struct seg *seg)
{
    atomic_store_explicit(&seg_common(seg)->recovery_lock, 0, memory_order_relaxed);
    byte_lock(seg, SEG_RECOVERY_OFF, F_UNLCK, false);
    pthread_mutex_unlock(&seg->recovery_mutex);
    lock_rank_pop(LOCK_RANK_SEG_MEMBERS);
}

/* ---- reading ---- */

struct seg_member *seg_member(const struct seg *seg, unsigned slot)
{
    return slot < SEG_MEMBERS_MAX ? &seg->members[slot] : NULL;
}

enum seg_member_state seg_member_state(const struct seg *seg, unsigned slot, uint32_t *incarnation)
{
    struct seg_member *member = seg_member(seg, slot);
    uint64_t word = member ? atomic_load_explicit(&member->state, memory_order_acquire) : 0; /* pairs with STATE */
    if (incarnation)
        *incarnation = word_incarnation(word);
    return word_state(word);
}

seg_who seg_self(const struct seg *seg)
{
    return atomic_load_explicit(&seg->self, memory_order_acquire); /* pairs with SELF */
}

int seg_self_slot(const struct seg *seg)
{
    seg_who self = seg_self(seg);
    return self ? (int)seg_who_slot(self) : -1;
}

uint32_t seg_self_incarnation(const struct seg *seg)
{
    return seg_who_incarnation(seg_self(seg));
}

uint64_t seg_self_bit(const struct seg *seg)
{
    seg_who self = seg_self(seg);
    return self ? 1ull << seg_who_slot(self) : 0;
}

bool seg_self_stands(const struct seg *seg)
{
    seg_who               self = seg_self(seg);
    uint32_t              incarnation;
    enum seg_member_state state;

    if (!self)
        return false;
    /* acquire: what the caller read before may be others' only if the fence behind which they took it is seen now */
    atomic_thread_fence(memory_order_acquire);
    state = seg_member_state(seg, seg_who_slot(self), &incarnation);
    return incarnation == seg_who_incarnation(self) && (state == SEG_ACTIVE || state == SEG_JOINING);
}

bool seg_who_stands(const struct seg *seg, seg_who who)
{
    uint32_t incarnation;
    unsigned slot = seg_who_slot(who);
    return slot < SEG_MEMBERS_MAX && seg_member_state(seg, slot, &incarnation) == SEG_ACTIVE &&
           incarnation == seg_who_incarnation(who);
}

uint64_t seg_members_active(const struct seg *seg)
{
    uint64_t active = 0;
    uint64_t bits = atomic_load_explicit(&seg_common(seg)->members_bits, memory_order_acquire); /* pairs with BIT */
    for (; bits; bits &= bits - 1) {
        unsigned slot = (unsigned)__builtin_ctzll(bits);
        if (seg_member_state(seg, slot, NULL) == SEG_ACTIVE)
            active |= 1ull << slot;
    }
    return active;
}

/* ---- joining ---- */

enum join_class { JOIN_SAME_UUID, JOIN_WANTED, JOIN_FREE, JOIN_PARKED, JOIN_DEAD, JOIN_NOT };

static bool slot_is_held(const struct seg *seg, unsigned slot)
{
    uint64_t until_ns = seg_now_ns() + LEAVER_WAIT_NS;
    while (!seg_member_is_dead(seg, slot)) {
        if (seg_member_state(seg, slot, NULL) != SEG_PARKED || seg_now_ns() > until_ns)
            return true;
        sched_yield(); /* it is leaving right now */
    }
    return false;
}

/* Refuses a second life of a member that lives; tells which slots are held by the living. */
static int living_check(const struct seg *seg, const struct seg_join *join, uint64_t *held, char *err)
{
    *held = 0;
    for (unsigned slot = 0; slot < SEG_MEMBERS_MAX; slot++) {
        const struct seg_member *member = &seg->members[slot];
        if (seg_member_state(seg, slot, NULL) == SEG_FREE || !slot_is_held(seg, slot))
            continue;
        *held |= 1ull << slot;
        bool same_uuid = !memcmp(member->uuid, join->uuid, sizeof join->uuid);
        if (!same_uuid && strncmp(member->name, join->name, sizeof member->name) != 0)
            continue;
        return seg_fail(err, -EBUSY,
                        "member %s is already running as process %" PRIu32 " in slot %u%s; end that one, or choose "
                        "another name with -o member=NAME",
                        join->name, member->pid, slot,
                        seg_member_state(seg, slot, NULL) == SEG_FENCED ? " (fenced)" : "");
    }
    return 0;
}

static enum join_class slot_class(const struct seg *seg, const struct seg_join *join, unsigned slot)
{
    enum seg_member_state state = seg_member_state(seg, slot, NULL);
    if (state == SEG_FREE)
        return (int)slot == join->slot_wanted ? JOIN_WANTED : JOIN_FREE;
    if (!memcmp(seg->members[slot].uuid, join->uuid, sizeof join->uuid))
        return JOIN_SAME_UUID;
    return state == SEG_PARKED ? JOIN_PARKED : JOIN_DEAD;
}

/* The best slot not in `excluded`, or -1. Among parked ones the oldest identity goes first. */
static int slot_choose(const struct seg *seg, const struct seg_join *join, uint64_t excluded)
{
    enum join_class best_class = JOIN_NOT;
    uint64_t        best_stamp = 0;
    int             best = -1;

    for (unsigned slot = 0; slot < SEG_MEMBERS_MAX; slot++) {
        if (excluded >> slot & 1)
            continue;
        enum join_class class = slot_class(seg, join, slot);
        uint64_t stamp = atomic_load_explicit(&seg->members[slot].parked_stamp, memory_order_relaxed);
        if (class < best_class || (class == best_class && class == JOIN_PARKED && stamp < best_stamp)) {
            best_class = class;
            best_stamp = stamp;
            best = (int)slot;
        }
    }
    return best;
}

static void identity_write(struct seg_member *member, const struct seg_join *join)
{
    memcpy(member->uuid, join->uuid, sizeof member->uuid);
    memset(member->name, 0, sizeof member->name);
    snprintf(member->name, sizeof member->name, "%s", join->name);
    memset(member->mountpoint, 0, sizeof member->mountpoint);
    snprintf(member->mountpoint, sizeof member->mountpoint, "%s", join->mountpoint ? join->mountpoint : "");
    member->pid = (uint32_t)getpid();
    member->flags = join->flags;
    member->joined_sec = (uint64_t)time(NULL);
}

/* The slot's liveness lock and the recovery lock are held: only a fencer may still move the state. */
static void slot_take(struct seg *seg, unsigned slot, const struct seg_join *join)
{
    struct seg_member *member = &seg->members[slot];
    uint64_t           word;
    uint32_t           incarnation;

    seg_epoch_clear(seg, slot); /* before JOINING: from then on they count, and our threads may enter */
    identity_write(member, join);
    atomic_fetch_or_explicit(&seg_common(seg)->members_bits, 1ull << slot, memory_order_acq_rel); /* BIT */
    do {
        word = atomic_load_explicit(&member->state, memory_order_relaxed);
        incarnation = word_incarnation(word) + 1;
        if (!incarnation)
            incarnation = 1;
    } while (!state_change(member, word, state_word(SEG_JOINING, incarnation)));
    atomic_store_explicit(&seg->self, seg_who_make(slot, incarnation), memory_order_release); /* SELF */
}

static int join_locked(struct seg *seg, const struct seg_join *join, char *err)
{
    uint64_t excluded;
    int      rc = living_check(seg, join, &excluded, err);

    while (!rc) {
        int slot = slot_choose(seg, join, excluded);
        if (slot < 0)
            return seg_fail(err, -ENOSPC, "all %d member slots are taken by running members; end one of them",
                            SEG_MEMBERS_MAX);
        rc = byte_lock(seg, SEG_LIVENESS_OFF + (unsigned)slot, F_WRLCK, false);
        if (!rc) {
            slot_take(seg, (unsigned)slot, join);
            return 0;
        }
        if (rc == -EAGAIN) { /* held by someone whose state does not say so: leave it alone */
            excluded |= 1ull << slot;
            rc = 0;
        }
    }
    if (rc == -EIO)
        seg_fail(err, rc, "the liveness lock cannot be taken; does the file system of %s support OFD locks?",
                 seg->path);
    return rc;
}

int seg_member_join(struct seg *seg, const struct seg_join *join, char err[SEG_ERR_BYTES])
{
    size_t length = join->name ? strnlen(join->name, SEG_NAME_MAX) : 0;
    int    rc;

    if (!length || length >= SEG_NAME_MAX)
        return seg_fail(err, -EINVAL, "a member's name has 1 to %d bytes", SEG_NAME_MAX - 1);
    if (seg->rdonly || seg_self(seg))
        return seg_fail(err, -EINVAL, "segment %.100s: %s", seg->path,
                        seg->rdonly ? "opened to look only" : "joined already");
    rc = seg_recovery_lock(seg, false);
    if (rc)
        return seg_fail(err, rc,
                        "segment %.100s: the join lock cannot be taken; does the file system support OFD locks?",
                        seg->path);
    rc = join_locked(seg, join, err);
    seg_recovery_unlock(seg);
    return rc;
}

void seg_member_activate(struct seg *seg)
{
    seg_who self = seg_self(seg);
    if (!self)
        return;
    uint32_t incarnation = seg_who_incarnation(self);
    /* fails when somebody fenced us meanwhile: seg_self_stands() tells */
    state_change(&seg->members[seg_who_slot(self)], state_word(SEG_JOINING, incarnation),
                 state_word(SEG_ACTIVE, incarnation));
}

/* ---- leaving ---- */

static void parked_stamp_write(struct seg *seg, unsigned slot)
{
    uint64_t newest = 0;
    for (unsigned i = 0; i < SEG_MEMBERS_MAX; i++) {
        uint64_t stamp = atomic_load_explicit(&seg->members[i].parked_stamp, memory_order_relaxed);
        newest = stamp > newest ? stamp : newest;
    }
    atomic_store_explicit(&seg->members[slot].parked_stamp, newest + 1, memory_order_relaxed);
}

void seg_member_leave(struct seg *seg)
{
    seg_who self = atomic_exchange_explicit(&seg->self, 0, memory_order_acq_rel); /* SELF; one leaver only */
    if (!self)
        return;
    unsigned           slot = seg_who_slot(self);
    uint32_t           incarnation = seg_who_incarnation(self);
    struct seg_member *member = &seg->members[slot];

    parked_stamp_write(seg, slot);
    if (state_change(member, state_word(SEG_ACTIVE, incarnation), state_word(SEG_PARKED, incarnation)) ||
        state_change(member, state_word(SEG_JOINING, incarnation), state_word(SEG_PARKED, incarnation)))
        atomic_fetch_and_explicit(&seg_common(seg)->members_bits, ~(1ull << slot), memory_order_acq_rel); /* BIT */
    byte_lock(seg, SEG_LIVENESS_OFF + slot, F_UNLCK, false); /* fenced: now proven gone, recovery parks it */
}

bool seg_member_fence(struct seg *seg, unsigned slot, uint32_t incarnation)
{
    struct seg_member *member = seg_member(seg, slot);
    return member && (state_change(member, state_word(SEG_ACTIVE, incarnation), state_word(SEG_FENCED, incarnation)) ||
                      state_change(member, state_word(SEG_JOINING, incarnation), state_word(SEG_FENCED, incarnation)));
}

void seg_member_park(struct seg *seg, unsigned slot)
{
    struct seg_member *member = seg_member(seg, slot);
    if (!member)
        return;
    uint64_t word = atomic_load_explicit(&member->state, memory_order_acquire); /* pairs with STATE */
    if (word_state(word) != SEG_FENCED)
        return;
    seg_epoch_clear(seg, slot);
    parked_stamp_write(seg, slot);
    atomic_fetch_and_explicit(&seg_common(seg)->members_bits, ~(1ull << slot), memory_order_acq_rel); /* BIT */
    state_change(member, word, state_word(SEG_PARKED, word_incarnation(word)));
}

void seg_heartbeat(struct seg *seg)
{
    seg_who self = seg_self(seg);
    if (self)
        atomic_fetch_add_explicit(&seg->members[seg_who_slot(self)].heartbeat, 1, memory_order_relaxed);
}
