/* SPDX-License-Identifier: Apache-2.0 */
/* test_origin_posix.c - opening an origin, its root, its counts, and an origin that may not be changed. */
#include "support_origin.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* Goal:   a source that is missing or no directory is refused with the errno that says so, and leaves nothing open.
 * Method: open such sources; compare the number of descriptors of the process. */
Test(origin_posix, a_bad_source_is_refused)
{
    struct origin *origin = NULL;
    int            before = dup(0);

    cr_assert(origin_posix_open("/nonexistent/dir", NULL, &origin) == -ENOENT);
    cr_assert(origin_posix_open("/proc/version", NULL, &origin) == -ENOTDIR);
    cr_assert(origin == NULL);
    int after = dup(0);
    cr_assert(after == before + 1, "descriptors left open: %d after %d", after, before);
    origin_close(NULL);
}

static void root_body(struct scene *scene)
{
    struct stat st;

    sys(stat(scene->dir, &st));
    expect_true(scene, scene->root.ino == st.st_ino && scene->root.dev == st.st_dev);
    expect_true(scene, scene->root_attr.ino == st.st_ino && S_ISDIR(scene->root_attr.mode));
    expect_true(scene, scene->root_attr.mtime.sec == st.st_mtim.tv_sec && scene->root_attr.nlink == st.st_nlink);
    expect_true(scene, origin_has_handles(scene->origin) == (scene->root.kind == ORIGIN_REF_HANDLE));
    if (scene->options.no_handles)
        expect_true(scene, scene->root.kind == ORIGIN_REF_PATH);
    else if (geteuid() == 0)
        expect_true(scene, scene->root.kind == ORIGIN_REF_HANDLE);

    struct origin_ref before = scene->root;
    scene_reopen(scene);
    expect_true(scene, memcmp(&before, &scene->root, sizeof before) == 0);
}

/* Goal:   the root's reference and attributes are those of the directory, and the same after a restart.
 * Method: compare with stat(2); close and open again. */
Test(origin_posix, root_is_the_directory)
{
    scene_each(root_body, NULL);
}

static void moved_body(struct scene *scene)
{
    char away[PATH_MAX + 8];

    scene_write_file(scene, "f", "text", 0644);
    snprintf(away, sizeof away, "%s-2", scene->dir);
    sys(rename(scene->dir, away));
    sys(mkdir(scene->dir, 0755));
    struct origin_ref ref = scene_lookup(scene, &scene->root, "f");
    scene_expect_text(scene, &ref, "text");
}

/* Goal:   the path is used once: whatever stands there later is not served.
 * Method: rename the directory and put another one in its place. */
Test(origin_posix, directory_renamed_after_open)
{
    scene_each(moved_body, NULL);
}

static void stats_body(struct scene *scene)
{
    struct origin_stats before, after;
    char                buf[64];

    struct origin_ref ref = scene_create(scene, &scene->root, "f", 0644);
    origin_stats_get(scene->origin, &before);
    expect_rc(scene, origin_write(scene->origin, &ref, "12345", 5, 0, 0, false, NULL), 5);
    expect_rc(scene, origin_read(scene->origin, &ref, buf, sizeof buf, 0), 5);
    expect_rc(scene, origin_read(scene->origin, &ref, buf, sizeof buf, 5), 0);
    expect_ok(scene, origin_getattr(scene->origin, &ref, &(struct origin_attr){0}));
    origin_stats_get(scene->origin, &after);
    expect_true(scene, after.reads == before.reads + 2 && after.read_bytes == before.read_bytes + 5);
    expect_true(scene, after.writes == before.writes + 1 && after.write_bytes == before.write_bytes + 5);
    expect_true(scene, after.meta_ops == before.meta_ops + 1);
    expect_true(scene, after.open_fds >= 4);
    origin_forget(scene->origin, &ref);
    origin_stats_get(scene->origin, &after);
    expect_true(scene, after.open_fds == 2);
}

/* Goal:   the counts say what the origin was asked for, exactly; after forget only the root is open.
 * Method: known calls, differences of the counts. */
Test(origin_posix, counts_are_exact)
{
    scene_each(stats_body, NULL);
}

static void read_only_body(struct scene *scene)
{
    struct origin     *origin = scene->origin;
    struct origin_ref  ref, made;
    struct origin_attr attr, want = {.mode = 0600};
    bool               created;

    scene_write_file(scene, "f", "text", 0644);
    ref = scene_lookup(scene, &scene->root, "f");
    const struct origin_ref *dir = &scene->root;
    expect_rc(scene, origin_create(origin, dir, "n", 0644, O_EXCL, &root_cred, &made, &attr, &created), -EROFS);
    expect_rc(scene, origin_mknod(origin, dir, "n", S_IFIFO | 0644, 0, &root_cred, &made, &attr), -EROFS);
    expect_rc(scene, origin_mkdir(origin, dir, "n", 0755, &root_cred, &made, &attr), -EROFS);
    expect_rc(scene, origin_symlink(origin, dir, "n", "t", &root_cred, &made, &attr), -EROFS);
    expect_rc(scene, origin_link(origin, &ref, dir, "n", &root_cred, &attr), -EROFS);
    expect_rc(scene, origin_unlink(origin, dir, "f", &root_cred), -EROFS);
    expect_rc(scene, origin_rmdir(origin, dir, "f", &root_cred), -EROFS);
    expect_rc(scene, origin_rename(origin, dir, "f", dir, "g", 0, &root_cred), -EROFS);
    expect_rc(scene, origin_tmpfile(origin, dir, 0600, &root_cred, &made, &attr), -EROFS);
    expect_rc(scene, origin_setattr(origin, &ref, ORIGIN_SET_MODE, &want, &root_cred, &attr), -EROFS);
    expect_rc(scene, origin_setxattr(origin, &ref, "user.x", "1", 1, 0, &root_cred), -EROFS);
    expect_rc(scene, origin_removexattr(origin, &ref, "user.x", &root_cred), -EROFS);
    expect_rc(scene, origin_write(origin, &ref, "x", 1, 0, 0, false, NULL), -EROFS);
    expect_rc(scene, origin_fallocate(origin, &ref, 0, 0, 10, NULL), -EROFS);
    scene_expect_text(scene, &ref, "text");
}

/* Goal:   read_only answers every change with -EROFS and changes nothing.
 * Method: all changing calls, as root. */
Test(origin_posix, read_only_refuses_each_change)
{
    scene_each(read_only_body, &(struct origin_options){.read_only = true});
}

/* Goal:   opening raises the soft limit of descriptors to the hard one.
 * Method: lower the soft limit first. */
Test(origin_posix, descriptor_limit_is_raised)
{
    struct origin *origin;
    struct rlimit  limit;

    sys(getrlimit(RLIMIT_NOFILE, &limit));
    rlim_t hard = limit.rlim_max;
    limit.rlim_cur = 64;
    sys(setrlimit(RLIMIT_NOFILE, &limit));
    cr_assert(origin_posix_open("/tmp", NULL, &origin) == 0);
    sys(getrlimit(RLIMIT_NOFILE, &limit));
    cr_assert(limit.rlim_cur == hard);
    origin_close(origin);
}
