/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run_data.c - operations on contents and attributes, each recorded with its interval and its result.
 *
 *   cells      4 pages of 4 cells: written by write(), also O_DIRECT, also two cells at once; read also through mappings
 *   stores     the same, but written through a mapping with msync, or by write(), by one member in each window
 *   block      2 blocks of 2 pages, written and read whole with O_DIRECT: one that is read half old, half new is a value that nobody wrote
 *   log        records of 56 bytes, appended; a record may lie across two pages
 *   tfile      writes, truncates and holes by one member in each window
 *   attr       mtime, mode, an extended attribute: three registers
 */
#include <sys/file.h>
#include <sys/xattr.h>

#include "run.h"
#include "t.h"

enum { LOG_LONG = 100000 };
#define TORN (UINT64_MAX - 1)

static const unsigned cell_at[4] = {0, 8, 2048, 4088};

static off_t cell_off(unsigned cell)
{
    return (off_t)(cell / 4 * PAGE + cell_at[cell % 4]);
}

void data_make(const char *dir)
{
    static const struct {
        const char *name;
        off_t       size;
    } files[] = {{"cells", 4 * PAGE}, {"stores", 4 * PAGE}, {"block", BLOCKS * BLOCK_BYTES}, {"log", 0}, {"tfile", 0}, {"attr", 0},
                 {"ofd", 0},          {"flock", 0},         {"counter", PAGE}};
    for (unsigned i = 0; i < sizeof files / sizeof *files; i++) {
        int fd = t_open(dir, files[i].name, O_CREAT | O_EXCL | O_RDWR, 0600);
        T_OK(ftruncate(fd, files[i].size));
        if (!strcmp(files[i].name, "attr")) {
            struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = 0}};
            uint64_t        none = 0;
            T_OK(fsetxattr(fd, "user.tag", &none, sizeof none, 0));
            T_OK(fchmod(fd, 0));
            T_OK(futimens(fd, times));
        }
        close(fd);
    }
}

void data_open(struct runner *self)
{
    self->cells = t_open(self->dir, "cells", O_RDWR, 0);
    self->cells_direct = t_open(self->dir, "cells", O_RDWR | O_DIRECT, 0);
    self->stores = t_open(self->dir, "stores", O_RDWR, 0);
    self->stores_direct = t_open(self->dir, "stores", O_RDWR | O_DIRECT, 0);
    self->block = t_open(self->dir, "block", O_RDWR, 0);
    self->block_direct = t_open(self->dir, "block", O_RDWR | O_DIRECT, 0);
    self->log = t_open(self->dir, "log", O_RDWR, 0);
    self->log_append = t_open(self->dir, "log", O_WRONLY | O_APPEND, 0);
    self->log_direct = t_open(self->dir, "log", O_RDONLY | O_DIRECT, 0);
    self->tfile = t_open(self->dir, "tfile", O_RDWR, 0);
    self->tfile_direct = t_open(self->dir, "tfile", O_RDONLY | O_DIRECT, 0);
    self->attr = t_open(self->dir, "attr", O_RDWR, 0);
    self->lock_ofd = t_open(self->dir, "ofd", O_RDWR, 0);
    self->lock_flock = t_open(self->dir, "flock", O_RDWR, 0);
    self->counter = t_open(self->dir, "counter", O_RDWR, 0);
    struct stat st;
    T_OK(fstat(self->cells, &st)); /* a mapping ends where this kernel believes the file to end */
    T_OK(fstat(self->stores, &st));
    self->cells_map = mmap(NULL, 4 * PAGE, PROT_READ, MAP_SHARED, self->cells, 0);
    self->stores_map = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, self->stores, 0);
    self->buffer = aligned_alloc(PAGE, BLOCK_BYTES);
    T_THAT(self->cells_map != MAP_FAILED && self->stores_map != MAP_FAILED && self->buffer, "cannot map");
}

/* ---- cells ---- */
static void observed(struct runner *self, unsigned object, unsigned way, uint64_t began, uint64_t ended, uint64_t value)
{
    struct hist_op *op = run_record(self, object, HIST_READ, began, ended);
    op->a = value;
    op->way = (uint8_t)way;
}

/* By read, 1 or 2 cells; by mapping; with O_DIRECT. The second of two is the next in the file, mostly in another page. */
static void cell_read(struct runner *self, bool stores, unsigned way)
{
    unsigned object = stores ? O_STORE : O_CELL, cell = (unsigned)run_pick(self, CELLS), count = 1;
    int      fd = stores ? self->stores : self->cells;
    uint64_t value[2], began, ended;
    run_doing(self, stores ? "read of stores" : "read of cells");
    if (way == WAY_MAP) {
        const unsigned char *map = stores ? self->stores_map : self->cells_map;
        began = run_now();
        value[0] = atomic_load((_Atomic uint64_t *)(void *)(map + cell_off(cell)));
        ended = run_now();
    } else {
        if (way == WAY_DIRECT)
            fd = stores ? self->stores_direct : self->cells_direct;
        if (cell + 1 < CELLS && cell_off(cell + 1) == cell_off(cell) + 8)
            count = 1 + (unsigned)run_pick(self, 2);
        began = run_now();
        ssize_t n = pread(fd, value, 8 * count, cell_off(cell));
        ended = run_now();
        if (n != 8 * (ssize_t)count)
            run_refused(self, "read of cells");
    }
    for (unsigned i = 0; i < count; i++)
        observed(self, object + cell + i, way, began, ended, value[i]);
}

static void cell_write(struct runner *self, bool stores, bool direct)
{
    unsigned object = stores ? O_STORE : O_CELL, cell = (unsigned)run_pick(self, CELLS), count = 1;
    int      fd = stores ? self->stores : direct ? self->cells_direct : self->cells;
    uint64_t value[2] = {run_tag(self), run_tag(self)};
    run_doing(self, stores ? "write of stores" : direct ? "O_DIRECT write of cells" : "write of cells");
    if (cell + 1 < CELLS && cell_off(cell + 1) == cell_off(cell) + 8)
        count = 1 + (unsigned)run_pick(self, 2);
    uint64_t began = run_now();
    ssize_t  n = pwrite(fd, value, 8 * count, cell_off(cell));
    uint64_t ended = run_now();
    if (n != 8 * (ssize_t)count)
        run_refused(self, "write of cells");
    for (unsigned i = 0; i < count; i++) {
        struct hist_op *op = run_record(self, object + cell + i, HIST_WRITE, began, ended);
        op->a = value[i];
        op->way = direct ? WAY_DIRECT : WAY_WRITE;
    }
}

static void cell_store(struct runner *self)
{
    unsigned cell = (unsigned)run_pick(self, CELLS);
    uint64_t tag = run_tag(self);
    run_doing(self, "store and msync");
    uint64_t began = run_now();
    atomic_store((_Atomic uint64_t *)(void *)(self->stores_map + cell_off(cell)), tag);
    int      result = msync(self->stores_map + cell / 4 * PAGE, PAGE, MS_SYNC);
    uint64_t ended = run_now();
    if (result != 0)
        run_refused(self, "msync");
    struct hist_op *op = run_record(self, O_STORE + cell, HIST_WRITE, began, ended);
    op->a = tag;
    op->way = WAY_STORE;
}

/* ---- blocks ---- */
static void block_read(struct runner *self, unsigned block, bool whole)
{
    uint64_t *words = (uint64_t *)(void *)self->buffer;
    size_t    size = whole ? BLOCK_BYTES : 8;
    off_t     off = (off_t)block * BLOCK_BYTES + (whole ? 0 : (off_t)run_pick(self, BLOCK_BYTES / 8) * 8);
    run_doing(self, "read of a block");
    uint64_t began = run_now();
    ssize_t  n = pread(whole ? self->block_direct : self->block, words, size, off);
    uint64_t ended = run_now(), value = words[0];
    if (n != (ssize_t)size)
        run_refused(self, "read of a block");
    for (size_t i = 1; i < size / 8; i++)
        if (words[i] != words[0])
            value = TORN;
    observed(self, O_BLOCK + block, whole ? WAY_DIRECT : WAY_READ, began, ended, value);
}

static void block_write(struct runner *self)
{
    unsigned  block = (unsigned)run_pick(self, BLOCKS);
    uint64_t *words = (uint64_t *)(void *)self->buffer, tag = run_tag(self);
    for (size_t i = 0; i < BLOCK_BYTES / 8; i++)
        words[i] = tag;
    run_doing(self, "write of a block");
    uint64_t began = run_now();
    ssize_t  n = pwrite(self->block_direct, words, BLOCK_BYTES, (off_t)block * BLOCK_BYTES);
    uint64_t ended = run_now();
    if (n != BLOCK_BYTES)
        run_refused(self, "write of a block");
    struct hist_op *op = run_record(self, O_BLOCK + block, HIST_WRITE, began, ended);
    op->a = tag;
    op->way = WAY_DIRECT;
}

/* ---- the log ---- */
static void log_append(struct runner *self)
{
    uint64_t words[RECORD_WORDS], tag = run_tag(self);
    for (unsigned i = 0; i < RECORD_WORDS; i++)
        words[i] = tag;
    run_doing(self, "append");
    uint64_t began = run_now();
    ssize_t  n = write(self->log_append, words, RECORD_BYTES);
    uint64_t ended = run_now();
    if (n != RECORD_BYTES)
        run_refused(self, "append");
    struct hist_op *op = run_record(self, O_LOG, HIST_APPEND, began, ended);
    op->a = tag;
    op->b = UINT64_MAX; /* data_log_settle() finds it */
}

static void log_count(struct runner *self, bool seek)
{
    struct stat st = {0};
    run_doing(self, "size of the log");
    uint64_t began = run_now();
    int      result = 0;
    if (seek)
        result = (st.st_size = lseek(self->log, 0, SEEK_END)) < 0 ? -1 : 0;
    else
        result = fstat(self->log, &st);
    uint64_t ended = run_now();
    if (result != 0)
        run_refused(self, "size of the log");
    struct hist_op *op = run_record(self, O_LOG, HIST_COUNT, began, ended);
    op->a = st.st_size % RECORD_BYTES ? TORN : (uint64_t)st.st_size / RECORD_BYTES;
    op->way = seek ? WAY_NONE : WAY_STAT;
    if (op->a != TORN)
        self->log_seen = op->a;
}

static void log_get(struct runner *self)
{
    uint64_t words[RECORD_WORDS] = {0}, record = self->log_seen + 2;
    record -= run_pick(self, 6) % (record + 1);
    run_doing(self, "read of a record");
    uint64_t began = run_now();
    ssize_t  n = pread(self->log_direct, words, RECORD_BYTES, (off_t)(record * RECORD_BYTES));
    uint64_t ended = run_now();
    if (n < 0)
        run_refused(self, "read of a record");
    struct hist_op *op = run_record(self, O_LOG, HIST_GET, began, ended);
    op->a = n == RECORD_BYTES ? words[0] : n ? TORN : 0;
    for (unsigned i = 1; i < RECORD_WORDS; i++)
        if (n == RECORD_BYTES && words[i] != words[0])
            op->a = TORN;
    op->b = record;
    op->way = WAY_DIRECT;
}

static int log_place(struct runner *runners, unsigned count, uint64_t record, uint64_t tag)
{
    for (unsigned i = 0; i < count; i++) {
        struct record *log = &runners[i].record[O_LOG];
        for (size_t j = 0; tag >> 40 == runners[i].index + 1 && j < log->count; j++) {
            if (log->ops[j].kind != HIST_APPEND || log->ops[j].a != tag)
                continue;
            if (log->ops[j].b != UINT64_MAX)
                printf("VIOLATION: log: append %llx is there twice, as record %llu and %llu\n", (unsigned long long)tag,
                       (unsigned long long)log->ops[j].b, (unsigned long long)record);
            bool once = log->ops[j].b == UINT64_MAX;
            log->ops[j].b = record;
            return once ? 0 : -1;
        }
    }
    printf("VIOLATION: log: record %llu is %llx, which nobody has appended in this window\n", (unsigned long long)record, (unsigned long long)tag);
    return -1;
}

static uint64_t log_order[LOG_LONG * 2]; /* the tag of each record */

/* What was read of a record must be what the file has there now: records never change. */
static int log_compare(const struct hist_op *op)
{
    if (op->kind != HIST_GET || !op->a || (op->b < run.log_base && op->a == log_order[op->b]))
        return 0;
    printf("VIOLATION: log: member %c read %llx as record %llu, which is %llx\n", 'A' + (char)op->member, (unsigned long long)op->a,
           (unsigned long long)op->b, (unsigned long long)(op->b < run.log_base ? log_order[op->b] : 0));
    return -1;
}

int data_log_settle(struct runner *runners, unsigned count)
{
    uint64_t words[RECORD_WORDS], record = run.log_base;
    int      result = 0;
    for (;; record++) {
        size_t n = t_pread(runners[0].log, words, RECORD_BYTES, record * RECORD_BYTES);
        if (n == 0)
            break;
        for (unsigned i = 1; i < RECORD_WORDS; i++)
            if (n != RECORD_BYTES || words[i] != words[0]) {
                printf("VIOLATION: log: record %llu is torn\n", (unsigned long long)record);
                return -1;
            }
        T_THAT(record < LOG_LONG * 2, "the log is too long for one window");
        log_order[record] = words[0];
        result |= log_place(runners, count, record, words[0]);
    }
    run.log_base = record;
    for (unsigned i = 0; i < count; i++) {
        for (size_t j = 0; j < runners[i].record[O_LOG].count; j++) {
            struct hist_op *op = &runners[i].record[O_LOG].ops[j];
            result |= log_compare(op);
            if (op->kind != HIST_APPEND || op->b != UINT64_MAX)
                continue;
            printf("VIOLATION: log: append %llx by member %c is lost\n", (unsigned long long)op->a, 'A' + (char)op->member);
            result = -1;
        }
    }
    return result;
}

void data_log_restart(struct runner *self)
{
    if (run.log_base < LOG_LONG)
        return;
    T_OK(ftruncate(self->log, 0));
    run.log_base = 0;
}

/* ---- the file that is truncated ---- */
static void tfile_change(struct runner *self)
{
    unsigned       what = (unsigned)run_pick(self, 4), cell = (unsigned)run_pick(self, 4);
    enum hist_kind kind = what == 0 ? HIST_T_RESIZE : what == 1 ? HIST_T_PUNCH : HIST_T_WRITE;
    uint64_t       value = what == 0 ? run_pick(self, 5) * PAGE : what == 1 ? 0 : run_tag(self);
    run_doing(self, what == 0 ? "truncate" : what == 1 ? "punch hole" : "write");
    uint64_t began = run_now();
    int      result;
    if (what == 0)
        result = ftruncate(self->tfile, (off_t)value);
    else if (what == 1)
        result = fallocate(self->tfile, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)cell * PAGE, PAGE);
    else
        result = pwrite(self->tfile, &value, 8, (off_t)cell * PAGE) == 8 ? 0 : -1;
    uint64_t ended = run_now();
    if (result != 0)
        run_refused(self, "change of tfile");
    struct hist_op *op = run_record(self, O_TFILE, kind, began, ended);
    op->a = value;
    op->x = (uint8_t)cell;
}

static void tfile_look(struct runner *self, unsigned cell, bool size)
{
    struct stat st;
    uint64_t    value = 0;
    bool        direct = run_pick(self, 2);
    run_doing(self, "look at tfile");
    uint64_t began = run_now();
    ssize_t  n = size ? fstat(self->tfile, &st) : pread(direct ? self->tfile_direct : self->tfile, &value, 8, (off_t)cell * PAGE);
    uint64_t ended = run_now();
    if (n < 0)
        run_refused(self, "look at tfile");
    struct hist_op *op = run_record(self, O_TFILE, size ? HIST_T_SIZE : HIST_T_READ, began, ended);
    op->a = size ? (uint64_t)st.st_size : n == 0 || n == 8 ? value : TORN;
    op->err = !size && n == 0;
    op->way = size ? WAY_STAT : direct ? WAY_DIRECT : WAY_READ;
    op->x = (uint8_t)cell;
}

/* ---- attributes ---- */
static void attr_change(struct runner *self)
{
    unsigned        what = (unsigned)run_pick(self, 3);
    uint64_t        value = what == 0 ? atomic_fetch_add(&run.clock_s, 1) : what == 1 ? run_pick(self, 01000) : run_tag(self);
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = (time_t)value, .tv_nsec = 7}};
    run_doing(self, what == 0 ? "utimens" : what == 1 ? "chmod" : "setxattr");
    uint64_t began = run_now();
    int      result = what == 0   ? futimens(self->attr, times)
                      : what == 1 ? fchmod(self->attr, (mode_t)value)
                                  : fsetxattr(self->attr, "user.tag", &value, sizeof value, 0);
    uint64_t ended = run_now();
    if (result != 0)
        run_refused(self, "change of attributes");
    run_record(self, O_MTIME + what, HIST_WRITE, began, ended)->a = value;
}

static void attr_look(struct runner *self, bool xattr)
{
    struct stat st;
    uint64_t    value = 0;
    run_doing(self, xattr ? "getxattr" : "fstat");
    uint64_t began = run_now();
    ssize_t  n = xattr ? fgetxattr(self->attr, "user.tag", &value, sizeof value) : fstat(self->attr, &st);
    uint64_t ended = run_now();
    if (n < 0)
        run_refused(self, "look at attributes");
    if (xattr) {
        observed(self, O_XATTR, WAY_NONE, began, ended, value);
        return;
    }
    observed(self, O_MTIME, WAY_STAT, began, ended, (uint64_t)st.st_mtim.tv_sec);
    observed(self, O_MODE, WAY_STAT, began, ended, st.st_mode & 07777);
}

/* ---- locks ---- */
static int lock_call(struct runner *self, bool ofd, bool take)
{
    struct flock range = {.l_type = take ? F_WRLCK : F_UNLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 100};
    return ofd ? fcntl(self->lock_ofd, take ? F_OFD_SETLKW : F_OFD_SETLK, &range) : flock(self->lock_flock, take ? LOCK_EX : LOCK_UN);
}

void data_lock_step(struct runner *self)
{
    bool     ofd = run_pick(self, 2);
    unsigned object = ofd ? O_LOCK_OFD : O_LOCK_FLOCK, counter = O_COUNTER + ofd;
    uint64_t value = 0, next = run_tag(self);
    run_doing(self, ofd ? "lock (OFD)" : "lock (flock)");
    uint64_t began = run_now();
    int      result = lock_call(self, ofd, true);
    uint64_t locked = run_now();
    if (result != 0)
        run_refused(self, "lock");
    run_record(self, object, HIST_ACQUIRE, began, locked)->a = self->index + 1;
    if (pread(self->counter, &value, 8, ofd * 8) != 8 || pwrite(self->counter, &next, 8, ofd * 8) != 8)
        run_refused(self, "counter");
    uint64_t       written = run_now();
    struct hist_op *op = run_record(self, counter, HIST_SWAP, locked, written);
    op->a = value;
    op->b = next;
    began = run_now();
    result = lock_call(self, ofd, false);
    uint64_t ended = run_now();
    if (result != 0)
        run_refused(self, "unlock");
    run_record(self, object, HIST_RELEASE, began, ended)->a = self->index + 1;
}

/* ---- choice ---- */
static void data_change(struct runner *self)
{
    bool may = self->member == run.changer;
    switch (run_pick(self, 8)) {
    case 0:
    case 1:
        cell_write(self, false, false);
        break;
    case 2:
        cell_write(self, false, true);
        break;
    case 3:
        log_append(self);
        break;
    case 4:
        attr_change(self);
        break;
    case 5:
        if (may)
            tfile_change(self);
        else
            block_write(self);
        break;
    case 6:
        if (may)
            cell_write(self, true, false);
        else
            log_append(self);
        break;
    default:
        if (may)
            cell_store(self);
        else
            cell_write(self, false, false);
    }
}

void data_step(struct runner *self, bool change)
{
    if (change) {
        data_change(self);
        return;
    }
    switch (run_pick(self, 16)) {
    case 0:
        block_read(self, (unsigned)run_pick(self, BLOCKS), true);
        break;
    case 1:
        block_read(self, (unsigned)run_pick(self, BLOCKS), false);
        break;
    case 2:
        log_count(self, run_pick(self, 4) == 0);
        break;
    case 3:
        log_get(self);
        break;
    case 4:
    case 5:
        tfile_look(self, (unsigned)run_pick(self, 4), run_pick(self, 2));
        break;
    case 6:
        attr_look(self, run_pick(self, 8) == 0);
        break;
    case 7:
        cell_read(self, run_pick(self, 2), run_pick(self, 4) ? WAY_READ : WAY_DIRECT);
        break;
    case 8:
    case 9:
    case 10:
    case 11:
        cell_read(self, run_pick(self, 2), WAY_MAP);
        break;
    default:
        cell_read(self, run_pick(self, 2), WAY_READ);
    }
}

void data_sweep(struct runner *self)
{
    uint64_t value;
    run_doing(self, "a look at everything");
    for (unsigned cell = 0; cell < 2 * CELLS; cell++) {
        uint64_t began = run_now();
        ssize_t  n = pread(cell < CELLS ? self->cells : self->stores, &value, 8, cell_off(cell % CELLS));
        if (n != 8)
            run_refused(self, "read of cells");
        observed(self, O_CELL + cell, WAY_READ, began, run_now(), value);
    }
    for (unsigned block = 0; block < BLOCKS; block++) {
        block_read(self, block, true);
        block_read(self, block, false);
    }
    for (unsigned cell = 0; cell < 4; cell++)
        tfile_look(self, cell, cell == 0);
    tfile_look(self, 0, false);
    log_count(self, false);
    log_get(self);
    attr_look(self, false);
    attr_look(self, true);
}
