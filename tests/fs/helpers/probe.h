/* SPDX-License-Identifier: Apache-2.0 */
/* probe.h - one line of output for each thing that a POSIX helper tries: "what: ok", "what: ENOENT", "what: value".
 * The same program runs in a plain directory and on a mount, and the outputs are compared; so no line may hold an
 * inode number, a time or a path. What must be so everywhere is checked on the spot by T_THAT, so that a plain
 * directory that is wrong itself does not pass. */
#ifndef PROBE_H
#define PROBE_H

#include "t.h"

static inline long probe_result(const char *what, long result)
{
    if (result < 0)
        printf("%s: %s\n", what, strerrorname_np(errno));
    else
        printf("%s: ok\n", what);
    return result;
}

/* The outcome of a call: ok, or the name of its errno. Evaluates to the call's result. */
#define TRY(what, call) probe_result(what, (long)(call))
/* The outcome must be this errno, here and everywhere. */
#define REFUSED(what, call, code)                                                                              \
    do {                                                                                                       \
        errno = 0;                                                                                             \
        long refused_result = TRY(what, call);                                                                 \
        T_THAT(refused_result < 0 && errno == (code), "%s: not refused with %s", what, strerrorname_np(code)); \
    } while (0)
#define VALUE(what, format, ...) printf("%s: " format "\n", what, __VA_ARGS__)

static inline struct stat probe_stat(const char *path)
{
    struct stat st = {0};
    if (lstat(path, &st) < 0)
        t_die("lstat %.60s: %s", path, strerror(errno));
    return st;
}

/* What a program sees of a name: type and mode, owner, links, size of a regular file. */
static inline void show(const char *what, const char *path)
{
    struct stat st;
    if (lstat(path, &st) < 0)
        VALUE(what, "%s", strerrorname_np(errno));
    else
        VALUE(what, "mode %06o owner %u:%u links %lu size %lld", st.st_mode, st.st_uid, st.st_gid,
              (unsigned long)st.st_nlink, S_ISREG(st.st_mode) || S_ISLNK(st.st_mode) ? (long long)st.st_size : -1);
}

static inline void make_file(const char *path, const char *text)
{
    int fd = T_OK(open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    t_pwrite(fd, text, strlen(text), 0);
    close(fd);
}

static inline void show_text(const char *what, const char *path)
{
    char text[100] = {0};
    int  fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        VALUE(what, "%s", strerrorname_np(errno));
        return;
    }
    t_pread(fd, text, sizeof text - 1, 0);
    VALUE(what, "\"%s\"", text);
    close(fd);
}

#endif
