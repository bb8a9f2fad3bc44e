/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run.h - the threads that make histories, and what they share.
 *
 * Time is cut into windows: all threads run, stop, look at everything once more through each member, and then judge what was recorded; the states that are
 * possible at the end of one window are those at the beginning of the next. Two things are settled between windows: which member may change the files that
 * only one member may change at a time, and which records of the log are whose.
 *
 * What is asked of hearthfs stays within hearthfs-coherence(7):
 *   - data is judged by cells of 8 bytes, because one read or write may be answered from several pages; whole blocks only with O_DIRECT;
 *   - a file that is truncated, or stored to through a mapping, has one member that changes it, others look only;
 *   - a store counts from the store to the end of its msync;
 *   - what programs on the mount that makes a change see of it before it has returned is not judged strictly (hist_widen).
 */
#ifndef RUN_H
#define RUN_H

#include <stdatomic.h>
#include <sys/types.h>

#include "hist.h"

enum { PAGE = 4096, CELLS = 16, BLOCKS = 2, BLOCK_BYTES = 2 * PAGE, RECORD_WORDS = 7, RECORD_BYTES = RECORD_WORDS * 8, POOL = 2, SLOTS = 6, HELD_MAX = 256 };
enum { MEMBERS_MAX = 8, THREADS_MAX = 32 };

enum { /* objects; those with several have that many from there on */
    O_CELL,
    O_STORE = O_CELL + CELLS,
    O_BLOCK = O_STORE + CELLS,
    O_LOG = O_BLOCK + BLOCKS,
    O_TFILE,
    O_MTIME,
    O_MODE,
    O_XATTR,
    O_FILES,
    O_SYMLINKS,
    O_DIRS,
    O_LOCK_OFD,
    O_LOCK_FLOCK,
    O_COUNTER, /* one for each kind of lock */
    OBJECTS = O_COUNTER + 2
};

enum { WAY_NONE, WAY_READ, WAY_MAP, WAY_DIRECT, WAY_LIST, WAY_STAT, WAY_WRITE, WAY_STORE };

struct record {
    struct hist_op *ops;
    size_t          count, room;
};

struct runner { /* one thread */
    unsigned         index, member;
    const char      *dir;
    uint64_t         random, sequence, made;
    struct record    record[OBJECTS];
    _Atomic uint64_t progress;     /* operations begun */
    const char *_Atomic doing;
    int              cells, cells_direct, stores, stores_direct, block, block_direct, log, log_append, log_direct, tfile, tfile_direct, attr;
    int              lock_ofd, lock_flock, counter, root;
    unsigned char   *cells_map, *stores_map, *buffer; /* buffer: aligned for O_DIRECT, 2 blocks */
    int              pool[POOL];
    uint64_t         pool_inode[POOL];
    int              held[HELD_MAX]; /* created here: open until the window ends, so that no inode number is used twice in it */
    unsigned         held_count;
    uint64_t         stale; /* calls refused with ESTALE: not judged */
    uint64_t         log_seen;
};

struct run {
    unsigned         members, threads; /* threads in all */
    uint64_t         window, changer;  /* changer: the member that may truncate and store in this window */
    unsigned         changes_percent;
    bool             locks, data, names;
    uint64_t         log_base;  /* records before this window */
    _Atomic uint64_t clock_s;   /* mtimes: all different */
};
extern struct run run;

uint64_t run_now(void); /* ns */
/* The operation is in the history. Valid until the next one of this thread. */
struct hist_op *run_record(struct runner *self, unsigned object, enum hist_kind kind, uint64_t call_ns, uint64_t return_ns);
uint64_t        run_pick(struct runner *self, uint64_t bound);
uint64_t        run_tag(struct runner *self); /* never the same twice */
void            run_doing(struct runner *self, const char *what);
/* An error that no order explains. */
__attribute__((noreturn)) void run_refused(struct runner *self, const char *what);

/* ---- run_data.c ---- */
void data_make(const char *dir); /* the files, once */
void data_open(struct runner *self);
void data_step(struct runner *self, bool change);
void data_sweep(struct runner *self); /* looks at each object once */
void data_lock_step(struct runner *self);
/* Which append became which record; -1 with a line said: one is lost, torn or there twice. */
int  data_log_settle(struct runner *runners, unsigned count);
void data_log_restart(struct runner *self); /* between windows, when it has become long */

/* ---- run_names.c ---- */
extern const struct hist_object names_object[3];
void names_make(const char *dir, unsigned threads);
void names_open(struct runner *self);
void names_step(struct runner *self, bool change);
void names_sweep(struct runner *self);
void names_window_ends(struct runner *self);

/* ---- hist_self.c ---- */
int self_test(const char *seed, unsigned rounds);

#endif
