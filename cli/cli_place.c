/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cli_place.c - is this mount possible at all? Everything that can be known before anything is made.
 *
 * A mount whose daemon hangs makes stat() of its root hang too. So the mount table is asked first, with the real path of the folder above the mount point, and
 * a place that bears a hearthfs already is never touched.
 *
 * A mount point inside the source would make the tree contain itself; a source inside the mount point would vanish under it. Both are found by device and inode
 * of each folder on the way up, so that bind mounts and symbolic links do not hide it.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <mntent.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli.h"

static int fail(char err[SEG_ERR_BYTES], int rc, const char *format, ...) __attribute__((format(printf, 3, 4)));
static int fail(char err[SEG_ERR_BYTES], int rc, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(err, SEG_ERR_BYTES, format, args);
    va_end(args);
    return rc;
}

static int real_path(const char *path, char real[CLI_PATH_MAX])
{
    char *found = realpath(path, NULL);
    if (!found)
        return -errno;
    int rc = strlen(found) < CLI_PATH_MAX ? 0 : -ENAMETOOLONG;
    if (rc == 0)
        strcpy(real, found);
    free(found);
    return rc;
}

/* The real path of `path` without touching its last component. */
static int real_above(const char *path, char real[CLI_PATH_MAX])
{
    char copy[PATH_MAX], above[CLI_PATH_MAX];
    if (strlen(path) >= sizeof copy)
        return -ENAMETOOLONG;
    strcpy(copy, path);
    size_t length = strlen(copy);
    while (length > 1 && copy[length - 1] == '/')
        copy[--length] = 0;
    char       *slash = strrchr(copy, '/');
    const char *base = slash ? slash + 1 : copy;
    if (!*base || strcmp(base, ".") == 0 || strcmp(base, "..") == 0)
        return real_path(path, real);
    int rc = slash == copy ? real_path("/", above) : 0;
    if (slash && slash != copy) {
        *slash = 0;
        rc = real_path(copy, above);
    } else if (!slash) {
        rc = real_path(".", above);
    }
    if (rc)
        return rc;
    if (snprintf(real, CLI_PATH_MAX, "%s/%s", strcmp(above, "/") == 0 ? "" : above, base) >= CLI_PATH_MAX)
        return -ENAMETOOLONG;
    return 0;
}

/* Does the mount table say that the topmost mount at `path` is a hearthfs? */
bool cli_place_is_mounted(const char *path)
{
    FILE         *table = setmntent("/proc/self/mounts", "r");
    struct mntent entry;
    char          text[2 * PATH_MAX + 1024];
    bool          is_ours = false;
    if (!table)
        return false;
    while (getmntent_r(table, &entry, text, sizeof text))
        if (strcmp(entry.mnt_dir, path) == 0)
            is_ours = strcmp(entry.mnt_type, "fuse.hearthfs") == 0 || strcmp(entry.mnt_type, "hearthfs") == 0;
    endmntent(table);
    return is_ours;
}

/* Is `path` (real) the folder `what` or somewhere below it? */
static bool is_within(const char *path, const struct stat *what)
{
    char        part[CLI_PATH_MAX];
    struct stat st;
    snprintf(part, sizeof part, "%s", path);
    for (;;) {
        if (stat(part, &st) == 0 && st.st_dev == what->st_dev && st.st_ino == what->st_ino)
            return true;
        char *slash = strrchr(part, '/');
        if (!slash || !part[1])
            return false;
        slash[slash == part ? 1 : 0] = 0;
    }
}

static int source_check(const char *source, char real[CLI_PATH_MAX], struct stat *st, char *err)
{
    if (strncmp(source, "shm:", 4) == 0 || strncmp(source, "file:", 5) == 0)
        return fail(err, -EOPNOTSUPP, "%.100s: a member without the directory is not supported yet; give the directory itself, and the segment with "
                    "-o name=NAME or -o segment=file:PATH", source);
    int rc = real_path(source, real);
    if (rc == 0 && stat(real, st) != 0)
        rc = -errno;
    if (rc == -ENOENT)
        return fail(err, rc, "source %.150s: does not exist; give a directory", source);
    if (rc)
        return fail(err, rc, "source %.150s: %s", source, strerror(-rc));
    if (!S_ISDIR(st->st_mode))
        return fail(err, -ENOTDIR, "source %.150s: is not a directory", source);
    return 0;
}

static int mountpoint_check(const char *mountpoint, char real[CLI_PATH_MAX], struct stat *st, char *err)
{
    static const char busy[] = "mount point %.150s: a hearthfs is mounted there already; unmount it first (umount, or umount -l if its daemon has died)";
    int rc = real_above(mountpoint, real);
    if (rc == 0 && cli_place_is_mounted(real))
        return fail(err, -EBUSY, busy, mountpoint);
    if (rc == 0)
        rc = real_path(mountpoint, real); /* it may be a symbolic link */
    if (rc == 0 && cli_place_is_mounted(real))
        return fail(err, -EBUSY, busy, mountpoint);
    if (rc == 0 && stat(real, st) != 0)
        rc = -errno;
    if (rc == -ENOENT)
        return fail(err, rc, "mount point %.150s: does not exist; make it with mkdir", mountpoint);
    if (rc == -ENOTCONN)
        return fail(err, rc, "mount point %.150s: is the mount of a daemon that has died; clear it with umount -l", mountpoint);
    if (rc)
        return fail(err, rc, "mount point %.150s: %s", mountpoint, strerror(-rc));
    if (!S_ISDIR(st->st_mode))
        return fail(err, -ENOTDIR, "mount point %.150s: is not a directory", mountpoint);
    return 0;
}

int cli_place_check(const char *source, const char *mountpoint, char source_real[CLI_PATH_MAX], char mountpoint_real[CLI_PATH_MAX],
                    char err[SEG_ERR_BYTES])
{
    struct stat source_st, mountpoint_st, fuse_st;
    if (geteuid() != 0)
        return fail(err, -EPERM, "mounting needs root; try: sudo hearthfs mount ...");
    int rc = source_check(source, source_real, &source_st, err);
    if (rc == 0)
        rc = mountpoint_check(mountpoint, mountpoint_real, &mountpoint_st, err);
    if (rc)
        return rc;
    if (is_within(mountpoint_real, &source_st))
        return fail(err, -ELOOP, "mount point %.100s: is inside the source %.100s; choose one outside of it", mountpoint_real, source_real);
    if (is_within(source_real, &mountpoint_st))
        return fail(err, -ELOOP, "mount point %.100s: the source %.100s is inside of it and would vanish under the mount; choose another one",
                    mountpoint_real, source_real);
    if (stat("/dev/fuse", &fuse_st) != 0 || !S_ISCHR(fuse_st.st_mode))
        return fail(err, -ENODEV, "/dev/fuse: is missing; load the kernel's module (modprobe fuse), or give the container that device");
    int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return fail(err, -errno, "/dev/fuse: cannot be opened: %s; is this container allowed to use FUSE?", strerror(errno));
    close(fd);
    return 0;
}
