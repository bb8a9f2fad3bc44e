/* SPDX-License-Identifier: Apache-2.0 */
/*
 * posix.h - the conformance suite's driver: cases in tables, two views of one tree, a transcript of what came of each step.
 *
 * A case acts by relative names in a directory of its own (it is started there), and observes the same directory by B("name"): in a plain run the same
 * directory, across mounts the other member's. Every step prints one line, "AREA.CASE STEP: OUTCOME". The transcripts of a plain directory and of mounts
 * are compared, so no line may hold an inode number, a time or a path of this run. What POSIX or Linux leaves no choice about is stated with the step
 * (FAILS, IS, the expectation of MOVES); a step that is not so prints "NO" and counts as wrong, in a plain directory too.
 *
 * Steps are written as calls that return -1 and errno. A case ends early only by POSIX_OK, for what it cannot go on without.
 */
#ifndef POSIX_H
#define POSIX_H

#include "t.h"

#include <dirent.h>
#include <signal.h>
#include <sys/wait.h>

struct posix_case {
    const char *name;
    void (*run)(void);
};
struct posix_area {
    const char              *name;
    const struct posix_case *cases; /* ends with a zero */
};
extern const struct posix_case posix_rights[], posix_setid[], posix_acl[], posix_xattr[], posix_times[], posix_atime[], posix_names[], posix_links[],
    posix_rename[], posix_open[], posix_orphan[], posix_dir[], posix_data[], posix_space[], posix_copy[], posix_map[], posix_exec[], posix_readonly[],
    posix_errors[];

enum { ALICE = 41001, BOB = 41002, STAFF = 42001, GUESTS = 42002, AUDIO = 42003, BLOCK = 4096 };

/* "name" as the other side sees it; good for the next 16 calls. */
const char *B(const char *name);
bool        posix_across(void); /* both sides are not the same directory */

__attribute__((format(printf, 2, 3))) void posix_line(const char *step, const char *format, ...);
long posix_do(const char *step, long result, int error);
void posix_fails(const char *step, long result, int error, int expected);
void posix_is(const char *step, bool so);

/* The outcome of a call: ok, or the name of its errno. Its value is the call's. */
#define DO(call)                                        \
    ({                                                  \
        errno = 0;                                      \
        long do_result = (long)(call);                  \
        posix_do(#call, do_result, errno);              \
    })
/* The same with a name of its own. */
#define STEP(step, call)                                \
    ({                                                  \
        errno = 0;                                      \
        long step_result = (long)(call);                \
        posix_do(step, step_result, errno);             \
    })
/* Must fail with this errno, everywhere. */
#define FAILS(code, call)                               \
    do {                                                \
        errno = 0;                                      \
        long fails_result = (long)(call);               \
        posix_fails(#call, fails_result, errno, code);  \
    } while (0)
/* Must be so, everywhere. */
#define IS(condition) posix_is(#condition, condition)
#define VALUE(step, ...) posix_line(step, __VA_ARGS__)
#define POSIX_OK(call) T_OK(call)

/* Type, mode, owner, links, size of a name, from both sides. */
void see(const char *name);
/* Contents, read from both sides and through a mapping of the other. */
void see_bytes(const char *name);
void see_fd(const char *step, int fd);   /* what fstat says                     */
void see_names(const char *directory);   /* sorted, with types, from both sides */
void see_target(const char *name);       /* readlink                            */

/* A file with this text. */
void put(const char *name, const char *text);
void put_pattern(const char *name, size_t size, uint64_t seed);
/* Its text on the other side (at most 200 bytes), in a buffer that the next call uses again. */
const char *text_at_b(const char *name);

/*
 * Which times a call moves, of up to four names: MOVES(call, "f", "mc", ".", ""). Letters a, m, c of the times that moved; both sides must agree on the
 * times, and what moved must be now. The expectation "?" leaves it to the comparison.
 */
struct posix_times {
    const char *name[4], *expected[4];
    struct stat before[4], start;
    unsigned    count;
};
void posix_times_before(struct posix_times *times, const char *const *list);
void posix_times_after(const struct posix_times *times, const char *step, long result, int error);
#define MOVES(call, ...)                                                                     \
    do {                                                                                     \
        struct posix_times moves_times;                                                      \
        posix_times_before(&moves_times, (const char *const[]){__VA_ARGS__, NULL});          \
        errno = 0;                                                                           \
        long moves_result = (long)(call);                                                    \
        posix_times_after(&moves_times, #call, moves_result, errno);                         \
    } while (0)

/* AS(uid, gid, more groups...) { steps }: in a child with these rights. */
pid_t posix_as_begin(uid_t uid, const gid_t *groups);
pid_t posix_as_end(void); /* does not return */
#define AS(uid, ...) for (pid_t as_pid = posix_as_begin(uid, (const gid_t[]){__VA_ARGS__, 0}); as_pid == 0; as_pid = posix_as_end())
/* CHILD { steps }: in a child with all rights. */
#define CHILD for (pid_t as_pid = posix_as_begin(0, (const gid_t[]){0}); as_pid == 0; as_pid = posix_as_end())

void posix_nap_ms(unsigned ms);

#endif
