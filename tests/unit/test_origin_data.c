/* SPDX-License-Identifier: Apache-2.0 */
/* test_origin_data.c - bytes: what is written is read, at the origin too; holes, ends, vectors, syncing. */
#include "support_origin.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <unistd.h>

enum { SIZE = 1 << 20 };

static void random_body(struct scene *scene)
{
    struct origin_ref  ref = scene_create(scene, &scene->root, "f", 0644);
    struct origin_attr attr;
    unsigned           seed = 1;
    char              *model = calloc(1, SIZE), *buf = malloc(SIZE);
    size_t             end = 0;
    int                fd;

    cr_assert(model && buf);
    for (int i = 0; i < 500; i++) {
        size_t off = (size_t)rand_r(&seed) % (SIZE / 2), len = (size_t)rand_r(&seed) % (i % 10 ? 5000 : SIZE / 2);
        memset(buf, 'a' + i % 26, len);
        memcpy(model + off, buf, len);
        end = len && off + len > end ? off + len : end;
        expect_rc(scene, origin_write(scene->origin, &ref, buf, len, off, i % 50 == 0, i % 2, &attr), len);
        expect_rc(scene, attr.size_bytes, end);
        off = (size_t)rand_r(&seed) % SIZE;
        len = (size_t)rand_r(&seed) % SIZE;
        size_t there = off >= end ? 0 : end - off < len ? end - off : len;
        expect_rc(scene, origin_read(scene->origin, &ref, buf, len, off), there);
        expect_true(scene, memcmp(buf, model + off, there) == 0);
    }
    sys(fd = open(scene_path(scene, "f"), O_RDONLY | O_CLOEXEC));
    expect_rc(scene, read(fd, buf, SIZE), end);
    expect_true(scene, memcmp(buf, model, end) == 0);
    close(fd);
    free(model);
    free(buf);
}

/* Goal:   reads return what was written, short only at the end of the file; the origin holds it too.
 * Method: 500 writes and reads of random places and sizes (seed 1) against a copy in memory. */
Test(origin_data, random_reads_and_writes, .timeout = 60)
{
    scene_each(random_body, NULL);
}

static void vector_body(struct scene *scene)
{
    static char       text[300 * 7];
    struct iovec      iov[300];
    char              got[300][11];
    struct origin_ref ref = scene_create(scene, &scene->root, "f", 0644);

    for (size_t i = 0; i < sizeof text; i++)
        text[i] = (char)('a' + i % 23);
    expect_rc(scene, origin_write(scene->origin, &ref, text, sizeof text, 0, 0, false, NULL), sizeof text);
    for (int i = 0; i < 300; i++) /* among them empty ones; more than one system call takes at a time */
        iov[i] = (struct iovec){.iov_base = got[i], .iov_len = (size_t)(i % 11)};
    size_t all = 0;
    for (int i = 0; i < 300; i++)
        all += iov[i].iov_len;
    expect_rc(scene, origin_readv(scene->origin, &ref, iov, 300, 5), all < sizeof text - 5 ? all : sizeof text - 5);
    for (size_t i = 0, at = 5; i < 300; i++) {
        for (size_t j = 0; j < iov[i].iov_len && at < sizeof text; j++, at++)
            expect_true(scene, got[i][j] == text[at]);
    }
    expect_rc(scene, origin_readv(scene->origin, &ref, iov, 0, 0), 0);
}

/* Goal:   a vector is filled in order, whatever its parts.
 * Method: 300 parts of 0 to 10 bytes. */
Test(origin_data, readv)
{
    scene_each(vector_body, NULL);
}

static void holes_body(struct scene *scene)
{
    struct origin     *origin = scene->origin;
    struct origin_attr attr;
    struct origin_ref  ref = scene_create(scene, &scene->root, "f", 0644);
    char               buf[8192];

    expect_rc(scene, origin_write(origin, &ref, "x", 1, SIZE, 0, false, &attr), 1);
    expect_true(scene, attr.size_bytes == SIZE + 1 && attr.blocks * 512 < SIZE);
    expect_rc(scene, origin_lseek(origin, &ref, 0, SEEK_DATA), SIZE);
    expect_rc(scene, origin_lseek(origin, &ref, 0, SEEK_HOLE), 0);
    expect_rc(scene, origin_lseek(origin, &ref, SIZE, SEEK_HOLE), SIZE + 1);
    expect_rc(scene, origin_lseek(origin, &ref, SIZE + 1, SEEK_DATA), -ENXIO);
    expect_rc(scene, origin_lseek(origin, &ref, 0, SEEK_END), -EINVAL);
    expect_rc(scene, origin_lseek(origin, &scene->root, 0, SEEK_DATA), -EISDIR);

    expect_ok(scene, origin_fallocate(origin, &ref, FALLOC_FL_KEEP_SIZE, 2 * SIZE, 4096, &attr));
    expect_true(scene, attr.size_bytes == SIZE + 1);
    expect_ok(scene, origin_fallocate(origin, &ref, 0, 0, 2 * SIZE, &attr));
    expect_true(scene, attr.size_bytes == 2 * SIZE && attr.blocks * 512 >= 2 * SIZE);
    memset(buf, 'y', sizeof buf);
    expect_rc(scene, origin_write(origin, &ref, buf, sizeof buf, 0, 0, false, NULL), sizeof buf);
    expect_ok(scene, origin_fallocate(origin, &ref, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096, NULL));
    expect_rc(scene, origin_read(origin, &ref, buf, sizeof buf, 0), sizeof buf);
    expect_true(scene, buf[0] == 0 && buf[4095] == 0 && buf[4096] == 'y');
    expect_rc(scene, origin_fallocate(origin, &ref, 0, 0, 0, NULL), -EINVAL);
    expect_rc(scene, origin_fallocate(origin, &ref, 0, INT64_MAX, 1, NULL), -EFBIG);
    expect_rc(scene, origin_fallocate(origin, &scene->root, 0, 0, 1, NULL), -EISDIR);
}

/* Goal:   holes are made, found and filled as on the file system itself.
 * Method: lseek and fallocate with their modes and errors. */
Test(origin_data, holes)
{
    scene_each(holes_body, NULL);
}

static void errors_body(struct scene *scene)
{
    struct origin    *origin = scene->origin;
    struct origin_ref ref = scene_create(scene, &scene->root, "f", 0000);
    char              buf[16];

    expect_rc(scene, origin_read(origin, &scene->root, buf, sizeof buf, 0), -EISDIR);
    expect_rc(scene, origin_write(origin, &scene->root, buf, 1, 0, 0, false, NULL), -EISDIR);
    expect_rc(scene, origin_read(origin, &ref, buf, sizeof buf, UINT64_MAX), -EINVAL);
    expect_rc(scene, origin_write(origin, &ref, buf, 1, UINT64_MAX, 0, false, NULL), -EFBIG);
    expect_rc(scene, origin_write(origin, &ref, buf, 0, 0, 0, false, NULL), 0);
    expect_rc(scene, origin_read(origin, &ref, buf, sizeof buf, 0), 0);
    expect_ok(scene, origin_fsync(origin, &ref, false));
    expect_ok(scene, origin_fsync(origin, &ref, true));
    expect_ok(scene, origin_fsync(origin, &scene->root, false));

    struct rlimit limit = {.rlim_cur = 8, .rlim_max = RLIM_INFINITY}, before;
    sys(getrlimit(RLIMIT_FSIZE, &before));
    limit.rlim_max = before.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    sys(setrlimit(RLIMIT_FSIZE, &limit));
    struct origin_attr attr;
    expect_rc(scene, origin_write(origin, &ref, "0123456789", 10, 0, 0, false, &attr), 8); /* short, then the error */
    expect_rc(scene, attr.size_bytes, 8);
    expect_rc(scene, origin_write(origin, &ref, "89", 2, 8, 0, false, &attr), -EFBIG);
    sys(setrlimit(RLIMIT_FSIZE, &before));
    scene_expect_text(scene, &ref, "01234567");
}

/* Goal:   what is no file has no bytes; offsets out of range are refused; an error after some bytes gives the bytes.
 * Method: directories, offsets, a limit on file sizes in the middle of a write. */
Test(origin_data, errors)
{
    scene_each(errors_body, NULL);
}

static void atime_body(struct scene *scene)
{
    struct origin_attr before, after, want = {.atime = {.sec = 1000}};

    scene_write_file(scene, "f", "text", 0644);
    struct origin_ref ref = scene_lookup(scene, &scene->root, "f");
    expect_ok(scene, origin_setattr(scene->origin, &ref, ORIGIN_SET_ATIME, &want, &root_cred, &before));
    scene_expect_text(scene, &ref, "text");
    expect_ok(scene, origin_getattr(scene->origin, &ref, &after));
    expect_true(scene, after.atime.sec == 1000);
}

/* Goal:   filling the cache does not move access times.
 * Method: an old access time, which relatime would renew. */
Test(origin_data, reads_leave_atime)
{
    scene_each(atime_body, NULL);
}
