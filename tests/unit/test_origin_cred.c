/* SPDX-License-Identifier: Apache-2.0 */
/* test_origin_cred.c - whose rights a change is made with, and that the thread is the daemon again afterwards. */
#include "support_origin.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { GROUP = 4711, USER = 1234 };

/* The calling thread's own line of /proc, e.g. "Uid:\t0\t0\t0\t0" */
static void status_line(const char *key, char line[256])
{
    char  path[64];
    FILE *file;

    snprintf(path, sizeof path, "/proc/self/task/%ld/status", (long)syscall(SYS_gettid));
    cr_assert(file = fopen(path, "r"));
    do
        cr_assert(fgets(line, 256, file), "no %s", key);
    while (strncmp(line, key, strlen(key)) != 0);
    fclose(file);
}

static void expect_daemon(struct scene *scene)
{
    static const char *const wanted[] = {"Uid:\t0\t0\t0\t0\n", "Gid:\t0\t0\t0\t0\n", "Umask:\t0022\n"};
    char                     line[256];

    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        char key[8] = {0};
        memcpy(key, wanted[i], strcspn(wanted[i], ":") + 1);
        status_line(key, line);
        cr_assert(strcmp(line, wanted[i]) == 0, "[%s] %s", scene->label, line);
    }
}

static void denied_body(struct scene *scene)
{
    struct origin     *origin = scene->origin;
    struct origin_ref  ref, file, target;
    struct origin_attr attr, want = {.mode = 0777, .uid = NOBODY, .gid = NOBODY};
    const uint32_t     sets[] = {ORIGIN_SET_MODE, ORIGIN_SET_UID, ORIGIN_SET_GID, ORIGIN_SET_MTIME};
    bool               created;
    char               groups_before[256], groups_after[256], caps_before[256], caps_after[256];

    status_line("Groups:", groups_before);
    status_line("CapEff:", caps_before);
    file = scene_create(scene, &scene->root, "f", 0644);
    target = scene_mkdir(scene, &scene->root, "d", 0755);
    const struct origin_cred *cred = &nobody_cred;
    const struct origin_ref  *dir = &scene->root;
    expect_rc(scene, origin_create(origin, dir, "n", 0644, O_EXCL, cred, &ref, &attr, &created), -EACCES);
    expect_rc(scene, origin_create(origin, dir, "n", 0644, 0, cred, &ref, &attr, &created), -EACCES);
    expect_rc(scene, origin_mkdir(origin, dir, "n", 0755, cred, &ref, &attr), -EACCES);
    expect_rc(scene, origin_mknod(origin, dir, "n", S_IFREG | 0644, 0, cred, &ref, &attr), -EACCES);
    expect_rc(scene, origin_symlink(origin, dir, "n", "t", cred, &ref, &attr), -EACCES);
    expect_rc(scene, origin_tmpfile(origin, dir, 0600, cred, &ref, &attr), -EACCES);
    expect_rc(scene, origin_unlink(origin, dir, "f", cred), -EACCES);
    expect_rc(scene, origin_rmdir(origin, dir, "d", cred), -EACCES);
    expect_rc(scene, origin_rename(origin, dir, "f", dir, "g", 0, cred), -EACCES);
    expect_true(scene, origin_link(origin, &file, dir, "g", cred, &attr) < 0);
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++)
        expect_rc(scene, origin_setattr(origin, &file, sets[i], &want, cred, &attr), -EPERM);
    expect_rc(scene, origin_setxattr(origin, &file, "user.x", "1", 1, 0, cred), -EACCES);
    expect_ok(scene, origin_getattr(origin, &file, &attr));
    expect_true(scene, attr.mode == (S_IFREG | 0644) && attr.uid == 0 && attr.nlink == 1);
    expect_ok(scene, origin_getattr(origin, &target, &attr));

    expect_daemon(scene);
    status_line("Groups:", groups_after);
    status_line("CapEff:", caps_after);
    cr_assert(strcmp(groups_before, groups_after) == 0 && strcmp(caps_before, caps_after) == 0);
}

/* Goal:   uid 65534 can change nothing in a directory 0755 and in a file 0644 of root; the thread is root again after.
 * Method: each changing call, then the thread's status in /proc. */
Test(origin_cred, users_cannot_change_what_is_roots)
{
    need_root();
    scene_each(denied_body, NULL);
}

static void owner_body(struct scene *scene)
{
    struct origin_cred user = {.uid = USER, .gid = GROUP, .umask = 0027};
    struct origin_ref  dir, ref;
    struct origin_attr attr, want = {.mode = 0777};
    bool               created;

    dir = scene_mkdir(scene, &scene->root, "d", 0777);
    expect_ok(scene, origin_setattr(scene->origin, &dir, ORIGIN_SET_MODE, &want, &root_cred, &attr));
    expect_ok(scene, origin_create(scene->origin, &dir, "f", 0666, O_EXCL, &user, &ref, &attr, &created));
    expect_true(scene, attr.uid == USER && attr.gid == GROUP && attr.mode == (S_IFREG | 0640));
    expect_ok(scene, origin_mkdir(scene->origin, &dir, "s", 0777, &user, &ref, &attr));
    expect_true(scene, attr.uid == USER && attr.gid == GROUP && attr.mode == (S_IFDIR | 0750));
    expect_ok(scene, origin_mknod(scene->origin, &dir, "p", S_IFIFO | 0666, 0, &user, &ref, &attr));
    expect_true(scene, attr.uid == USER && attr.gid == GROUP && attr.mode == (S_IFIFO | 0640));
    expect_ok(scene, origin_symlink(scene->origin, &dir, "l", "t", &user, &ref, &attr));
    expect_true(scene, attr.uid == USER && attr.gid == GROUP);
    expect_ok(scene, origin_tmpfile(scene->origin, &dir, 0666, &user, &ref, &attr));
    expect_true(scene, attr.uid == USER && attr.gid == GROUP && attr.mode == (S_IFREG | 0640));
    expect_rc(scene, origin_mknod(scene->origin, &dir, "c", S_IFCHR | 0666, 0x103, &user, &ref, &attr), -EPERM);
    /* root with another group */
    struct origin_cred root_group = {.gid = GROUP};
    expect_ok(scene, origin_create(scene->origin, &dir, "g", 0644, O_EXCL, &root_group, &ref, &attr, &created));
    expect_true(scene, attr.uid == 0 && attr.gid == GROUP);
    /* a directory that passes on its group, also to subdirectories with the bit */
    want = (struct origin_attr){.mode = 02777, .gid = 99};
    expect_ok(scene, origin_setattr(scene->origin, &dir, ORIGIN_SET_MODE | ORIGIN_SET_GID, &want, &root_cred, &attr));
    expect_true(scene, attr.mode == (S_IFDIR | 02777) && attr.gid == 99);
    expect_ok(scene, origin_create(scene->origin, &dir, "h", 02755, O_EXCL, &user, &ref, &attr, &created));
    expect_true(scene, attr.uid == USER && attr.gid == 99 && !(attr.mode & S_ISGID));
    expect_ok(scene, origin_mkdir(scene->origin, &dir, "t", 0755, &user, &ref, &attr));
    expect_true(scene, attr.gid == 99 && (attr.mode & S_ISGID));
    expect_daemon(scene);
}

/* Goal:   new nodes belong to who made them, less its umask; an SGID directory passes on its group; a user's file in it
 *         does not become set-gid of a group that the user is not in.
 * Method: every kind of node, attributes as the call returned them. */
Test(origin_cred, new_nodes_belong_to_the_caller)
{
    need_root();
    scene_each(owner_body, NULL);
}

static void group_body(struct scene *scene)
{
    const gid_t        groups[] = {1, GROUP, 3};
    struct origin_cred in = {.uid = USER, .gid = 77, .group_count = 3, .groups = groups};
    struct origin_cred out = {.uid = USER, .gid = 77, .group_count = 1, .groups = groups};
    struct origin_cred none = {.uid = USER, .gid = 77};
    struct origin_ref  dir, ref;
    struct origin_attr attr, want = {.mode = 0770, .gid = GROUP};
    bool               created;

    dir = scene_mkdir(scene, &scene->root, "d", 0770);
    expect_ok(scene, origin_setattr(scene->origin, &dir, ORIGIN_SET_MODE | ORIGIN_SET_GID, &want, &root_cred, &attr));
    expect_rc(scene, origin_create(scene->origin, &dir, "f", 0644, O_EXCL, &none, &ref, &attr, &created), -EACCES);
    expect_rc(scene, origin_create(scene->origin, &dir, "f", 0644, O_EXCL, &out, &ref, &attr, &created), -EACCES);
    expect_ok(scene, origin_create(scene->origin, &dir, "f", 0644, O_EXCL, &in, &ref, &attr, &created));
    expect_true(scene, attr.gid == 77);
    /* the owner may give it to a group it is in, and to no other */
    expect_ok(scene, origin_setattr(scene->origin, &ref, ORIGIN_SET_GID, &want, &in, &attr));
    expect_true(scene, attr.gid == GROUP);
    want.gid = 5;
    expect_rc(scene, origin_setattr(scene->origin, &ref, ORIGIN_SET_GID, &want, &in, &attr), -EPERM);
    /* the daemon's own groups do not leak: root is in group 0 */
    want = (struct origin_attr){.mode = 0770, .gid = 0};
    expect_ok(scene, origin_setattr(scene->origin, &dir, ORIGIN_SET_GID, &want, &root_cred, &attr));
    expect_rc(scene, origin_create(scene->origin, &dir, "g", 0644, O_EXCL, &none, &ref, &attr, &created), -EACCES);

    struct origin_cred bad = {.uid = USER, .gid = 77, .group_count = 2};
    expect_rc(scene, origin_unlink(scene->origin, &dir, "f", &bad), -EINVAL);
    bad = (struct origin_cred){.uid = USER, .group_count = ORIGIN_GROUPS_MAX + 1, .groups = groups};
    expect_rc(scene, origin_unlink(scene->origin, &dir, "f", &bad), -EINVAL);
    bad = (struct origin_cred){.uid = (uint32_t)-1, .gid = 0}; /* would mean "leave it": root */
    expect_rc(scene, origin_unlink(scene->origin, &dir, "f", &bad), -EINVAL);
    expect_daemon(scene);
}

/* Goal:   supplementary groups count, and only those of the caller.
 * Method: a directory 0770 of a group; callers in it, in others, and in none. */
Test(origin_cred, supplementary_groups)
{
    need_root();
    scene_each(group_body, NULL);
}

static void capability_body(struct scene *scene)
{
    struct origin_ref  ref;
    struct origin_attr attr, want = {.uid = USER};
    struct origin_cred user = {.uid = USER, .gid = USER};
    char               list[512];

    ref = scene_create(scene, &scene->root, "f", 0644);
    expect_ok(scene, origin_setattr(scene->origin, &ref, ORIGIN_SET_UID, &want, &root_cred, &attr));
    expect_ok(scene, origin_setxattr(scene->origin, &ref, "trusted.t", "1", 1, 0, &root_cred));
    expect_rc(scene, origin_setxattr(scene->origin, &ref, "trusted.u", "1", 1, 0, &user), -EPERM);
    expect_rc(scene, origin_getxattr(scene->origin, &ref, "trusted.t", list, sizeof list, &user), -ENODATA);
    expect_rc(scene, origin_removexattr(scene->origin, &ref, "trusted.t", &user), -EPERM);
    ssize_t len = origin_listxattr(scene->origin, &ref, list, sizeof list, &user);
    expect_true(scene, len >= 0 && memmem(list, (size_t)len, "trusted.", 8) == NULL);
    len = origin_listxattr(scene->origin, &ref, list, sizeof list, &root_cred);
    expect_true(scene, len > 0 && memmem(list, (size_t)len, "trusted.t", 10) != NULL);
    expect_daemon(scene);
}

/* Goal:   a user's call has none of the daemon's capabilities, not even those that are not about files.
 * Method: trusted.* attributes of the user's own file need CAP_SYS_ADMIN. */
Test(origin_cred, no_capabilities_for_users)
{
    need_root();
    scene_each(capability_body, NULL);
}

static void *status_watch(void *arg)
{
    struct scene *scene = arg;
    for (int i = 0; i < 300; i++)
        expect_daemon(scene);
    return NULL;
}

static void threads_body(struct scene *scene)
{
    struct origin_cred cred = {.uid = USER, .gid = GROUP, .umask = 0077};
    struct origin_ref  ref;
    struct origin_attr attr;
    pthread_t          watcher;

    cr_assert(pthread_create(&watcher, NULL, status_watch, scene) == 0);
    for (int i = 0; i < 3000; i++)
        expect_rc(scene, origin_mkdir(scene->origin, &scene->root, "n", 0777, &cred, &ref, &attr), -EACCES);
    pthread_join(watcher, NULL);
}

/* Goal:   acting as a caller changes one thread; others keep uid, gid and umask.
 * Method: one thread acts as a user all the time, another reads its own status. */
Test(origin_cred, other_threads_are_not_changed, .timeout = 60)
{
    need_root();
    scene_each(threads_body, NULL);
}

static void sandbox_body(struct scene *scene)
{
    struct origin_cred cred = {.umask = 0027};
    struct origin_ref  ref;
    struct origin_attr attr;

    umask(0);
    expect_ok(scene, origin_mkdir(scene->origin, &scene->root, "d", 0777, &cred, &ref, &attr));
    expect_true(scene, attr.mode == (S_IFDIR | 0750));
    umask(022);
}

/* Goal:   where a sandbox forbids unshare(2), the umask still applies.
 * Method: a seccomp filter that answers EPERM to it. */
Test(origin_cred, umask_without_unshare)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_unshare, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {.len = sizeof code / sizeof *code, .filter = code};

    sys(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    sys(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter));
    cr_assert(unshare(0) < 0 && errno == EPERM);
    scene_each(sandbox_body, NULL);
}

static void unprivileged_body(struct scene *scene)
{
    struct origin_cred own = {.uid = USER, .gid = USER, .umask = 022};
    struct origin     *origin;
    struct origin_ref  root, ref;
    struct origin_attr attr, want = {.mode = 0777};
    bool               created;

    expect_ok(scene, origin_setattr(scene->origin, &scene->root, ORIGIN_SET_MODE, &want, &root_cred, &attr));
    sys(syscall(SYS_setresgid, -1, USER, -1));
    sys(syscall(SYS_setresuid, -1, USER, -1));
    expect_ok(scene, origin_posix_open(scene->dir, NULL, &origin));
    expect_ok(scene, origin_root(origin, &root, &attr));
    expect_true(scene, root.kind == ORIGIN_REF_PATH && !origin_has_handles(origin));
    expect_ok(scene, origin_create(origin, &root, "f", 0444, O_EXCL, &own, &ref, &attr, &created));
    expect_true(scene, attr.uid == USER && attr.mode == (S_IFREG | 0444));
    expect_rc(scene, origin_write(origin, &ref, "git does so", 11, 0, 0, false, NULL), 11);
    expect_rc(scene, origin_unlink(origin, &root, "f", &nobody_cred), -EPERM); /* cannot act for others */
    expect_ok(scene, origin_unlink(origin, &root, "f", &own));
    origin_close(origin);
    sys(syscall(SYS_setresuid, -1, 0, -1));
    sys(syscall(SYS_setresgid, -1, 0, -1));
}

/* Goal:   a daemon that is not root serves its own user, by paths, and refuses to act for others.
 * Method: give up root for a while; a file that is created with mode 0444 and then written, as git does. */
Test(origin_cred, unprivileged_daemon)
{
    need_root();
    scene_each(unprivileged_body, NULL);
}
