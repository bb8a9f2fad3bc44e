/* SPDX-License-Identifier: Apache-2.0 */
/* t.h - the little that the helper programs of the mount tests share: an error that ends the program,
 * a generator whose seed is printed, whole reads and writes. Everything is static inline; each helper is one file. */
#ifndef T_H
#define T_H

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Says what went wrong and ends the process at once: other threads may be stuck for good. */
__attribute__((noreturn, format(printf, 1, 2))) static inline void t_die(const char *format, ...)
{
    va_list args;
    fprintf(stderr, "FAIL: ");
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    fflush(NULL);
    _exit(1);
}

/* A call that must not fail. */
#define T_OK(call)                                                              \
    ({                                                                          \
        __typeof__(call) t_result = (call);                                     \
        if (t_result == (__typeof__(call))-1)                                   \
            t_die("%s:%d: %s: %s", __FILE__, __LINE__, #call, strerror(errno)); \
        t_result;                                                               \
    })

/* A thing that must be so. */
#define T_THAT(condition, ...)  \
    do {                        \
        if (!(condition))       \
            t_die(__VA_ARGS__); \
    } while (0)

/* xorshift64*: Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled", 2016. */
static inline uint64_t t_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545F4914F6CDD1DULL;
}

/* Never 0, which xorshift cannot leave. */
static inline uint64_t t_seed(const char *text, uint64_t stream)
{
    return (strtoull(text, NULL, 0) + 1) * 0x9E3779B97F4A7C15ULL + stream * 0xD1B54A32D192ED03ULL + 1;
}

static inline void t_random_fill(uint64_t *state, uint8_t *buffer, size_t size_bytes)
{
    for (size_t i = 0; i < size_bytes; i += 8) {
        uint64_t value = t_random(state);
        memcpy(buffer + i, &value, size_bytes - i < 8 ? size_bytes - i : 8);
    }
}

/* Reads until size or end of file; the count that was read. */
static inline size_t t_pread(int fd, void *buffer, size_t size_bytes, uint64_t offset)
{
    size_t done = 0;
    while (done < size_bytes) {
        ssize_t n = pread(fd, (char *)buffer + done, size_bytes - done, (off_t)(offset + done));
        if (n < 0)
            t_die("pread of %zu at %llu: %s", size_bytes, (unsigned long long)offset, strerror(errno));
        if (n == 0)
            break;
        done += (size_t)n;
    }
    return done;
}

static inline void t_pwrite(int fd, const void *buffer, size_t size_bytes, uint64_t offset)
{
    ssize_t n = pwrite(fd, buffer, size_bytes, (off_t)offset);
    if (n != (ssize_t)size_bytes)
        t_die("pwrite of %zu at %llu: %zd, %s", size_bytes, (unsigned long long)offset, n, strerror(errno));
}

/* "DIR/NAME" in a buffer of the caller. */
static inline const char *t_path(char *buffer, size_t size_bytes, const char *dir, const char *name)
{
    int n = snprintf(buffer, size_bytes, "%s/%s", dir, name);
    if (n < 0 || (size_t)n >= size_bytes)
        t_die("path too long: %s/%s", dir, name);
    return buffer;
}

static inline int t_open(const char *dir, const char *name, int flags, mode_t mode)
{
    char path[4096];
    int  fd = open(t_path(path, sizeof path, dir, name), flags | O_CLOEXEC, mode);
    if (fd < 0)
        t_die("open %s: %s", path, strerror(errno));
    return fd;
}

#endif
