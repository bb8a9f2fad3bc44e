/* SPDX-License-Identifier: Apache-2.0 */
/* coherence.c - what one mount has changed, the other must show at once.
 *
 *   coherence MODE DIR_A DIR_B SEED ROUNDS       MODE: data, mmap, size, attr, names
 *
 * DIR_A and DIR_B are the same directory seen through two mounts. Two threads run at the same time: one changes a
 * thing through A and looks at it through B, the other changes another thing through B and looks through A. Each
 * keeps its own picture of what it has done, so a look compares against what must be there, also beside the range
 * that was just written. There is no sleep and no retry: a change whose call has returned and is not seen is a
 * failure. The program stops at the first one and prints mode, round and place; the seed makes the run again.
 *
 * The picture of a file is a shadow buffer; that of a directory is a table of names with the identity (a number
 * written into the file when it was made) that each must lead to. Appends by both sides at once are in append.c. */
#include "t.h"

#include <dirent.h>
#include <sys/xattr.h>

enum { FILE_BYTES = 2 << 20, WRITE_MAX_BYTES = 256 << 10, SIZE_MAX_BYTES = 300000, NAME_COUNT = 48 };

struct pair {
    const char *write_dir, *read_dir;
    char        name[32];
    uint64_t    rng;
    long        rounds;
};

/* Sizes of every kind: a few bytes, about a page, whole pages, large. */
static void pick_range(uint64_t *rng, uint64_t limit, uint64_t *offset, size_t *size)
{
    switch (t_random(rng) % 4) {
    case 0:
        *size = 1 + t_random(rng) % 16;
        break;
    case 1:
        *size = 1 + t_random(rng) % 9000;
        break;
    case 2:
        *size = 4096 * (1 + t_random(rng) % 8);
        break;
    default:
        *size = 1 + t_random(rng) % WRITE_MAX_BYTES;
        break;
    }
    *offset = t_random(rng) % (limit - *size + 1);
    if (*size % 4096 == 0)
        *offset &= ~4095ULL;
}

static void compare(const struct pair *p, long round, const uint8_t *got, const uint8_t *want, uint64_t offset,
                    size_t size)
{
    if (memcmp(got, want, size) == 0)
        return;
    size_t i = 0;
    while (got[i] == want[i])
        i++;
    size_t wrong = 0;
    for (size_t k = i; k < size; k++)
        wrong += got[k] != want[k];
    t_die("%s read through %s, round %ld: %zu wrong bytes from offset %llu on (range %llu+%zu): got %02x, want %02x",
          p->name, p->read_dir, round, wrong, (unsigned long long)(offset + i), (unsigned long long)offset, size,
          got[i], want[i]);
}

static void *alloc_bytes(size_t size)
{
    void *memory = calloc(1, size);
    T_THAT(memory, "no memory");
    return memory;
}

static void read_and_compare(const struct pair *p, long round, int fd, uint8_t *buffer, const uint8_t *shadow,
                             uint64_t from, uint64_t to)
{
    size_t n = t_pread(fd, buffer, to - from, from);
    T_THAT(n == to - from, "%s through %s, round %ld: read %zu of %llu bytes", p->name, p->read_dir, round, n,
           (unsigned long long)(to - from));
    compare(p, round, buffer, shadow + from, from, n);
}

static void run_data(struct pair *p)
{
    uint8_t *shadow = alloc_bytes(FILE_BYTES), *buffer = alloc_bytes(FILE_BYTES);
    int      out = t_open(p->write_dir, p->name, O_RDWR | O_CREAT | O_TRUNC, 0644);
    T_OK(ftruncate(out, FILE_BYTES));
    int in = t_open(p->read_dir, p->name, O_RDONLY, 0);
    for (long round = 0; round < p->rounds; round++) {
        uint64_t offset, from, to;
        size_t   size;
        pick_range(&p->rng, FILE_BYTES, &offset, &size);
        t_random_fill(&p->rng, shadow + offset, size);
        t_pwrite(out, shadow + offset, size, offset);
        from = offset - t_random(&p->rng) % (offset < 8192 ? offset + 1 : 8192);
        to = offset + size + t_random(&p->rng) % 8192;
        if (to > FILE_BYTES)
            to = FILE_BYTES;
        if (round % 256 == 255) {
            from = 0;
            to = FILE_BYTES;
        }
        read_and_compare(p, round, in, buffer, shadow, from, to);
    }
    close(in);
    close(out);
    free(shadow);
    free(buffer);
}

/* The reader keeps one mapping for the whole run and has touched every page of it. */
static void run_mmap(struct pair *p)
{
    uint8_t *shadow = alloc_bytes(FILE_BYTES);
    int      out = t_open(p->write_dir, p->name, O_RDWR | O_CREAT | O_TRUNC, 0644);
    T_OK(ftruncate(out, FILE_BYTES));
    int      in = t_open(p->read_dir, p->name, O_RDONLY, 0);
    uint8_t *map = T_OK(mmap(NULL, FILE_BYTES, PROT_READ, MAP_SHARED, in, 0));
    compare(p, -1, map, shadow, 0, FILE_BYTES);
    for (long round = 0; round < p->rounds; round++) {
        uint64_t offset;
        size_t   size;
        pick_range(&p->rng, FILE_BYTES, &offset, &size);
        t_random_fill(&p->rng, shadow + offset, size);
        t_pwrite(out, shadow + offset, size, offset);
        compare(p, round, map + offset, shadow + offset, offset, size);
        if (round % 256 == 255)
            compare(p, round, map, shadow, 0, FILE_BYTES);
    }
    munmap(map, FILE_BYTES);
    close(in);
    close(out);
    free(shadow);
}

static void look_stat(const struct pair *p, long round, int fd, struct stat *st)
{
    char path[4096];
    if (round % 2)
        T_OK(fstat(fd, st));
    else
        T_OK(stat(t_path(path, sizeof path, p->read_dir, p->name), st));
}

/* Truncation both ways, writes at and behind the end: size, the bytes before the end and nothing behind it. */
static void run_size(struct pair *p)
{
    uint8_t *shadow = alloc_bytes(SIZE_MAX_BYTES), *buffer = alloc_bytes(SIZE_MAX_BYTES);
    int      out = t_open(p->write_dir, p->name, O_RDWR | O_CREAT | O_TRUNC, 0644);
    int      in = t_open(p->read_dir, p->name, O_RDONLY, 0);
    uint64_t size = 0;
    for (long round = 0; round < p->rounds; round++) {
        uint64_t next = t_random(&p->rng) % (SIZE_MAX_BYTES - 10000);
        if (t_random(&p->rng) % 3) {
            T_OK(ftruncate(out, (off_t)next));
            if (next < size)
                memset(shadow + next, 0, size - next);
            size = next;
        } else {
            uint64_t at = t_random(&p->rng) % 2 ? size : next;
            size_t   n = 1 + t_random(&p->rng) % 10000;
            if (at + n > SIZE_MAX_BYTES)
                at = SIZE_MAX_BYTES - n;
            t_random_fill(&p->rng, shadow + at, n);
            t_pwrite(out, shadow + at, n, at);
            if (at + n > size)
                size = at + n;
        }
        struct stat st;
        look_stat(p, round, in, &st);
        T_THAT((uint64_t)st.st_size == size, "%s through %s, round %ld: size %lld, want %llu", p->name, p->read_dir,
               round, (long long)st.st_size, (unsigned long long)size);
        uint64_t from = size > 20000 ? size - 20000 : 0;
        read_and_compare(p, round, in, buffer, shadow, from, size);
        T_THAT(t_pread(in, buffer, 4096, size) == 0, "%s through %s, round %ld: bytes behind the end", p->name,
               p->read_dir, round);
    }
    close(in);
    close(out);
    free(shadow);
    free(buffer);
}

static void run_attr(struct pair *p)
{
    int         out = t_open(p->write_dir, p->name, O_RDWR | O_CREAT | O_TRUNC, 0644);
    int         in = t_open(p->read_dir, p->name, O_RDONLY, 0);
    struct stat want = {.st_mode = 0644};
    uint32_t    xattr = 0;
    T_OK(fstat(out, &want));
    for (long round = 0; round < p->rounds; round++) {
        struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_nsec = (long)(t_random(&p->rng) % 1000000000)}};
        switch (t_random(&p->rng) % 4) {
        case 0:
            want.st_mode = S_IFREG | (mode_t)(t_random(&p->rng) % 01000);
            T_OK(fchmod(out, want.st_mode & 07777));
            break;
        case 1:
            times[1].tv_sec = (time_t)(1000000000 + t_random(&p->rng) % 900000000);
            T_OK(futimens(out, times));
            want.st_mtim = times[1];
            break;
        case 2:
            want.st_uid = (uid_t)(t_random(&p->rng) % 60000);
            want.st_gid = (gid_t)(t_random(&p->rng) % 60000);
            T_OK(fchown(out, want.st_uid, want.st_gid));
            break;
        default:
            xattr = (uint32_t)t_random(&p->rng);
            T_OK(fsetxattr(out, "user.coherence", &xattr, sizeof xattr, 0));
        }
        struct stat st;
        look_stat(p, round, in, &st);
        T_THAT(st.st_mode == want.st_mode, "%s through %s, round %ld: mode %o, want %o", p->name, p->read_dir, round,
               st.st_mode, want.st_mode);
        T_THAT(st.st_mtim.tv_sec == want.st_mtim.tv_sec && st.st_mtim.tv_nsec == want.st_mtim.tv_nsec,
               "%s through %s, round %ld: mtime %lld.%09ld, want %lld.%09ld", p->name, p->read_dir, round,
               (long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec, (long long)want.st_mtim.tv_sec, want.st_mtim.tv_nsec);
        T_THAT(st.st_uid == want.st_uid && st.st_gid == want.st_gid,
               "%s through %s, round %ld: owner %u:%u, want %u:%u", p->name, p->read_dir, round, st.st_uid, st.st_gid,
               want.st_uid, want.st_gid);
        uint32_t got = 0;
        if (xattr)
            T_OK(fgetxattr(in, "user.coherence", &got, sizeof got));
        T_THAT(got == xattr, "%s through %s, round %ld: xattr %u, want %u", p->name, p->read_dir, round, got, xattr);
    }
    close(in);
    close(out);
}

/* ---- names: two directories below the pair's own, each a table of NAME_COUNT names -------------------------------- */

struct names {
    struct pair *p;
    long         round;
    uint32_t id[2][NAME_COUNT]; /* 0: no such name; else the number in the file, or a directory if DIRECTORY is set */
    uint32_t next_id;
};
enum { DIRECTORY = 1u << 31 };

static const char *name_path(char *buffer, const char *top, const struct names *n, int dir, int name)
{
    char tail[64];
    snprintf(tail, sizeof tail, "%.31s/d%d/n%d", n->p->name, dir, name);
    return t_path(buffer, 4096, top, tail);
}

static void look_at_name(const struct names *n, int dir, int name)
{
    char        path[4096];
    struct stat st;
    uint32_t    id = n->id[dir][name], got = 0;
    name_path(path, n->p->read_dir, n, dir, name);
    if (id == 0) {
        T_THAT(stat(path, &st) < 0 && errno == ENOENT, "round %ld: stat shows %s, which is gone", n->round, path);
        T_THAT(open(path, O_RDONLY) < 0 && errno == ENOENT, "round %ld: open finds %s, which is gone", n->round, path);
        return;
    }
    T_THAT(stat(path, &st) == 0, "round %ld: stat %s: %s, but it was made", n->round, path, strerror(errno));
    T_THAT(S_ISDIR(st.st_mode) == !!(id & DIRECTORY), "round %ld: %s has the wrong type, mode %o", n->round, path,
           st.st_mode);
    if (id & DIRECTORY)
        return;
    int fd = open(path, O_RDONLY);
    T_THAT(fd >= 0, "round %ld: open %s: %s, but it was made", n->round, path, strerror(errno));
    T_THAT(t_pread(fd, &got, sizeof got, 0) == sizeof got && got == id, "round %ld: %s leads to file %u, want %u",
           n->round, path, got, id);
    close(fd);
}

static void look_at_listing(const struct names *n, int dir)
{
    char path[4096], tail[64];
    bool seen[NAME_COUNT] = {false};
    snprintf(tail, sizeof tail, "%.31s/d%d", n->p->name, dir);
    DIR *stream = opendir(t_path(path, sizeof path, n->p->read_dir, tail));
    T_THAT(stream, "opendir %s: %s", path, strerror(errno));
    for (struct dirent *entry; (entry = readdir(stream));) {
        if (entry->d_name[0] == '.')
            continue;
        int i = atoi(entry->d_name + 1);
        T_THAT(entry->d_name[0] == 'n' && i >= 0 && i < NAME_COUNT, "foreign name %s in %s", entry->d_name, path);
        T_THAT(!seen[i], "round %ld: readdir of %s shows %s twice", n->round, path, entry->d_name);
        T_THAT(n->id[dir][i], "round %ld: readdir of %s shows %s, which is gone", n->round, path, entry->d_name);
        seen[i] = true;
    }
    for (int i = 0; i < NAME_COUNT; i++)
        T_THAT(!n->id[dir][i] || seen[i], "round %ld: readdir of %s does not show n%d", n->round, path, i);
    closedir(stream);
}

static void make_name(struct names *n, const char *path, int dir, int name)
{
    if (t_random(&n->p->rng) % 4 == 0) {
        T_OK(mkdir(path, 0755));
        n->id[dir][name] = DIRECTORY;
        return;
    }
    uint32_t id = ++n->next_id;
    int      fd = T_OK(open(path, O_WRONLY | O_CREAT | O_EXCL, 0644));
    t_pwrite(fd, &id, sizeof id, 0);
    close(fd);
    n->id[dir][name] = id;
}

static void drop_name(struct names *n, const char *path, int dir, int name)
{
    if (n->id[dir][name] & DIRECTORY)
        T_OK(rmdir(path));
    else
        T_OK(unlink(path));
    n->id[dir][name] = 0;
}

static void run_names(struct pair *p)
{
    struct names n = {.p = p};
    char         path[4096], other[4096], tail[64];
    T_OK(mkdir(t_path(path, sizeof path, p->write_dir, p->name), 0755));
    for (int d = 0; d < 2; d++) {
        snprintf(tail, sizeof tail, "%.31s/d%d", p->name, d);
        T_OK(mkdir(t_path(path, sizeof path, p->write_dir, tail), 0755));
    }
    for (n.round = 0; n.round < p->rounds; n.round++) {
        int dir = (int)(t_random(&p->rng) % 2), name = (int)(t_random(&p->rng) % NAME_COUNT);
        name_path(path, p->write_dir, &n, dir, name);
        if (n.id[dir][name] == 0) {
            make_name(&n, path, dir, name);
        } else if (t_random(&p->rng) % 2) {
            drop_name(&n, path, dir, name);
        } else {
            int       dir2 = (int)(t_random(&p->rng) % 2), name2 = (int)(t_random(&p->rng) % NAME_COUNT);
            uint32_t *from = &n.id[dir][name], *to = &n.id[dir2][name2];
            if (from == to || (*to && (*to ^ *from) & DIRECTORY))
                continue;
            T_OK(rename(path, name_path(other, p->write_dir, &n, dir2, name2)));
            *to = *from;
            *from = 0;
            look_at_name(&n, dir2, name2);
            look_at_listing(&n, dir2);
        }
        look_at_name(&n, dir, name);
        look_at_listing(&n, dir);
        look_at_name(&n, (int)(t_random(&p->rng) % 2), (int)(t_random(&p->rng) % NAME_COUNT));
    }
}

/* ------------------------------------------------------------------------------------------------------------------- */

static const struct mode {
    const char *name;
    void (*run)(struct pair *p);
} modes[] = {{"data", run_data}, {"mmap", run_mmap}, {"size", run_size}, {"attr", run_attr}, {"names", run_names}};

static const struct mode *chosen;

static void *run_pair(void *argument)
{
    chosen->run(argument);
    return NULL;
}

int main(int argc, char **argv)
{
    T_THAT(argc == 6, "usage: coherence MODE DIR_A DIR_B SEED ROUNDS");
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++)
        if (strcmp(modes[i].name, argv[1]) == 0)
            chosen = &modes[i];
    T_THAT(chosen, "unknown mode %s", argv[1]);
    struct pair pairs[2] = {
        {.write_dir = argv[2], .read_dir = argv[3], .rng = t_seed(argv[4], 1), .rounds = atol(argv[5])},
        {.write_dir = argv[3], .read_dir = argv[2], .rng = t_seed(argv[4], 2), .rounds = atol(argv[5])},
    };
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) {
        snprintf(pairs[i].name, sizeof pairs[i].name, "%s-%s", chosen->name, i ? "ba" : "ab");
        T_THAT(pthread_create(&threads[i], NULL, run_pair, &pairs[i]) == 0, "pthread_create");
    }
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    printf("%s: %s rounds in each direction, seed %s\n", argv[1], argv[5], argv[4]);
    return 0;
}
