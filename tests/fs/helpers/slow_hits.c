/* SPDX-License-Identifier: Apache-2.0 */
/* slow_hits.c - requests that wait for a slow origin do not delay a hit.
 *
 *   slow_hits SLOW_DIR COUNT HOT_FILE...
 *
 * SLOW_DIR holds the files s0 ... s(COUNT-1), each of 4 KiB that begin with its own number and are in nobody's cache.
 * They are opened first; then COUNT threads each read one with O_DIRECT, so that COUNT requests are under way at the
 * same time. When all threads have set out, the HOT_FILEs (in the segment already) are read with O_DIRECT, and asked
 * for their attributes past the kernel's cache, ROUNDS times. It is judged by order, not by the clock: when the last
 * hit is answered, more than half of the slow requests must still be waiting. All slow reads must end well, with the
 * right bytes. */
#include "t.h"

#include <sys/resource.h>

enum { BLOCK = 4096, ROUNDS = 50, STACK_BYTES = 256 << 10 };

static atomic_int started, finished;

struct slow {
    pthread_t thread;
    int       fd, number;
};

static void *aligned_block(void)
{
    void *memory = aligned_alloc(BLOCK, BLOCK);
    T_THAT(memory, "no memory");
    return memory;
}

static void *read_slow(void *argument)
{
    struct slow *s = argument;
    char        *block = aligned_block();
    started++;
    size_t n = t_pread(s->fd, block, BLOCK, 0);
    T_THAT(n == BLOCK && atoi(block) == s->number, "slow file %d: %zu bytes, the wrong ones", s->number, n);
    finished++;
    free(block);
    return NULL;
}

static void hit(const char *path, int fd, char *block, const char *want)
{
    struct statx stx;
    T_THAT(t_pread(fd, block, BLOCK, 0) == BLOCK && memcmp(block, want, BLOCK) == 0, "hit on %s: wrong bytes", path);
    T_OK(statx(fd, "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_BASIC_STATS, &stx));
    T_THAT(stx.stx_size >= BLOCK, "hit on %s: wrong size", path);
    int again = T_OK(open(path, O_RDONLY | O_CLOEXEC));
    close(again);
}

int main(int argc, char **argv)
{
    T_THAT(argc >= 4, "usage: slow_hits SLOW_DIR COUNT HOT_FILE...");
    int            count = atoi(argv[2]), hot_count = argc - 3, hot_fd[hot_count];
    struct slow   *slow = calloc((size_t)count, sizeof *slow);
    char          *block = aligned_block(), *want = aligned_block();
    struct rlimit  files = {(rlim_t)count + 100, (rlim_t)count + 100};
    pthread_attr_t attr;
    T_OK(setrlimit(RLIMIT_NOFILE, &files));
    for (int i = 0; i < hot_count; i++) {
        hot_fd[i] = T_OK(open(argv[3 + i], O_RDONLY | O_DIRECT));
        T_THAT(t_pread(hot_fd[i], want, BLOCK, 0) == BLOCK, "%s is short", argv[3 + i]);
    }
    for (int i = 0; i < count; i++) {
        char name[32];
        snprintf(name, sizeof name, "s%d", i);
        slow[i] = (struct slow){.number = i, .fd = t_open(argv[1], name, O_RDONLY | O_DIRECT, 0)};
    }
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    for (int i = 0; i < count; i++)
        T_THAT(pthread_create(&slow[i].thread, &attr, read_slow, &slow[i]) == 0, "pthread_create %d", i);
    while (started < count)
        usleep(1000);
    usleep(200000);
    int before = count - finished;
    T_THAT(before > count * 3 / 4, "only %d of %d slow requests wait: the origin is not slow enough for this test",
           before, count);
    for (int round = 0; round < ROUNDS; round++)
        for (int i = 0; i < hot_count; i++)
            hit(argv[3 + i], hot_fd[i], block, want);
    int after = count - finished;
    printf("slow_hits: %d slow requests waiting before %d hits, %d after them\n", before, ROUNDS * hot_count, after);
    fflush(stdout);
    T_THAT(after > count / 2, "the hits were delayed until %d slow requests had ended", count - after);
    for (int i = 0; i < count; i++)
        pthread_join(slow[i].thread, NULL);
    printf("slow_hits: all %d slow requests ended with the right bytes\n", count);
    free(slow);
    free(block);
    free(want);
    return 0;
}
