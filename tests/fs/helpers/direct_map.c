/* SPDX-License-Identifier: Apache-2.0 */
/* direct_map.c - write() past the page cache and mappings of the same file agree, on the writing mount as well.
 *
 *   direct_map DIR_A DIR_B SEED ROUNDS
 *   direct_map cached FILE              prints how many pages of FILE its kernel has cached, or -1 if it cannot tell
 *
 * The main thread writes a new number over a part of the file through A, page-aligned or not, and looks at once through a
 * mapping and by read() on A and on B. Two more threads touch the mappings of A and of B all the time, so that pages which the
 * kernel drops before it sends the WRITE are faulted in again before it is carried out. Every tenth round the main thread stores
 * through a mapping instead, and msync()s. There is no sleep: an old number is a failure. */
#include "t.h"

#include <sys/mman.h>
#include <sys/syscall.h>

enum { FILE_BYTES = 256 << 10, PAGE = 4096, SYS_CACHESTAT = 451 };

static _Atomic bool     over;
static uint8_t         *map[2];
static volatile uint8_t sink;

static void *touch(void *argument)
{
    const uint8_t *at = argument;
    while (!over)
        for (size_t i = 0; i < FILE_BYTES; i += PAGE)
            sink = ((const volatile uint8_t *)at)[i];
    return NULL;
}

static void look(const char *how, long round, const uint8_t *got, const uint8_t *want, size_t offset, size_t size)
{
    for (size_t i = 0; i < size; i++)
        T_THAT(got[i] == want[i], "%s, round %ld: byte %zu is %u, should be %u (written: %zu at %zu)", how, round, offset + i,
               got[i], want[i], size, offset);
}

static void look_everywhere(const int fd[2], long round, const uint8_t *shadow, size_t offset, size_t size)
{
    static uint8_t got[FILE_BYTES];
    static const char *const mapped[2] = {"mapping on A", "mapping on B"}, *const read_by[2] = {"read on A", "read on B"};
    for (int m = 0; m < 2; m++) {
        look(mapped[m], round, map[m] + offset, shadow + offset, offset, size);
        T_THAT(t_pread(fd[m], got, size, offset) == size, "%s, round %ld: short", read_by[m], round);
        look(read_by[m], round, got, shadow + offset, offset, size);
    }
}

static void run(const int fd[2], uint64_t seed, long rounds)
{
    static uint8_t shadow[FILE_BYTES];
    uint64_t       rng = seed;
    for (long round = 1; round <= rounds; round++) {
        size_t size = t_random(&rng) % 3 ? 1 + t_random(&rng) % 20000 : PAGE * (1 + t_random(&rng) % 4);
        size_t offset = t_random(&rng) % (FILE_BYTES - size);
        if (size % PAGE == 0)
            offset &= ~(size_t)(PAGE - 1);
        memset(shadow + offset, (int)(round % 251), size);
        if (round % 10) {
            T_THAT(pwrite(fd[0], shadow + offset, size, (off_t)offset) == (ssize_t)size, "pwrite: %s", strerror(errno));
        } else {
            memcpy(map[0] + offset, shadow + offset, size);
            T_OK(msync(map[0], FILE_BYTES, MS_SYNC));
        }
        look_everywhere(fd, round, shadow, offset, size);
        if (round % 64 == 0)
            look_everywhere(fd, round, shadow, 0, FILE_BYTES);
    }
}

static int cached(const char *path)
{
    struct {
        uint64_t off, len;
    } range = {0, 0};
    struct {
        uint64_t cached, dirty, writeback, evicted, recently_evicted;
    } stat = {0};
    int fd = open(path, O_RDONLY);
    T_OK(fd);
    long rc = syscall(SYS_CACHESTAT, fd, &range, &stat, 0);
    printf("%lld\n", rc == 0 ? (long long)stat.cached : -1ll);
    return 0;
}

int main(int argc, char **argv)
{
    pthread_t thread[2];
    int       fd[2];
    if (argc == 3 && strcmp(argv[1], "cached") == 0)
        return cached(argv[2]);
    if (argc != 5)
        return 2;
    for (int m = 0; m < 2; m++) {
        fd[m] = t_open(argv[1 + m], "direct_map", O_RDWR | O_CREAT | (m ? 0 : O_TRUNC), 0644);
        T_OK(ftruncate(fd[m], FILE_BYTES));
        map[m] = mmap(NULL, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd[m], 0);
        if (map[m] == MAP_FAILED && errno == ENODEV) {
            printf("direct_map: this kernel cannot map such files\n");
            return 77;
        }
        T_THAT(map[m] != MAP_FAILED, "mmap: %s", strerror(errno));
    }
    for (int m = 0; m < 2; m++)
        T_THAT(pthread_create(&thread[m], NULL, touch, map[m]) == 0, "no thread");
    run(fd, strtoull(argv[3], NULL, 10), atol(argv[4]));
    over = true;
    for (int m = 0; m < 2; m++)
        pthread_join(thread[m], NULL);
    printf("direct_map: %s rounds, every look saw what was written\n", argv[4]);
    return 0;
}
