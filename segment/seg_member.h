/* SPDX-License-Identifier: Apache-2.0 */
/*
 * seg_member.h - membership: identity is slot + incarnation, never a pid.
 *
 * Liveness on one kernel: a member holds an OFD write lock on byte SEG_LIVENESS_OFF + slot of the segment's file; the kernel
 * drops it when the process is gone, and anyone can test it. Elsewhere: the heartbeat, watched with the watcher's own clock.
 */
#ifndef HEARTH_SEG_MEMBER_H
#define HEARTH_SEG_MEMBER_H

#include "seg.h"

#define SEG_LIVENESS_OFF (1ull << 40) /* beyond any segment: only lock ranges live there   */
#define SEG_RECOVERY_OFF (1ull << 41) /* OFD lock held while members are joined/recovered  */

/* slot and incarnation in one word: incarnation:32 | slot:16 | 0x5e9 tag... opaque, never 0. */
typedef uint64_t seg_who;
static inline seg_who  seg_who_make(unsigned slot, uint32_t incarnation) { return (uint64_t)incarnation << 32 | (slot + 1); }
static inline unsigned seg_who_slot(seg_who who) { return (unsigned)(who & 0xffff) - 1; } /* caller checks < SEG_MEMBERS_MAX */
static inline uint32_t seg_who_incarnation(seg_who who) { return (uint32_t)(who >> 32); }

struct seg_join {
    uint8_t     uuid[16];        /* the member's own identity                                 */
    const char *name;            /* < SEG_NAME_MAX bytes                                      */
    const char *mountpoint;      /* for people; cut to fit                                    */
    uint32_t    flags;           /* SEG_MEMBER_*                                              */
    int         slot_wanted;     /* from the identity record, or -1                           */
};

/*
 * Takes a slot: the one PARKED under this uuid, else slot_wanted when free, else a free one, else the oldest PARKED one whose
 * liveness lock is free. State becomes JOINING with the next incarnation; the liveness lock is held from then on. The caller recovers what the
 * slot's last life left (persist/), then calls seg_member_activate(). A dead member's slot (not recovered yet) counts as PARKED
 * when it bears this uuid, and is taken last otherwise. Before a second join through the same struct seg all its threads must be
 * outside epochs. -EBUSY: a living member bears this uuid or name (err says which pid); -ENOSPC: 64 living members; -EIO;
 * -EINVAL. Does not block but for the join lock (OFD lock SEG_RECOVERY_OFF; must not be held by the caller).
 */
int  seg_member_join(struct seg *seg, const struct seg_join *join, char err[SEG_ERR_BYTES]);
void seg_member_activate(struct seg *seg); /* JOINING -> ACTIVE; the bit in members_bits is set and epoch slots are cleared by join */
void seg_member_leave(struct seg *seg);    /* ACTIVE or JOINING -> PARKED (FENCED stays), lock released; idempotent */

/* The calling process's own membership. slot is -1 before join. */
int      seg_self_slot(const struct seg *seg);
uint32_t seg_self_incarnation(const struct seg *seg);
seg_who  seg_self(const struct seg *seg);
uint64_t seg_self_bit(const struct seg *seg);
/* One load: does the own incarnation still stand (state is ACTIVE or JOINING with it)? False: somebody fenced us. */
bool seg_self_stands(const struct seg *seg);

struct seg_member *seg_member(const struct seg *seg, unsigned slot); /* NULL when out of range */
enum seg_member_state seg_member_state(const struct seg *seg, unsigned slot, uint32_t *incarnation);
/* ACTIVE with exactly this incarnation? */
bool seg_who_stands(const struct seg *seg, seg_who who);
/* Bitmap of ACTIVE slots, read from the states. */
uint64_t seg_members_active(const struct seg *seg);

/* Has the process behind `slot` gone (its OFD lock is free)? The own slot: false. One fcntl; no blocking. */
bool seg_member_is_dead(const struct seg *seg, unsigned slot);
/* ACTIVE or JOINING -> FENCED by CAS on exactly this incarnation. True if this call did it. */
bool seg_member_fence(struct seg *seg, unsigned slot, uint32_t incarnation);
/* FENCED (any) -> PARKED after recovery has settled everything it held. The caller holds the recovery lock and has seen
 * seg_member_is_dead(); under that lock it looks at the state again first, for the member may have come back. */
void seg_member_park(struct seg *seg, unsigned slot);
/* Serialises recovery among members: OFD lock, released by the kernel when the holder dies. try: -EAGAIN when held.
 * Threads of one process are serialised by a mutex inside. */
int  seg_recovery_lock(struct seg *seg, bool try);
void seg_recovery_unlock(struct seg *seg);

void seg_heartbeat(struct seg *seg); /* one relaxed increment of the own word */

#endif
