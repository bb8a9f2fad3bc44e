/* SPDX-License-Identifier: Apache-2.0 */
/* data.c - bytes of files: large and sparse ones, holes, space, copies inside the kernel. */
#include "posix.h"

#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>

static const long long GIB = 1LL << 30;

static void show_holes(const char *name)
{
    const char *path[2] = {name, B(name)};
    for (int i = 0; i < 2; i++) {
        char step[60];
        int  fd = T_OK(open(path[i], O_RDWR | O_CLOEXEC));
        off_t at = 0;
        snprintf(step, sizeof step, "holes %c %s", "AB"[i], name);
        T_OK(fsync(fd));
        for (int k = 0; k < 12; k++) {
            off_t data = lseek(fd, at, SEEK_DATA);
            if (data < 0) {
                VALUE(step, "no data after %lld: %s", (long long)at, strerrorname_np(errno));
                break;
            }
            at = lseek(fd, data, SEEK_HOLE);
            VALUE(step, "data %lld .. %lld", (long long)data, (long long)at);
        }
        close(fd);
    }
}

static void large(void)
{
    char text[20] = {0};
    int  fd = T_OK(open("f", O_RDWR | O_CREAT | O_CLOEXEC, 0644)), far = T_OK(open(B("f"), O_RDWR | O_CLOEXEC));
    IS(pwrite(fd, "far", 3, 5 * GIB + 1234) == 3);
    IS(pwrite(far, "edge", 4, 4 * GIB - 2) == 4);
    IS(pwrite(fd, "near", 4, 100) == 4);
    see("f");
    show_holes("f");
    IS(pread(far, text, 10, 5 * GIB + 1234) == 3 && memcmp(text, "far", 3) == 0);
    IS(pread(fd, text, 4, 4 * GIB - 2) == 4 && memcmp(text, "edge", 4) == 0);
    IS(pread(far, text, 8, 3 * GIB) == 8 && memcmp(text, "\0\0\0\0\0\0\0\0", 8) == 0);
    DO(ftruncate(far, 7 * GIB));
    see("f");
    IS(lseek(fd, 0, SEEK_END) == 7 * GIB);
    FAILS(ENXIO, lseek(fd, 7 * GIB, SEEK_DATA));
    FAILS(ENXIO, lseek(fd, 7 * GIB, SEEK_HOLE));
    FAILS(ENXIO, lseek(far, 6 * GIB, SEEK_DATA));
    IS(lseek(far, 6 * GIB, SEEK_HOLE) == 6 * GIB);
    FAILS(ENXIO, lseek(fd, -1, SEEK_DATA) < 0 && errno == EINVAL ? (errno = ENXIO, -1) : -1);
    IS(pwrite(fd, "end", 3, 100 * GIB) == 3);
    IS(pread(far, text, 4, 100 * GIB) == 3);
    const char *map = T_OK(mmap(NULL, BLOCK, PROT_READ, MAP_SHARED, far, 100 * GIB));
    IS(memcmp(map, "end", 3) == 0);
    DO(ftruncate(fd, 10));
    see("f");
    IS(pread(far, text, 8, 4 * GIB) == 0);
    DO(pwrite(fd, "xx", 2, (16LL << 40) - BLOCK - 1));
    T_OK(ftruncate(fd, 0));
}

static void vectors(void)
{
    char         text[64] = {0};
    struct iovec out[3] = {{"one ", 4}, {"two ", 4}, {"three", 5}}, in[2] = {{text, 6}, {text + 6, 50}};
    int          fd = T_OK(open("f", O_RDWR | O_CREAT | O_CLOEXEC, 0644)), far = T_OK(open(B("f"), O_RDWR | O_CLOEXEC));
    VALUE("writev", "%zd", writev(fd, out, 3));
    VALUE("preadv", "%zd %s", preadv(far, in, 2, 2), text);
    VALUE("pwritev2 RWF_DSYNC", "%zd", pwritev2(fd, out, 1, 0, RWF_DSYNC));
    VALUE("pwritev2 RWF_APPEND", "%zd", pwritev2(fd, out + 1, 1, 0, RWF_APPEND));
    VALUE("text", "%s", text_at_b("f"));
    VALUE("read at the end", "%zd", pread(far, text, 10, 1000));
    uint8_t *aligned = aligned_alloc(BLOCK, 4 * BLOCK);
    int      direct = (int)DO(open("f", O_RDWR | O_DIRECT | O_CLOEXEC));
    memset(aligned, 'D', 4 * BLOCK);
    VALUE("direct write", "%zd", pwrite(direct, aligned, 3 * BLOCK, BLOCK));
    see_bytes("f");
    VALUE("direct read", "%zd", pread(direct, aligned, 4 * BLOCK, 0));
    IS(aligned[0] == 'o' && aligned[100] == 0 && aligned[BLOCK] == 'D');
    IS(pwrite(far, "changed", 7, 2 * BLOCK) == 7);
    VALUE("direct read", "%zd", pread(direct, aligned, BLOCK, 2 * BLOCK));
    IS(memcmp(aligned, "changed", 7) == 0);
    fd = (int)DO(open("f", O_WRONLY | O_SYNC | O_CLOEXEC));
    VALUE("O_SYNC write", "%zd", write(fd, "sync", 4));
    DO(fsync(fd));
    DO(fdatasync(fd));
    DO(sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE));
    DO(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED));
    DO(readahead(far, 0, 8192));
    DO(syncfs(fd));
    int dir = T_OK(open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    DO(fsync(dir));
    see_bytes("f");
}

/* The end moves, the bytes between are zero, from either side. */
static void ends(void)
{
    char byte[BLOCK * 2];
    put_pattern("f", 3 * BLOCK + 100, 1);
    see_bytes("f");
    DO(truncate("f", BLOCK + 17));
    see_bytes("f");
    DO(truncate(B("f"), 2 * BLOCK + 50));
    see_bytes("f");
    int fd = T_OK(open(B("f"), O_RDWR | O_CLOEXEC));
    IS(pread(fd, byte, BLOCK, BLOCK + 17) == BLOCK);
    int dirty = 0;
    for (int i = 0; i < BLOCK; i++)
        dirty |= byte[i];
    IS(dirty == 0);
    IS(pwrite(fd, "x", 1, 5 * BLOCK) == 1);
    see_bytes("f");
    DO(truncate("f", 0));
    see_bytes("f");
    IS(pwrite(fd, "y", 1, 10) == 1);
    see_bytes("f");
    for (int i = 0; i < 30; i++) {
        T_OK(truncate(i & 1 ? B("f") : "f", (i * 7919) % 50000));
        T_OK(pwrite(fd, "mark", 4, (i * 4099) % 40000));
    }
    see_bytes("f");
}

const struct posix_case posix_data[] = {{"large", large}, {"vectors", vectors}, {"ends", ends}, {0}};

/* ---- fallocate ---- */
static void space_step(const char *step, int mode, off_t off, off_t len)
{
    int fd = T_OK(open("f", O_RDWR | O_CLOEXEC));
    STEP(step, fallocate(fd, mode, off, len));
    close(fd);
    see_bytes("f");
    see("f");
}

static void modes(void)
{
    put_pattern("f", 20 * BLOCK, 3);
    see_bytes("f");
    int      far = T_OK(open(B("f"), O_RDWR | O_CLOEXEC));
    uint8_t *map = T_OK(mmap(NULL, 64 * BLOCK, PROT_READ | PROT_WRITE, MAP_SHARED, far, 0)), first = map[5 * BLOCK];
    space_step("KEEP_SIZE past the end", FALLOC_FL_KEEP_SIZE, 16 * BLOCK, 16 * BLOCK);
    space_step("plain past the end", 0, 30 * BLOCK, 2 * BLOCK);
    IS(map[5 * BLOCK] == first);
    IS(map[31 * BLOCK] == 0);
    space_step("PUNCH_HOLE of blocks", FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4 * BLOCK, 4 * BLOCK);
    IS(map[5 * BLOCK] == 0);
    show_holes("f");
    space_step("PUNCH_HOLE of odd bytes", FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 10 * BLOCK + 100, 5000);
    IS(map[10 * BLOCK + 100] == 0 && map[10 * BLOCK + 5099] == 0);
    space_step("PUNCH_HOLE past the end", FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 31 * BLOCK, 40 * BLOCK);
    space_step("ZERO_RANGE", FALLOC_FL_ZERO_RANGE, 14 * BLOCK + 7, 9001);
    IS(map[14 * BLOCK + 7] == 0 && map[14 * BLOCK + 9007] == 0);
    space_step("ZERO_RANGE that extends", FALLOC_FL_ZERO_RANGE, 31 * BLOCK, 3 * BLOCK + 5);
    space_step("ZERO_RANGE KEEP_SIZE", FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 33 * BLOCK, 9 * BLOCK);
    space_step("PUNCH_HOLE without KEEP_SIZE", FALLOC_FL_PUNCH_HOLE, 0, BLOCK);
    space_step("an unknown mode", 0x4000, 0, BLOCK);
    space_step("of nothing", 0, 0, 0);
    space_step("before the start", 0, -1, 10);
    space_step("of less than nothing", 0, 0, -5);
    space_step("beyond all", 0, INT64_MAX - 10, 100);
    int fd = T_OK(open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    FAILS(EBADF, fallocate(fd, 0, 0, 10));
    struct stat st;
    T_OK(stat(B("f"), &st));
    IS(st.st_blocks > 0);
}

/* Cutting out and putting in: the FUSE of the kernel does not pass these on (see deliberate.txt). */
static void shifts(void)
{
    put_pattern("f", 30 * BLOCK + 123, 3);
    int      far = T_OK(open(B("f"), O_RDWR | O_CLOEXEC));
    uint8_t *map = T_OK(mmap(NULL, 64 * BLOCK, PROT_READ | PROT_WRITE, MAP_SHARED, far, 0)), first = map[12 * BLOCK];
    map[3 * BLOCK] = 'e'; /* dirty on the other side when a range before it is cut out here */
    space_step("COLLAPSE_RANGE", FALLOC_FL_COLLAPSE_RANGE, BLOCK, 2 * BLOCK);
    VALUE("mapped", "%d %d", map[10 * BLOCK] == first, map[BLOCK] == 'e');
    space_step("INSERT_RANGE", FALLOC_FL_INSERT_RANGE, 2 * BLOCK, 3 * BLOCK);
    VALUE("mapped", "%d %d", map[13 * BLOCK] == first, map[2 * BLOCK] == 0);
    show_holes("f");
    space_step("COLLAPSE_RANGE of odd bytes", FALLOC_FL_COLLAPSE_RANGE, 100, BLOCK);
    space_step("COLLAPSE_RANGE to the end", FALLOC_FL_COLLAPSE_RANGE, 20 * BLOCK, 100 * BLOCK);
    space_step("INSERT_RANGE past the end", FALLOC_FL_INSERT_RANGE, 100 * BLOCK, BLOCK);
}

static void repeated(void)
{
    uint64_t rng = 77;
    put_pattern("f", 64 * BLOCK, 4);
    int fd[2] = {T_OK(open("f", O_RDWR | O_CLOEXEC)), T_OK(open(B("f"), O_RDWR | O_CLOEXEC))};
    for (int i = 0; i < 120; i++) {
        static const int some[] = {FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE, 0, FALLOC_FL_KEEP_SIZE,
                                   FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE};
        int   mode = some[t_random(&rng) % 5];
        off_t off = (off_t)(t_random(&rng) % (40 * BLOCK)), len = (off_t)(t_random(&rng) % (10 * BLOCK)) + 1;
        uint8_t bytes[5000];
        t_random_fill(&rng, bytes, sizeof bytes);
        T_OK(pwrite(fd[t_random(&rng) % 2], bytes, 1 + t_random(&rng) % 4999, (off_t)(t_random(&rng) % (50 * BLOCK))));
        fallocate(fd[t_random(&rng) % 2], mode, off, len);
        if (i % 10 == 9)
            see_bytes("f");
    }
}

const struct posix_case posix_space[] = {{"modes", modes}, {"shifts", shifts}, {"repeated", repeated}, {0}};

/* ---- copies ---- */
static ssize_t copy(const char *from, off_t at, const char *to, off_t into, size_t size)
{
    int     in = T_OK(open(from, O_RDONLY | O_CLOEXEC)), out = T_OK(open(to, O_RDWR | O_CREAT | O_CLOEXEC, 0644));
    ssize_t got = copy_file_range(in, &at, out, &into, size, 0);
    int     error = errno;
    close(in), close(out);
    errno = error;
    return got;
}
#define COPY(...)                                                                   \
    do {                                                                            \
        ssize_t copy_got = copy(__VA_ARGS__);                                       \
        VALUE("copy(" #__VA_ARGS__ ")", "%zd %s", copy_got, copy_got < 0 ? strerrorname_np(errno) : ""); \
    } while (0)

static void ranges(void)
{
    put_pattern("f", 50 * BLOCK + 123, 5);
    put_pattern("g", 10 * BLOCK, 6);
    see_bytes("g");
    COPY("f", 0, "new", 0, 50 * BLOCK + 123);
    see_bytes("new");
    COPY("f", BLOCK, "g", 2 * BLOCK, 3 * BLOCK);
    see_bytes("g");
    COPY("f", 17, "g", 4099, 9001);
    see_bytes("g");
    COPY("f", 50 * BLOCK, "g", 20 * BLOCK, 10000); /* short, and past the end of g */
    see_bytes("g");
    COPY("f", 60 * BLOCK, "g", 0, 100); /* past the end */
    COPY("f", 0, "g", 0, 0);
    COPY("f", 0, "f", 30 * BLOCK, 5 * BLOCK);
    see_bytes("f");
    COPY("f", 0, "f", 100, 5000); /* overlaps */
    COPY("f", 5000, "f", 100, 10000);
    see_bytes("f");
    COPY("f", 0, "sparse", 1LL << 33, 100);
    see_bytes("g");
    int in = T_OK(open("f", O_RDONLY | O_CLOEXEC)), out = T_OK(open("g", O_WRONLY | O_CLOEXEC));
    VALUE("copy at the positions", "%zd", copy_file_range(in, NULL, out, NULL, 100, 0));
    VALUE("positions", "%lld %lld", (long long)lseek(in, 0, SEEK_CUR), (long long)lseek(out, 0, SEEK_CUR));
    FAILS(EINVAL, copy_file_range(in, NULL, out, NULL, 100, 1));
    FAILS(EBADF, copy_file_range(out, NULL, in, NULL, 100, 0));
    int dir = T_OK(open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    FAILS(EISDIR, copy_file_range(dir, NULL, out, NULL, 100, 0));
    see_bytes("g");
    int      mapped = T_OK(open(B("f"), O_RDWR | O_CLOEXEC));
    uint8_t *map = T_OK(mmap(NULL, BLOCK, PROT_READ | PROT_WRITE, MAP_SHARED, mapped, 0));
    memcpy(map, "dirty", 5); /* the source's newest bytes are in a mapping */
    T_OK(msync(map, BLOCK, MS_SYNC));
    COPY("f", 0, "g", 0, 10);
    VALUE("copied", "%.5s", text_at_b("g"));
    AS(BOB, GUESTS) FAILS(EACCES, open("g", O_WRONLY));
}

static void to_elsewhere(void)
{
    put_pattern("f", 100000, 9);
    ssize_t got = copy("f", 0, B("there"), 0, 100000);
    bool    right = got == 100000 || (posix_across() && got < 0 && errno == EXDEV); /* two mounts may be two file systems: cp goes on by hand then */
    IS(right);
    int in = T_OK(open("f", O_RDONLY | O_CLOEXEC)), out = T_OK(open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    loff_t a = 0, b = 0;
    VALUE("to another file system", "%zd", copy_file_range(in, &a, out, &b, 100, 0));
    VALUE("why", "%s", strerrorname_np(errno));
}

static void inside_the_kernel(void)
{
    int   pipes[2], pair[2];
    off_t at = 5;
    put_pattern("f", 200000, 7);
    int in = T_OK(open("f", O_RDONLY | O_CLOEXEC)), out = T_OK(open("g", O_RDWR | O_CREAT | O_CLOEXEC, 0644));
    VALUE("sendfile", "%zd", sendfile(out, in, &at, 100000));
    see_bytes("g");
    VALUE("sendfile", "%zd", sendfile(out, in, NULL, 300000));
    see_bytes("g");
    VALUE("sendfile at the end", "%zd", sendfile(out, in, NULL, 10));
    T_OK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    at = 0;
    VALUE("sendfile to a socket", "%zd", sendfile(pair[0], in, &at, 5000));
    T_OK(pipe(pipes));
    loff_t from = 8192, to = 100;
    ssize_t n = splice(in, &from, pipes[1], NULL, 10000, 0);
    VALUE("splice in", "%zd", n);
    while (n > 0) {
        ssize_t put_n = splice(pipes[0], NULL, out, &to, (size_t)n, 0);
        T_THAT(put_n > 0, "splice out: %s", strerror(errno));
        n -= put_n;
    }
    see_bytes("g");
    VALUE("vmsplice", "%zd", vmsplice(pipes[1], &(struct iovec){"spliced", 7}, 1, 0));
    to = 0;
    VALUE("splice out", "%zd", splice(pipes[0], NULL, out, &to, 7, 0));
    see_bytes("g");
    T_OK(pwrite(out, "after", 5, 0)); /* what was spliced from a page does not change the file it came from */
    see_bytes("f");
}

const struct posix_case posix_copy[] = {{"ranges", ranges}, {"elsewhere", to_elsewhere}, {"kernel", inside_the_kernel}, {0}};
