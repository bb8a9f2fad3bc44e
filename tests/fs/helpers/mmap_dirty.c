/* SPDX-License-Identifier: Apache-2.0 */
/* mmap_dirty.c - one member dirties pages through a shared mapping while the other writes to the same pages.
 *
 *   mmap_dirty DIR_A DIR_B SEED ROUNDS
 *
 * The file's pages are shared by three writers that never touch each other's bytes: of each page
 *   bytes    0..2047  stores through a mapping on A, seldom followed by msync
 *   bytes 2048..3071  write() on B, often together with the same part of a neighbouring page (two calls)
 *   bytes 3072..4095  write() on A itself
 * A recall of A has to write its dirty pages back while the recaller waits, and ordinary writeback of A runs at the
 * same time: the first thing that is tested is that nobody waits for ever (the main thread looks whether all three
 * make progress). Then that nothing is lost: every write() on B is seen at once by B and through A's mapping; at the
 * end, after msync on A, each byte read through B and through A is what its only writer stored last. */
#include "t.h"

enum { PAGE = 4096, PAGES = 64, FILE_BYTES = PAGES * PAGE, STALL_SECONDS = 40 };

static uint8_t     shadow[FILE_BYTES];
static uint8_t    *map;
static int         fd_a, fd_b;
static long        rounds;
static const char *seed_text;
static atomic_long progress[3];
static atomic_int  running = 3;

static void *store_through_mapping(void *unused)
{
    uint64_t rng = t_seed(seed_text, 1);
    (void)unused;
    for (long i = 0; i < rounds * 8; i++) {
        size_t at = t_random(&rng) % PAGES * PAGE + t_random(&rng) % 2048;
        map[at] = shadow[at] = (uint8_t)t_random(&rng);
        if (i % 512 == 511)
            T_OK(msync(map, FILE_BYTES, i % 1024 == 511 ? MS_SYNC : MS_ASYNC));
        atomic_fetch_add(&progress[0], 1);
    }
    running--;
    return NULL;
}

/* An own write does not read back: who has what, now and after a while. */
static void say_where_it_is(int fd, size_t at, size_t size, const uint8_t *back)
{
    uint8_t again[1024];
    size_t  first = 0, count = 0;
    for (size_t i = size; i-- > 0;)
        if (back[i] != shadow[at + i])
            first = i, count++;
    fprintf(stderr, "own write through %c at %zu+%zu: %zu bytes differ, from %zu on\n", fd == fd_b ? 'B' : 'A', at, size, count, first);
    for (int i = 0; i < 2; i++) {
        fprintf(stderr, "  mapping on A %s\n", memcmp(map + at, shadow + at, size) ? "differs" : "has it");
        t_pread(fd_a, again, size, at);
        fprintf(stderr, "  read on A %s\n", memcmp(again, shadow + at, size) ? "differs" : "has it");
        t_pread(fd_b, again, size, at);
        fprintf(stderr, "  read on B %s\n", memcmp(again, shadow + at, size) ? "differs" : "has it");
        usleep(500000);
    }
    T_THAT(false, "own write at %zu+%zu does not read back", at, size);
}

static void write_part(uint64_t *rng, int fd, size_t page, size_t part)
{
    size_t size = 1 + t_random(rng) % 1024, at = page * PAGE + part + t_random(rng) % (1025 - size);
    t_random_fill(rng, shadow + at, size);
    t_pwrite(fd, shadow + at, size, at);
    uint8_t back[1024];
    T_THAT(t_pread(fd, back, size, at) == size, "short read at %zu+%zu", at, size);
    if (memcmp(back, shadow + at, size) != 0)
        say_where_it_is(fd, at, size, back);
    T_THAT(memcmp(map + at, shadow + at, size) == 0, "write at %zu+%zu through %c is not in A's mapping", at, size,
           fd == fd_b ? 'B' : 'A');
}

static void *write_on_b(void *unused)
{
    uint64_t rng = t_seed(seed_text, 2);
    (void)unused;
    for (long i = 0; i < rounds; i++) {
        size_t page = t_random(&rng) % PAGES;
        write_part(&rng, fd_b, page, 2048);
        if (i % 2)
            write_part(&rng, fd_b, (page + 1) % PAGES, 2048);
        atomic_fetch_add(&progress[1], 1);
    }
    running--;
    return NULL;
}

static void *write_on_a(void *unused)
{
    uint64_t rng = t_seed(seed_text, 3);
    (void)unused;
    for (long i = 0; i < rounds; i++) {
        write_part(&rng, fd_a, t_random(&rng) % PAGES, 3072);
        atomic_fetch_add(&progress[2], 1);
    }
    running--;
    return NULL;
}

static void watch_progress(void)
{
    long last = -1;
    int  still = 0;
    while (running > 0) {
        usleep(100000);
        long now = progress[0] + progress[1] + progress[2];
        still = now == last ? still + 1 : 0;
        last = now;
        T_THAT(still < STALL_SECONDS * 10, "no progress for %d s: %ld stores, %ld writes on B, %ld writes on A",
               STALL_SECONDS, progress[0], progress[1], progress[2]);
    }
}

static void read_all(int fd, const char *whose)
{
    uint8_t got[FILE_BYTES];
    T_THAT(t_pread(fd, got, FILE_BYTES, 0) == FILE_BYTES, "short read through %s", whose);
    for (size_t i = 0; i < FILE_BYTES; i++)
        T_THAT(got[i] == shadow[i], "byte %zu through %s is %02x, want %02x (last %s)", i, whose, got[i], shadow[i],
               i % PAGE < 2048   ? "stored through A's mapping"
               : i % PAGE < 3072 ? "written on B"
                                 : "written on A");
}

int main(int argc, char **argv)
{
    T_THAT(argc == 5, "usage: mmap_dirty DIR_A DIR_B SEED ROUNDS");
    void *(*const run[3])(void *) = {store_through_mapping, write_on_b, write_on_a};
    pthread_t threads[3];
    seed_text = argv[3];
    rounds = atol(argv[4]);
    fd_a = t_open(argv[1], "dirty", O_RDWR | O_CREAT | O_TRUNC, 0644);
    T_OK(ftruncate(fd_a, FILE_BYTES));
    fd_b = t_open(argv[2], "dirty", O_RDWR, 0);
    map = T_OK(mmap(NULL, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd_a, 0));
    for (int i = 0; i < 3; i++)
        T_THAT(pthread_create(&threads[i], NULL, run[i], NULL) == 0, "pthread_create");
    watch_progress();
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    T_OK(msync(map, FILE_BYTES, MS_SYNC));
    read_all(fd_b, "B");
    read_all(fd_a, "A");
    printf("mmap_dirty: %ld stores, %ld writes on B, %ld writes on A, seed %s\n", progress[0], progress[1], progress[2],
           seed_text);
    return 0;
}
