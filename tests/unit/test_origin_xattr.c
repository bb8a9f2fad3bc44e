/* SPDX-License-Identifier: Apache-2.0 */
/* test_origin_xattr.c - extended attributes of files, directories, symlinks and fifos. */
#include "support_origin.h"

#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

static void basic_body(struct scene *scene, const struct origin_ref *ref, const char *path, const char *name)
{
    struct origin *origin = scene->origin;
    char           got[64], list[256];

    expect_rc(scene, origin_getxattr(origin, ref, name, got, sizeof got, &root_cred), -ENODATA);
    expect_rc(scene, origin_setxattr(origin, ref, name, "1", 1, XATTR_REPLACE, &root_cred), -ENODATA);
    expect_ok(scene, origin_setxattr(origin, ref, name, "value", 5, XATTR_CREATE, &root_cred));
    expect_rc(scene, origin_setxattr(origin, ref, name, "other", 5, XATTR_CREATE, &root_cred), -EEXIST);
    expect_rc(scene, lgetxattr(path, name, got, sizeof got), 5); /* on this very node, not on what it points at */
    expect_rc(scene, origin_getxattr(origin, ref, name, NULL, 0, &root_cred), 5);
    expect_rc(scene, origin_getxattr(origin, ref, name, got, 4, &root_cred), -ERANGE);
    expect_rc(scene, origin_getxattr(origin, ref, name, got, sizeof got, &root_cred), 5);
    expect_true(scene, memcmp(got, "value", 5) == 0);
    ssize_t need = origin_listxattr(origin, ref, NULL, 0, &root_cred);
    expect_true(scene, need >= (ssize_t)strlen(name) + 1);
    expect_rc(scene, origin_listxattr(origin, ref, list, sizeof list, &root_cred), need);
    expect_true(scene, memmem(list, (size_t)need, name, strlen(name) + 1) != NULL);
    expect_rc(scene, origin_listxattr(origin, ref, list, 1, &root_cred), -ERANGE);
    expect_ok(scene, origin_setxattr(origin, ref, name, "", 0, XATTR_REPLACE, &root_cred));
    expect_rc(scene, origin_getxattr(origin, ref, name, got, sizeof got, &root_cred), 0);
    expect_ok(scene, origin_removexattr(origin, ref, name, &root_cred));
    expect_rc(scene, origin_removexattr(origin, ref, name, &root_cred), -ENODATA);
}

static void xattr_body(struct scene *scene)
{
    struct origin_ref ref;

    ref = scene_create(scene, &scene->root, "f", 0644);
    int         err = origin_setxattr(scene->origin, &ref, "user.probe", "1", 1, 0, &root_cred);
    const char *name = err ? "trusted.x" : "user.x"; /* tmpfs has user.* since 6.6 */
    basic_body(scene, &ref, scene_path(scene, "f"), name);
    ref = scene_mkdir(scene, &scene->root, "d", 0755);
    basic_body(scene, &ref, scene_path(scene, "d"), name);
    if (geteuid() == 0) {
        sys(symlink("f", scene_path(scene, "l")));
        ref = scene_lookup(scene, &scene->root, "l");
        expect_rc(scene, origin_setxattr(scene->origin, &ref, "user.x", "1", 1, 0, &root_cred), -EPERM);
        basic_body(scene, &ref, scene_path(scene, "l"), "trusted.x");
        sys(mkfifo(scene_path(scene, "p"), 0644));
        ref = scene_lookup(scene, &scene->root, "p");
        basic_body(scene, &ref, scene_path(scene, "p"), "trusted.x");
    }
}

/* Goal:   xattrs are set, read, listed and removed on the node itself, with the errors of the system calls.
 * Method: files and directories; a symlink that points at a file; a fifo without a reader. */
Test(origin_xattr, every_kind_of_node, .timeout = 10)
{
    scene_each(xattr_body, NULL);
}

static void rights_body(struct scene *scene)
{
    struct origin_ref ref = scene_create(scene, &scene->root, "f", 0600);
    char              got[8];

    if (origin_setxattr(scene->origin, &ref, "user.x", "secret", 6, 0, &root_cred) != 0)
        return; /* no user.* here */
    expect_rc(scene, origin_getxattr(scene->origin, &ref, "user.x", got, sizeof got, &nobody_cred), -EACCES);
    expect_rc(scene, origin_removexattr(scene->origin, &ref, "user.x", &nobody_cred), -EACCES);
    expect_rc(scene, origin_getxattr(scene->origin, &ref, "user.x", got, sizeof got, NULL), 6); /* as the daemon */
    sys(chmod(scene_path(scene, "f"), 0604));
    expect_rc(scene, origin_getxattr(scene->origin, &ref, "user.x", got, sizeof got, &nobody_cred), 6);
}

/* Goal:   user.* follows the mode bits of the file, for the caller.
 * Method: a user on a file 0600 and 0604 of root. */
Test(origin_xattr, callers_rights_count)
{
    need_root();
    scene_each(rights_body, NULL);
}
