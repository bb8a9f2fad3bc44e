/* SPDX-License-Identifier: Apache-2.0 */
/*
 * random_ops SEED OPS ORIGIN_FILE DIR DIR...: random operations on one file, each through a mount that is picked at random, compared with a model in memory
 * after each.
 *
 * One operation at a time, so there is one right answer. After each, the data around it and the size are looked at through another mount than the one that
 * has just worked (read, mapping or O_DIRECT in turn); every FULL_EVERY operations the whole file, through all mounts. What several members do at the same
 * moment is judged in tests/coherence.
 *
 * What only the mapping of one member has seen is not promised to others before msync or munmap, or before another member changes that page. So a
 * store is followed by one of these within its operation: msync, munmap, a write on the same member and then msync, or a write to the same page on another.
 *
 * The operations run in a process of their own, which shares its log with the one that watches; that one prints the log when nothing moves for STUCK_S.
 */
#include <dirent.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

#include "t.h"

enum {
    PAGE = 4096,
    FILE_MAX = 128 * PAGE,
    MOUNTS_MAX = 8,
    FULL_EVERY = 400,
    LOG_LINES = 40,
    LOG_WIDTH = 160,
    STUCK_S = 180,
    AROUND = 64
};

struct mount {
    const char *dir;
    char        path[4096];
    int         fd, append_fd, direct_fd;
    uint8_t    *map; /* FILE_MAX bytes, for as long as the mount is used */
};

struct watched { /* seen by the watching process, too */
    _Atomic uint64_t ops;
    _Atomic int      finished;
    uint64_t         reads, changes, skipped;
    char             log[LOG_LINES][LOG_WIDTH];
};

static struct watched *watched;
static struct mount    mounts[MOUNTS_MAX];
static unsigned        mount_count;
static const char     *origin_path;
static uint64_t        seed_state;
static uint8_t        *model, *scratch, *fresh; /* model: FILE_MAX bytes, zero beyond the size */
static uint64_t        model_size;
static uint64_t        touched_from, touched_to; /* by the operation that is being carried out */
static bool            can_shift, can_zero;

static uint64_t pick(uint64_t bound)
{
    return bound ? (t_random(&seed_state) >> 16) % bound : 0;
}

static char *log_line(uint64_t n)
{
    return watched->log[n % LOG_LINES];
}

__attribute__((format(printf, 1, 2))) static void note(const char *format, ...)
{
    char   *line = log_line(watched->ops);
    size_t  used = strnlen(line, LOG_WIDTH - 1);
    va_list args;
    va_start(args, format);
    vsnprintf(line + used, LOG_WIDTH - used, format, args);
    va_end(args);
}

static void print_log(void)
{
    uint64_t last = watched->ops;
    for (uint64_t n = last >= LOG_LINES ? last - LOG_LINES + 1 : 0; n <= last; n++)
        fprintf(stderr, "  %llu: %s\n", (unsigned long long)n, log_line(n));
}

/* ---- comparing ---- */
static const char *verdict(const char *path, uint64_t off, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return "cannot be opened";
    struct stat st;
    bool        right = fstat(fd, &st) == 0 && (uint64_t)st.st_size == model_size;
    ssize_t     n = pread(fd, fresh, size, (off_t)off);
    uint64_t    want = off >= model_size ? 0 : model_size - off < size ? model_size - off : size;
    close(fd);
    if (!right)
        return "wrong size";
    return n == (ssize_t)want && memcmp(fresh, model + off, want) == 0 ? "right" : "wrong data";
}

__attribute__((noreturn)) static void differs(const struct mount *at, const char *how, const uint8_t *got, uint64_t off, size_t size)
{
    size_t first = 0, last = size;
    while (first < size && got[first] == model[off + first])
        first++;
    while (last > first && got[last - 1] == model[off + last - 1])
        last--;
    fprintf(stderr, "DIFFERENT: %s by %s: bytes %llu to %llu (page %llu), got %02x, the model has %02x; model size %llu\n", at->dir, how,
            (unsigned long long)(off + first), (unsigned long long)(off + last), (unsigned long long)(off + first) / PAGE,
            first < size ? got[first] : 0, first < size ? model[off + first] : 0, (unsigned long long)model_size);
    for (unsigned i = 0; i < mount_count; i++)
        fprintf(stderr, "  a new read on %s: %s\n", mounts[i].dir, verdict(mounts[i].path, off, size));
    fprintf(stderr, "  the origin: %s\n", verdict(origin_path, off, size));
    print_log();
    t_die("operation %llu", (unsigned long long)watched->ops);
}

__attribute__((noreturn)) static void refused(const struct mount *at, const char *what)
{
    fprintf(stderr, "%s on %s: %s\n", what, at->dir, strerror(errno));
    print_log();
    t_die("operation %llu", (unsigned long long)watched->ops);
}

static void compare(const struct mount *at, const char *how, const uint8_t *got, uint64_t off, size_t size)
{
    if (memcmp(got, model + off, size) != 0)
        differs(at, how, got, off, size);
}

static void check_size(const struct mount *at)
{
    struct stat st, by_name;
    if (fstat(at->fd, &st) != 0 || stat(at->path, &by_name) != 0)
        refused(at, "stat");
    if ((uint64_t)st.st_size == model_size && by_name.st_size == st.st_size)
        return;
    fprintf(stderr, "DIFFERENT: %s: size %lld by fstat, %lld by stat, the model has %llu\n", at->dir, (long long)st.st_size,
            (long long)by_name.st_size, (unsigned long long)model_size);
    for (unsigned i = 0; i < mount_count; i++)
        fprintf(stderr, "  %s: %s\n", mounts[i].dir, verdict(mounts[i].path, 0, 0));
    fprintf(stderr, "  the origin: %s\n", verdict(origin_path, 0, 0));
    print_log();
    t_die("operation %llu", (unsigned long long)watched->ops);
}

/* All ways of reading agree with the model, also about where the file ends. */
static void check_read(const struct mount *at, int fd, const char *how, uint64_t off, size_t size)
{
    ssize_t  n = pread(fd, scratch, size, (off_t)off);
    uint64_t want = off >= model_size ? 0 : model_size - off < size ? model_size - off : size;
    if (n < 0)
        refused(at, how);
    if ((uint64_t)n != want) {
        fprintf(stderr, "%s by %s: %zd bytes of %zu at %llu, the model has %llu\n", at->dir, how, n, size, (unsigned long long)off,
                (unsigned long long)want);
        check_size(at);
        differs(at, how, scratch, off, n > 0 ? (size_t)n : 0);
    }
    compare(at, how, scratch, off, want);
}

/* To the end of the last page: what lies behind the end of the file is zero, as it is in the model. */
static void check_map(const struct mount *at, const uint8_t *map, const char *how, uint64_t off, size_t size)
{
    uint64_t end = (model_size + PAGE - 1) / PAGE * PAGE;
    if (off >= end)
        return;
    if (size > end - off)
        size = (size_t)(end - off);
    memcpy(scratch, map + off, size); /* once: what is reported is what was seen */
    compare(at, how, scratch, off, size);
}

/* Neither a fault nor a splice asks how long the file is: for them it ends where it ended when this kernel last asked, so have it ask (hearthfs-coherence(7)). */
static void learn_size(const struct mount *at)
{
    struct stat st;
    if (fstat(at->fd, &st) != 0)
        refused(at, "fstat");
}

static void check_range(const struct mount *at, unsigned how, uint64_t off, size_t size)
{
    if (how == 0) {
        learn_size(at);
        check_map(at, at->map, "mapping", off, size);
    } else if (how == 1)
        check_read(at, at->direct_fd, "O_DIRECT read", off, size);
    else
        check_read(at, at->fd, "read", off, size);
}

static void check_all(void)
{
    for (unsigned i = 0; i < mount_count; i++) {
        check_size(&mounts[i]);
        for (unsigned how = 0; how < 3; how++)
            check_range(&mounts[i], how, 0, FILE_MAX);
    }
}

/* ---- the model ---- */
static void touch(uint64_t from, uint64_t to)
{
    touched_from = from < touched_from ? from : touched_from;
    touched_to = to > touched_to ? to : touched_to;
}

static void model_write(uint64_t off, const uint8_t *data, size_t size)
{
    memcpy(model + off, data, size);
    if (off + size > model_size)
        model_size = off + size;
    touch(off, off + size);
}

static void model_resize(uint64_t size)
{
    touch(size < model_size ? size : model_size, size < model_size ? model_size : size);
    if (size < model_size)
        memset(model + size, 0, model_size - size);
    model_size = size;
}

static void model_zero(uint64_t off, uint64_t size, bool grows)
{
    uint64_t end = off + size;
    if (grows && end > model_size)
        model_resize(end);
    if (off < model_size)
        memset(model + off, 0, (end < model_size ? end : model_size) - off);
    touch(off, end);
}

/* ---- operations ---- */
struct range {
    uint64_t off;
    size_t   size;
};

static size_t any_length(void)
{
    switch (pick(8)) {
    case 0:
        return 1 + pick(8);
    case 1:
        return PAGE * (1 + pick(4));
    case 2:
        return 1 + pick(100000);
    default:
        return 1 + pick(6000);
    }
}

static struct range any_range(uint64_t bound)
{
    struct range range = {.size = any_length()};
    if (range.size > bound)
        range.size = bound;
    range.off = pick(bound - range.size + 1);
    if (pick(4) == 0)
        range.off = range.off / PAGE * PAGE;
    return range;
}

static void do_read(struct mount *at)
{
    struct range range = any_range(FILE_MAX);
    unsigned     how = (unsigned)pick(4);
    note("read %llu+%zu, way %u", (unsigned long long)range.off, range.size, how);
    check_range(at, how, range.off, range.size);
}

static void write_at(struct mount *at, int fd, const char *what, struct range range)
{
    t_random_fill(&seed_state, fresh, range.size);
    note("%s %llu+%zu ", what, (unsigned long long)range.off, range.size);
    ssize_t n = pwrite(fd, fresh, range.size, (off_t)range.off);
    if (n != (ssize_t)range.size)
        refused(at, what);
    model_write(range.off, fresh, range.size);
}

static void do_write(struct mount *at)
{
    uint64_t bound = pick(3) ? model_size + PAGE * 3 : FILE_MAX;
    write_at(at, at->fd, "write", any_range(bound < FILE_MAX ? bound : FILE_MAX));
}

static void do_direct_write(struct mount *at)
{
    struct range range = any_range(FILE_MAX);
    if (pick(2)) {
        range.off = range.off / PAGE * PAGE;
        range.size = (range.size + PAGE - 1) / PAGE * PAGE;
        if (range.off + range.size > FILE_MAX)
            range.off = FILE_MAX - range.size;
    }
    write_at(at, at->direct_fd, "O_DIRECT write", range);
}

static void do_append(struct mount *at)
{
    size_t size = any_length() % 20000 + 1;
    if (model_size + size > FILE_MAX) {
        note("append: full");
        return;
    }
    t_random_fill(&seed_state, fresh, size);
    note("append %zu at %llu", size, (unsigned long long)model_size);
    if (write(at->append_fd, fresh, size) != (ssize_t)size)
        refused(at, "append");
    model_write(model_size, fresh, size);
}

static void do_truncate(struct mount *at)
{
    uint64_t size = pick(3) == 0 ? pick(FILE_MAX + 1) : pick(2) ? pick(model_size + 1) : model_size + pick(3 * PAGE);
    if (pick(4) == 0)
        size = size / PAGE * PAGE;
    if (size > FILE_MAX)
        size = FILE_MAX;
    bool by_name = pick(3) == 0;
    note("%s %llu (was %llu)", by_name ? "truncate" : "ftruncate", (unsigned long long)size, (unsigned long long)model_size);
    if ((by_name ? truncate(at->path, (off_t)size) : ftruncate(at->fd, (off_t)size)) != 0)
        refused(at, "truncate");
    model_resize(size);
}

static void do_fallocate(struct mount *at)
{
    static const struct {
        int         mode;
        const char *name;
    } modes[] = {
        {0, "reserve"},
        {FALLOC_FL_KEEP_SIZE, "reserve, keep size"},
        {FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, "punch hole"},
        {FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, "punch hole"},
        {FALLOC_FL_ZERO_RANGE, "zero range"},
        {FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, "zero range, keep size"},
    };
    unsigned     which = (unsigned)pick(can_zero ? 6 : 4);
    int          mode = modes[which].mode;
    struct range range = any_range(FILE_MAX);
    note("%s %llu+%zu", modes[which].name, (unsigned long long)range.off, range.size);
    if (fallocate(at->fd, mode, (off_t)range.off, (off_t)range.size) != 0)
        refused(at, "fallocate");
    if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
        model_zero(range.off, range.size, !(mode & FALLOC_FL_KEEP_SIZE));
    else if (!mode && range.off + range.size > model_size)
        model_resize(range.off + range.size);
}

/* Whole pages go out of the file, or into it. */
static void do_shift(struct mount *at)
{
    uint64_t pages = model_size / PAGE, at_page = pick(pages), size = PAGE * (1 + pick(8)), off = at_page * PAGE;
    bool     collapse = pick(2);
    if (!can_shift || pages < 2 || (collapse ? off + size >= model_size : model_size + size > FILE_MAX || off >= model_size)) {
        note("shift: not now");
        watched->skipped++;
        return;
    }
    note("%s %llu+%llu", collapse ? "collapse" : "insert", (unsigned long long)off, (unsigned long long)size);
    if (fallocate(at->fd, collapse ? FALLOC_FL_COLLAPSE_RANGE : FALLOC_FL_INSERT_RANGE, (off_t)off, (off_t)size) != 0)
        refused(at, "shift");
    touch(off, FILE_MAX);
    if (collapse) {
        memmove(model + off, model + off + size, model_size - off - size);
        model_resize(model_size - size);
    } else {
        memmove(model + off + size, model + off, model_size - off);
        memset(model + off, 0, size);
        model_size += size;
    }
}

/* Within the file, without overlap; also from one mount to another. */
static void do_copy(struct mount *at)
{
    struct range  range = any_range(model_size / 2);
    struct mount *to = pick(3) ? at : &mounts[pick(mount_count)];
    loff_t        from_off = (loff_t)range.off, to_off = (loff_t)pick(FILE_MAX - range.size + 1);
    if (pick(2)) {
        from_off = from_off / PAGE * PAGE;
        to_off = to_off / PAGE * PAGE;
    }
    if (!range.size || (from_off < to_off ? from_off + (loff_t)range.size > to_off : to_off + (loff_t)range.size > from_off)) {
        note("copy: would overlap");
        watched->skipped++;
        return;
    }
    note("copy %lld to %lld+%zu on %s", (long long)from_off, (long long)to_off, range.size, to->dir);
    memcpy(fresh, model + from_off, range.size);
    learn_size(at);
    uint64_t begin = (uint64_t)to_off;
    for (size_t done = 0; done < range.size;) {
        ssize_t n = copy_file_range(at->fd, &from_off, to->fd, &to_off, range.size - done, 0);
        if (n < 0 && errno == EXDEV && to != at) {
            to = at; /* the kernel does not copy between mounts: everything on one */
            continue;
        }
        if (n <= 0)
            refused(at, "copy_file_range");
        done += (size_t)n;
    }
    model_write(begin, fresh, range.size);
}

/* ---- mappings ---- */
static void sync_pages(struct mount *at, uint8_t *map, struct range range)
{
    uint64_t first = range.off / PAGE * PAGE;
    if (msync(map + first, range.off + range.size - first, MS_SYNC) != 0)
        refused(at, "msync");
}

static void store(const struct mount *at, uint8_t *map, struct range range)
{
    learn_size(at);
    t_random_fill(&seed_state, fresh, range.size);
    memcpy(map + range.off, fresh, range.size);
    model_write(range.off, fresh, range.size);
}

static void do_store(struct mount *at)
{
    struct range range = any_range(model_size);
    if (!range.size) {
        note("store: empty file");
        return;
    }
    if (pick(3) == 0) {
        note("store %llu+%zu in a mapping of its own, munmap", (unsigned long long)range.off, range.size);
        uint8_t *map = mmap(NULL, FILE_MAX, PROT_READ | PROT_WRITE, MAP_SHARED, pick(2) ? at->fd : at->direct_fd, 0);
        if (map == MAP_FAILED)
            refused(at, "mmap");
        store(at, map, range);
        T_OK(munmap(map, FILE_MAX));
        return;
    }
    note("store %llu+%zu, ", (unsigned long long)range.off, range.size);
    store(at, at->map, range);
    if (pick(3) == 0) { /* a write of one's own over a dirty page */
        struct range over = range;
        over.off += pick(range.size);
        over.size = 1 + pick(range.size - (over.off - range.off));
        write_at(at, at->fd, "then write", over);
    }
    note("msync");
    sync_pages(at, at->map, range);
}

/* A store that nobody syncs, then a change of the same page by another member, which has to take it in. */
static void do_store_and_recall(struct mount *at)
{
    struct mount *other = &mounts[pick(mount_count)];
    struct range  range = any_range(model_size);
    if (!range.size || other == at) {
        note("store and recall: not now");
        return;
    }
    uint64_t page_end = (range.off / PAGE + 1) * PAGE;
    if (range.off + range.size > page_end)
        range.size = page_end - range.off;
    note("store %llu+%zu, then on %s: ", (unsigned long long)range.off, range.size, other->dir);
    store(at, at->map, range);
    struct range over = {.off = range.off / PAGE * PAGE + pick(PAGE / 2), .size = 1 + pick(PAGE / 2)};
    if (pick(4) == 0) {
        note("punch hole %llu+%zu", (unsigned long long)over.off, over.size);
        if (fallocate(other->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)over.off, (off_t)over.size) != 0)
            refused(other, "punch hole");
        model_zero(over.off, over.size, false);
        return;
    }
    write_at(other, pick(3) ? other->fd : other->direct_fd, "write", over);
}

static void do_private_map(struct mount *at)
{
    struct range range = any_range(FILE_MAX);
    note("private mapping %llu+%zu", (unsigned long long)range.off, range.size);
    uint8_t *map = mmap(NULL, FILE_MAX, PROT_READ | PROT_WRITE, MAP_PRIVATE, pick(2) ? at->fd : at->direct_fd, 0);
    if (map == MAP_FAILED)
        refused(at, "mmap");
    learn_size(at);
    check_map(at, map, "private mapping", range.off, range.size);
    if (range.off < model_size)
        map[range.off] ^= 0xff; /* nobody else may see it */
    touch(range.off, range.off + 1);
    T_OK(munmap(map, FILE_MAX));
}

/* ---- the rest ---- */
static void do_sync(struct mount *at)
{
    note("fsync");
    if ((pick(2) ? fsync(at->fd) : fdatasync(at->fd)) != 0)
        refused(at, "fsync");
}

static void do_forget_pages(struct mount *at)
{
    note("drop clean pages");
    posix_fadvise(at->fd, 0, 0, POSIX_FADV_DONTNEED);
}

/* Where the file says there is a hole, the model has zeros. */
static void do_seek(struct mount *at)
{
    uint64_t off = pick(model_size + 1);
    note("SEEK_DATA %llu", (unsigned long long)off);
    off_t data = lseek(at->fd, (off_t)off, SEEK_DATA);
    if (data < 0 && errno != ENXIO)
        refused(at, "SEEK_DATA");
    uint64_t end = data < 0 ? model_size : (uint64_t)data;
    if (end > model_size)
        t_die("SEEK_DATA %llu on %s: %llu, behind the end at %llu", (unsigned long long)off, at->dir, (unsigned long long)end,
              (unsigned long long)model_size);
    memset(scratch, 0, FILE_MAX);
    if (off < end)
        compare(at, "SEEK_DATA (there is no data)", scratch, off, end - off);
}

static void open_all(struct mount *at)
{
    at->fd = open(at->path, O_RDWR | O_CLOEXEC);
    at->append_fd = open(at->path, O_WRONLY | O_APPEND | O_CLOEXEC);
    at->direct_fd = open(at->path, O_RDWR | O_DIRECT | O_CLOEXEC);
    if (at->fd < 0 || at->append_fd < 0 || at->direct_fd < 0)
        refused(at, "open");
    at->map = mmap(NULL, FILE_MAX, PROT_READ | PROT_WRITE, MAP_SHARED, at->fd, 0);
    if (at->map == MAP_FAILED)
        refused(at, "mmap");
}

static void do_reopen(struct mount *at)
{
    note("open again");
    munmap(at->map, FILE_MAX);
    close(at->fd);
    close(at->append_fd);
    close(at->direct_fd);
    open_all(at);
}

static const struct {
    void (*run)(struct mount *at);
    unsigned weight;
    bool     changes;
} operations[] = {
    {do_read, 22, false},        {do_write, 18, true},  {do_direct_write, 8, true},
    {do_append, 6, true},        {do_truncate, 9, true}, {do_fallocate, 8, true},
    {do_shift, 2, true},         {do_copy, 6, true},    {do_store, 12, true},
    {do_store_and_recall, 6, true}, {do_private_map, 3, false}, {do_sync, 2, false},
    {do_forget_pages, 2, false}, {do_seek, 2, false},   {do_reopen, 1, false},
};

static void run_one(void)
{
    struct mount *at = &mounts[pick(mount_count)];
    unsigned      total = 0, which = 0;
    for (unsigned i = 0; i < sizeof operations / sizeof *operations; i++)
        total += operations[i].weight;
    for (uint64_t left = pick(total); left >= operations[which].weight; which++)
        left -= operations[which].weight;
    log_line(watched->ops)[0] = 0;
    note("%s: ", at->dir);
    touched_from = UINT64_MAX;
    touched_to = 0;
    operations[which].run(at);

    struct mount *other = &mounts[(at - mounts + 1 + pick(mount_count - 1)) % mount_count];
    *(operations[which].changes ? &watched->changes : &watched->reads) += 1;
    check_size(other);
    if (touched_to > touched_from) {
        uint64_t from = touched_from > AROUND ? touched_from - AROUND : 0;
        uint64_t to = touched_to + AROUND < FILE_MAX ? touched_to + AROUND : FILE_MAX;
        check_range(other, (unsigned)pick(4), from, to > from ? (size_t)(to - from) : 0);
    }
    if (watched->ops % FULL_EVERY == FULL_EVERY - 1)
        check_all();
}

static void on_bus_error(int signal)
{
    static const char text[] = "SIGBUS: a page inside the file cannot be had\n";
    (void)signal;
    (void)!write(2, text, sizeof text - 1);
    print_log();
    _exit(1);
}

static void probe(void)
{
    int fd = mounts[0].fd;
    T_OK(ftruncate(fd, 4 * PAGE));
    can_zero = fallocate(fd, FALLOC_FL_ZERO_RANGE, 0, PAGE) == 0;
    can_shift = fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, 0, PAGE) == 0 && fallocate(fd, FALLOC_FL_INSERT_RANGE, 0, PAGE) == 0;
    T_OK(ftruncate(fd, 0));
    printf("zero range: %s; collapse and insert: %s\n", can_zero ? "yes" : "no", can_shift ? "yes" : "no (the kernel's FUSE has them not)");
    fflush(stdout);
}

static void run_all(uint64_t count)
{
    signal(SIGBUS, on_bus_error);
    model = calloc(1, FILE_MAX + PAGE);
    scratch = aligned_alloc(PAGE, FILE_MAX + PAGE); /* O_DIRECT */
    fresh = aligned_alloc(PAGE, FILE_MAX + PAGE);
    T_THAT(model && scratch && fresh, "no memory");
    close(t_open(mounts[0].dir, "random", O_CREAT | O_EXCL | O_RDWR, 0644));
    for (unsigned i = 0; i < mount_count; i++)
        open_all(&mounts[i]);
    probe();
    for (uint64_t i = 0; i < count; i++) {
        run_one();
        watched->ops++;
    }
    check_all();
    T_THAT(!strcmp(verdict(origin_path, 0, FILE_MAX), "right"), "the origin: %s", verdict(origin_path, 0, FILE_MAX));
    watched->finished = 1;
    exit(0);
}

/* The parent: says what was under way when nothing moves any more. */
static int watch(pid_t child)
{
    uint64_t seen = 0;
    int      status = 0;
    for (unsigned still_s = 0;; still_s++) {
        struct timespec second = {.tv_sec = 1};
        for (unsigned i = 0; i < 10; i++) {
            if (waitpid(child, &status, WNOHANG) == child)
                return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
            nanosleep(&(struct timespec){.tv_nsec = second.tv_sec * 100000000}, NULL);
        }
        if (watched->ops != seen)
            still_s = 0;
        seen = watched->ops;
        if (still_s >= STUCK_S) {
            fprintf(stderr, "STUCK: nothing moves for %d s\n", STUCK_S);
            print_log();
            kill(child, SIGKILL);
            return 2;
        }
    }
}

int main(int argc, char **argv)
{
    struct timespec began, ended;
    T_THAT(argc >= 6, "usage: random_ops SEED OPS ORIGIN_FILE DIR DIR...");
    origin_path = argv[3];
    for (int i = 4; i < argc && mount_count < MOUNTS_MAX; i++, mount_count++) {
        mounts[mount_count].dir = argv[i];
        t_path(mounts[mount_count].path, sizeof mounts[0].path, argv[i], "random");
    }
    seed_state = t_seed(argv[1], 0);
    watched = mmap(NULL, sizeof *watched, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    T_THAT(watched != MAP_FAILED, "no memory");
    clock_gettime(CLOCK_MONOTONIC, &began);
    pid_t child = T_OK(fork());
    if (child == 0)
        run_all(strtoull(argv[2], NULL, 0));
    int result = watch(child);
    clock_gettime(CLOCK_MONOTONIC, &ended);
    double seconds = (double)(ended.tv_sec - began.tv_sec) + (double)(ended.tv_nsec - began.tv_nsec) / 1e9;
    printf("%llu operations (%llu changes, %llu others, %llu not possible when drawn) in %.0f s, %.0f each second, seed %s\n",
           (unsigned long long)watched->ops, (unsigned long long)watched->changes, (unsigned long long)watched->reads,
           (unsigned long long)watched->skipped, seconds, (double)watched->ops / (seconds > 0 ? seconds : 1), argv[1]);
    if (result == 0 && !watched->finished)
        result = 1;
    if (result)
        fprintf(stderr, "seed %s\n", argv[1]);
    return result;
}
