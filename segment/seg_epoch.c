/* SPDX-License-Identifier: Apache-2.0 */
/*
 * seg_epoch.c - when may memory be used again that readers without locks may still look at.
 *
 *   reader (seg_epoch_enter)                       reclaimer (unlink, seg_epoch_stamp, later seg_epoch_oldest)
 *     R1  e = load common.epoch, acquire             U1  store that makes the element unreachable
 *     R2  store slot = e                             U2  full fence
 *     R3  full fence                                 U3  s = fetch_add(common.epoch, 1), acq_rel: the stamp
 *     R4  loads that follow links                      ...
 *     R5  store slot = 0, release                    S1  full fence
 *                                                    S2  loads of members_bits, states and slots, acquire
 *
 * Claim: when S2 finds no slot with a value <= s, no reader holds the element, and what readers read happened before.
 *   Take a reader whose R4 found the element, so its R4 did not see U1. If U2 came before R3 in the order of fences,
 *   R4 would have seen U1; so R3 came before U2. (a) Hence e <= s: had R1 read what U3 wrote or a later value, U3
 *   would happen before R1 and U2 before R3. (b) Hence S2 sees R2 or something later in that slot, because S1 comes
 *   after U2 (the stamp happens before the scan: same thread, or the limbo list's mutex, or E0 in seg_pool.c). If it
 *   sees R2, e <= s holds the element back. If it sees something later, R5 (release) or the next R2 (release too)
 *   hands the reader's loads over to S2. A reader that sleeps between R1 and R2 publishes an old e. That only holds
 *   back more than needed: for an element already given free its R3 comes after U2 and R4 does not find it. So R1
 *   needs no second look. An element X may still point to Y when both were unlinked, Y after X: whoever unlinks Y
 *   saw X's U1 (same bucket lock), so a reader that reached Y through X has R3 before Y's U2 by the same argument.
 *   A joining member sets its bit and its state before its first R3, so (b) holds for these words as well.
 *
 * The scan asks members that are JOINING or ACTIVE. A fenced one is not asked: after copying, its readers look
 * whether their incarnation still stands and drop what they copied. If a thread dies inside, its member is dead too,
 * fenced by others, and no longer asked; seg_epoch_clear() tidies.
 *
 * Which slot a thread uses is a matter of its process: a bitmap in struct seg, the claim found through a
 * thread-specific key; given back at the outermost exit, or by the key's destructor where the thread keeps it. Without a membership (tools that only look) nothing is
 * published: such a reader may see elements being reused and must check what it finds.
 */
#include <assert.h>
#include <errno.h>
#include <sched.h>

#include "seg_epoch.h"
#include "seg_internal.h"

#ifdef SEG_UNDER_TSAN
_Atomic uint64_t seg_fence_word;
#endif

static void thread_release(void *arg)
{
    struct seg_thread *thread = arg;
    assert(thread->depth == 0);
    thread->depth = 0;
    thread->kept = false;
    /* release BITS: the next owner of this entry sees depth 0 */
    atomic_fetch_and_explicit(&thread->seg->thread_bits, ~(1ull << thread->index), memory_order_release);
}

int seg_epoch_open(struct seg *seg)
{
    for (unsigned i = 0; i < SEG_THREADS_MAX; i++)
        seg->thread[i] = (struct seg_thread){.seg = seg, .index = i};
    return -pthread_key_create(&seg->thread_key, thread_release);
}

void seg_epoch_close(struct seg *seg)
{
    pthread_key_delete(seg->thread_key);
}

/* Lowest free entries first, so that the slots in use stay close together. */
static struct seg_thread *thread_claim(struct seg *seg)
{
    static_assert(SEG_THREADS_MAX == 64, "one bit each");
    for (;;) {
        uint64_t bits = atomic_load_explicit(&seg->thread_bits, memory_order_relaxed);
        if (~bits) {
            unsigned index = (unsigned)__builtin_ctzll(~bits);
            /* acquire BITS */
            if (!atomic_compare_exchange_weak_explicit(&seg->thread_bits, &bits, bits | 1ull << index,
                                                       memory_order_acquire, memory_order_relaxed))
                continue;
            if (pthread_setspecific(seg->thread_key, &seg->thread[index]) == 0)
                return &seg->thread[index];
            thread_release(&seg->thread[index]); /* no memory for the key: try again */
        }
        sched_yield();
    }
}

static _Atomic uint64_t *own_slot(struct seg *seg, unsigned index)
{
    uint64_t self = atomic_load_explicit(&seg->self, memory_order_acquire); /* pairs with SELF in seg_member.c */
    return self ? &seg->members[seg_who_slot(self)].thread[index].epoch : NULL;
}

void seg_epoch_keep(struct seg *seg)
{
    struct seg_thread *thread = pthread_getspecific(seg->thread_key);
    if (!thread)
        thread = thread_claim(seg);
    thread->kept = true;
}

void seg_epoch_enter(struct seg *seg)
{
    struct seg_thread *thread = pthread_getspecific(seg->thread_key);
    if (!thread)
        thread = thread_claim(seg);
    if (thread->depth++)
        return;
    thread->shared = own_slot(seg, thread->index);
    if (!thread->shared)
        return;
    uint64_t epoch = atomic_load_explicit(&seg_common(seg)->epoch, memory_order_acquire); /* R1, pairs with U3 */
    atomic_store_explicit(thread->shared, epoch, memory_order_release);                   /* R2, pairs with S2 */
    seg_full_fence();                                                                     /* R3, pairs with U2, S1 */
}

void seg_epoch_exit(struct seg *seg)
{
    struct seg_thread *thread = pthread_getspecific(seg->thread_key);
    assert(thread && thread->depth);
    if (--thread->depth)
        return;
    if (thread->shared)
        atomic_store_explicit(thread->shared, 0, memory_order_release); /* R5, pairs with S2 */
    if (!thread->kept && pthread_setspecific(seg->thread_key, NULL) == 0)
        thread_release(thread);
}

bool seg_epoch_inside(const struct seg *seg)
{
    const struct seg_thread *thread = pthread_getspecific(seg->thread_key);
    return thread && thread->depth;
}

uint64_t seg_epoch_stamp(struct seg *seg)
{
    seg_full_fence();                                                                   /* U2, pairs with R3 */
    return atomic_fetch_add_explicit(&seg_common(seg)->epoch, 1, memory_order_acq_rel); /* U3, pairs with R1 */
}

static uint64_t member_oldest(const struct seg_member *member)
{
    uint64_t oldest = UINT64_MAX;
    for (unsigned i = 0; i < SEG_THREADS_MAX; i++) {
        uint64_t epoch =
            atomic_load_explicit(&member->thread[i].epoch, memory_order_acquire); /* S2, pairs with R2, R5 */
        if (epoch && epoch < oldest)
            oldest = epoch;
    }
    return oldest;
}

uint64_t seg_epoch_oldest(const struct seg *seg)
{
    uint64_t oldest = UINT64_MAX;

    seg_full_fence();                                                                           /* S1, pairs with R3 */
    uint64_t bits = atomic_load_explicit(&seg_common(seg)->members_bits, memory_order_acquire); /* S2 */
    for (; bits; bits &= bits - 1) {
        unsigned              slot = (unsigned)__builtin_ctzll(bits);
        enum seg_member_state state = seg_member_state(seg, slot, NULL);
        if (state == SEG_ACTIVE || state == SEG_JOINING) {
            uint64_t epoch = member_oldest(&seg->members[slot]);
            if (epoch < oldest)
                oldest = epoch;
        }
    }
    return oldest;
}

void seg_epoch_clear(struct seg *seg, unsigned slot)
{
    struct seg_member *member = seg_member(seg, slot);
    for (unsigned i = 0; member && i < SEG_THREADS_MAX; i++)
        atomic_store_explicit(&member->thread[i].epoch, 0, memory_order_release); /* as R5 */
}
