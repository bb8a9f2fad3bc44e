/* SPDX-License-Identifier: Apache-2.0 */
/* lock_internal.h - what the files of lockmgr/ share; not for other folders. */
#ifndef HEARTH_LOCK_INTERNAL_H
#define HEARTH_LOCK_INTERNAL_H

#include <errno.h>

#include "lock.h"
#include "seg_counter.h"

struct lock_mgr {
    struct seg        *seg;
    struct work       *work;
    struct lock_config config;
    unsigned           self_slot;
    uint64_t           self_bit;
    unsigned           spin; /* looks before a sleep; 0 on one core */
    _Atomic int        names_recalled; /* recalls of names that this member is carrying out */
};

/* ---- the owner word ---- */
static inline uint64_t lock_word(unsigned slot, unsigned phase, uint32_t incarnation)
{
    return (uint64_t)incarnation << 32 | (uint64_t)(phase & 0xff) << 8 | (uint64_t)((slot + 1) & 0xff);
}
static inline unsigned lock_word_slot(uint64_t w) { return (unsigned)(w & 0xff) - 1; } /* garbage unless w != 0: check range */
static inline unsigned lock_word_phase(uint64_t w) { return (unsigned)(w >> 8 & 0xff); }
static inline uint32_t lock_word_incarnation(uint64_t w) { return (uint32_t)(w >> 32); }
static inline seg_who  lock_word_who(uint64_t w) { return seg_who_make(lock_word_slot(w), lock_word_incarnation(w)); }

/* False: a peer's nonsense, which nobody will ever release. */
static inline bool lock_word_is_sane(uint64_t w)
{
    unsigned phase = lock_word_phase(w);
    return !w || (lock_word_slot(w) < SEG_MEMBERS_MAX && phase > LOCK_IDLE && phase <= LOCK_GRANTED);
}

static inline uint64_t lock_own_word(const struct lock_mgr *mgr, unsigned phase)
{
    return lock_word(mgr->self_slot, phase, seg_self_incarnation(mgr->seg));
}

static inline void lock_cpu_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

/* lock_wait.c: one bounded sleep for an event of `words`. The caller reads the event word first, then its condition, then sleeps. */
uint32_t lock_wait_prepare(struct lock_mgr *mgr, struct lock_shared *words);
void     lock_wait_sleep(struct lock_mgr *mgr, struct lock_shared *words, uint32_t event, unsigned ms);
void     lock_wake(struct lock_mgr *mgr, const struct lock_ref *ref);
uint64_t lock_now_ms(void);
/* If member `slot` with `incarnation` is gone: has it settled through the callback (which may still be at it) and answers true. */
bool lock_settle_if_dead(struct lock_mgr *mgr, unsigned slot, uint32_t incarnation);
/* Fences that life of a member, whatever it does, and has it settled. Never the own member. */
void lock_settle(struct lock_mgr *mgr, seg_who who);

#endif
