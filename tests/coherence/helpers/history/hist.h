/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hist.h - histories of operations on shared objects, and the question whether they have a legal order.
 *
 * An operation has a start, an end and a result. A history of one object is *linearizable* if its operations can be put in one order that keeps real time (what
 * ended before another began comes first) and in which every result is the one that the object's sequential specification gives. A history of several
 * objects is linearizable if that of each object is (Herlihy and Wing, "Linearizability", ACM TOPLAS 12(3), 1990, theorem 1), so each object is judged by itself. What one
 * operation does to several names at once (rename) makes all names of a set one object.
 */
#ifndef HIST_H
#define HIST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { HIST_WORDS = 8, HIST_PENDING_MAX = 64 };
#define HIST_ANY UINT64_MAX /* a word of the state of which nothing is known: only while a history is shrunk */

enum hist_class {
    HIST_REGISTER, /* word 0: the value                                             */
    HIST_LOG,      /* word 0: how many records                                      */
    HIST_TFILE,    /* word 0: size in bytes; words 1 to 4: one cell of each page     */
    HIST_NAMES,    /* each word a name: the identity of the inode, 0 absent          */
    HIST_DIRS,     /* likewise, but all that is seen of an inode is that it is there */
    HIST_LOCK,     /* word 0: the holder, 0 free                                    */
};

enum hist_kind {
    HIST_WRITE,     /* register := a                                                             */
    HIST_READ,      /* register == a                                                             */
    HIST_SWAP,      /* register == a, then := b: a read and a write in one critical section      */
    HIST_APPEND,    /* log: becomes record b; a is its tag                                       */
    HIST_COUNT,     /* log: has a records                                                        */
    HIST_GET,       /* log: record b is there (a != 0) or behind the end (a == 0)                */
    HIST_T_WRITE,   /* tfile: cell x := a, grows to the end of that cell                         */
    HIST_T_READ,    /* tfile: cell x is a; err: behind the end                                   */
    HIST_T_RESIZE,  /* tfile: size := a, a multiple of the page                                  */
    HIST_T_SIZE,    /* tfile: size == a                                                          */
    HIST_T_PUNCH,   /* tfile: cell x := 0, size stays                                            */
    HIST_CREATE,    /* names: x := a where nothing was (create, mkdir, symlink, link); EEXIST    */
    HIST_REMOVE,    /* names: x := 0 where something was; ENOENT                                 */
    HIST_RENAME,    /* names: y := x, x := 0; ENOENT                                             */
    HIST_NOREPLACE, /* likewise where y was absent; ENOENT, EEXIST                               */
    HIST_EXCHANGE,  /* x and y change places; ENOENT                                             */
    HIST_LOOKUP,    /* names: x is a, or absent (0); HIST_ANY: something                         */
    HIST_LINKS,     /* names: b of them are a                                                    */
    HIST_ACQUIRE,   /* lock: free, then held by a; EAGAIN: held by another                       */
    HIST_RELEASE,   /* lock: held by a, then free                                                */
    HIST_HAVOC,     /* a change of which only is known what it touched (shrinking)               */
};

struct hist_op {
    uint64_t start, end;           /* ns: the interval that is judged                                    */
    uint64_t call_ns, return_ns;   /* the interval that was measured; the other may be wider (hist_widen) */
    uint64_t a, b;
    uint8_t  kind, x, y, err;      /* err: an errno, 0 success; all of those used are < 256               */
    uint8_t  member, thread, way, dropped; /* way: how it was done, for people; dropped: by shrinking     */
};

struct hist_state {
    uint64_t word[HIST_WORDS];
};

struct hist_object {
    enum hist_class class;
    const char     *name;
    const char *const *words; /* what the words are called (names); may be NULL */
    bool            gaps;     /* log: appends may be missing from the history (shrinking) */
};

/* States the object may be in when nothing is under way. More than HIST_STATES_MAX: the rest is not judged (never seen). */
enum { HIST_STATES_MAX = 64 };
struct hist_states {
    unsigned          count;
    struct hist_state state[HIST_STATES_MAX];
};

/* ---- hist_spec.c ---- */
/* May `op` happen in `state` with the result that it had? Then *next is the state after it. */
bool hist_apply(const struct hist_object *object, const struct hist_op *op, const struct hist_state *state, struct hist_state *next);
bool hist_observes(const struct hist_op *op); /* it never changes the state */
/* The words of the state that it looks at or changes, as bits. */
uint32_t hist_touches(const struct hist_object *object, const struct hist_op *op);
void     hist_print_op(const struct hist_object *object, const struct hist_op *op, uint64_t base_ns);
void     hist_print_state(const struct hist_object *object, const struct hist_state *state);

/* ---- hist_check.c ---- */
enum hist_verdict { HIST_LEGAL, HIST_ILLEGAL, HIST_UNDECIDED };
struct hist_fault {
    size_t             op;     /* the one whose result nothing explains */
    struct hist_states before; /* states possible when it had to happen; may be cut at HIST_STATES_MAX */
};
/*
 * Sorts `ops` by start; on HIST_LEGAL `states` becomes the states possible at the end. UNDECIDED: more than HIST_PENDING_MAX operations at one instant, or too many
 * configurations; `states` is of no use then. `fault` may be NULL.
 */
enum hist_verdict hist_check(const struct hist_object *object, struct hist_op *ops, size_t count, struct hist_states *states,
                             struct hist_fault *fault);
/*
 * What a mount's own programs may see of a change of theirs that is under way is not promised (hearthfs-coherence(7)): it may be early or late. So each observation that
 * overlaps a change of the same words by the same member is judged as if it had lasted as long as that change. Returns how many operations are left:
 * those that became equal are kept once.
 */
size_t hist_widen(const struct hist_object *object, struct hist_op *ops, size_t count);

/* ---- hist_shrink.c ---- */
/* Of an illegal history: prints a part of it that is illegal by itself, as small as it gets, with times, members and values. */
void hist_explain(const struct hist_object *object, struct hist_op *ops, size_t count, const struct hist_states *initial,
                  const struct hist_fault *fault);
/* The same without printing: marks what is not needed as dropped, or HIST_HAVOC. Returns how many operations are left as they were. */
size_t hist_shrink(const struct hist_object *object, struct hist_op *ops, size_t count, struct hist_states *initial);

#endif
