/* SPDX-License-Identifier: Apache-2.0 */
/* seg_internal.h - the private twin of a segment; for the .c files of segment/ only. */
#ifndef HEARTH_SEG_INTERNAL_H
#define HEARTH_SEG_INTERNAL_H

#include <pthread.h>
#include <time.h>

#include "seg.h"
#include "seg_member.h"
#include "seg_pool.h"

/* An epoch slot as the thread that claimed it knows it; found through a thread-specific key, without an allocation. */
struct seg_thread {
    _Alignas(64) struct seg *seg;
    unsigned          index;  /* of seg_member.thread[]                            */
    unsigned          depth;  /* nested enters; only the owning thread touches it  */
    _Atomic uint64_t *shared; /* where the epoch was published; NULL: not a member */
    bool              kept;   /* not given back at the outermost exit */
};

struct seg {
    unsigned char     *base;
    uint64_t           size_bytes;
    int                fd; /* its open file description carries this membership's OFD locks */
    bool               rdonly;
    char              *path;
    struct seg_array   section[SEG_SECTION_KINDS];
    struct seg_member *members;        /* [SEG_MEMBERS_MAX]                     */
    _Atomic uint64_t   self;           /* seg_who of this membership; 0: none   */
    pthread_mutex_t    recovery_mutex; /* orders this process's threads for SEG_RECOVERY_OFF */
    pthread_key_t      thread_key;     /* -> struct seg_thread                  */
    _Atomic uint64_t   thread_bits;    /* bit n: thread[n] is claimed           */
    struct seg_thread  thread[SEG_THREADS_MAX];
};

/* Fills err (may be NULL) and returns rc. */
__attribute__((format(printf, 3, 4))) int seg_fail(char *err, int rc, const char *format, ...);

/* What a create call has to lay out: fills `super` but for uuid, magic and checksum. -EINVAL with err. */
int  seg_super_plan(const struct seg_plan *plan, struct seg_super *super, char err[SEG_ERR_BYTES]);
void seg_super_seal(struct seg_super *super); /* checksum and magic of a private copy */

/* Creation the way it goes without O_TMPFILE; -EEXIST when the name is taken. */
int seg_create_named(const char *path, const struct seg_plan *plan, struct seg **out, char *err);

int  seg_epoch_open(struct seg *seg); /* makes the thread key; -ENOMEM, -EAGAIN */
void seg_epoch_close(struct seg *seg);

uint64_t seg_pool_stride(const struct seg_pool *pool);

static inline uint64_t seg_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline void seg_cpu_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/*
 * A full fence: orders earlier stores before later loads. ThreadSanitizer knows no fences; for it a
 * read-modify-write on one word of the process stands in, which it takes as acquire and release.
 */
#if defined(__SANITIZE_THREAD__)
#define SEG_UNDER_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SEG_UNDER_TSAN 1
#endif
#endif
#ifdef SEG_UNDER_TSAN
extern _Atomic uint64_t seg_fence_word;
static inline void      seg_full_fence(void)
{
    atomic_fetch_add_explicit(&seg_fence_word, 1, memory_order_seq_cst);
}
#else
static inline void seg_full_fence(void)
{
    atomic_thread_fence(memory_order_seq_cst);
}
#endif

#endif
