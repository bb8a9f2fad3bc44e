/* SPDX-License-Identifier: Apache-2.0 */
/* test_origin_ref.c - references: what they survive, what they refuse, and that none leads out of the directory. */
#include "support_origin.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static void names_body(struct scene *scene)
{
    static const char *const bad[] = {"", ".", "..", "a/b", "/", "/etc", "../shared", "a/"};
    struct origin_ref        ref;
    struct origin_attr       attr;
    char                     longest[257];

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        expect_rc(scene, origin_lookup(scene->origin, &scene->root, bad[i], &ref, &attr), -EINVAL);
        expect_rc(scene, origin_mkdir(scene->origin, &scene->root, bad[i], 0755, &root_cred, &ref, &attr), -EINVAL);
        expect_rc(scene, origin_rename(scene->origin, &scene->root, "x", &scene->root, bad[i], 0, &root_cred), -EINVAL);
        expect_rc(scene, origin_unlink(scene->origin, &scene->root, bad[i], &root_cred), -EINVAL);
    }
    memset(longest, 'n', 256);
    longest[256] = '\0';
    expect_rc(scene, origin_lookup(scene->origin, &scene->root, longest, &ref, &attr), -ENAMETOOLONG);
    longest[255] = '\0';
    expect_rc(scene, origin_lookup(scene->origin, &scene->root, longest, &ref, &attr), -ENOENT);
    scene_create(scene, &scene->root, longest, 0644);
}

/* Goal:   a name is one component of 1 to 255 bytes; nothing else reaches the file system.
 * Method: the classics, for several calls. */
Test(origin_ref, names_are_single_components)
{
    scene_each(names_body, NULL);
}

static void symlink_body(struct scene *scene)
{
    struct origin_ref  ref, below;
    struct origin_attr attr;
    bool               created;
    char               buf[16];

    sys(symlink("/etc", scene_path(scene, "etc")));
    sys(symlink("/etc/passwd", scene_path(scene, "passwd")));
    sys(symlink("..", scene_path(scene, "up")));
    ref = scene_lookup(scene, &scene->root, "etc");
    expect_rc(scene, origin_lookup(scene->origin, &ref, "passwd", &below, &attr), -ENOTDIR);
    expect_rc(scene, origin_mkdir(scene->origin, &ref, "made", 0755, &root_cred, &below, &attr), -ENOTDIR);
    ref = scene_lookup(scene, &scene->root, "up");
    expect_rc(scene, origin_lookup(scene->origin, &ref, "shared", &below, &attr), -ENOTDIR);
    ref = scene_lookup(scene, &scene->root, "passwd");
    expect_ok(scene, origin_getattr(scene->origin, &ref, &attr));
    expect_true(scene, S_ISLNK(attr.mode));
    expect_rc(scene, origin_read(scene->origin, &ref, buf, sizeof buf, 0), -EINVAL);
    expect_rc(scene, origin_write(scene->origin, &ref, "x", 1, 0, 0, false, NULL), -EINVAL);
    /* create where a symlink stands gives the symlink, not what it points at */
    expect_ok(scene, origin_create(scene->origin, &scene->root, "passwd", 0644, 0, &root_cred, &ref, &attr, &created));
    expect_true(scene, !created && S_ISLNK(attr.mode));
}

/* Goal:   symlinks are nodes, never ways.
 * Method: symlinks to /etc, to a file outside, and to "..", used as directories and as files. */
Test(origin_ref, symlinks_are_not_followed)
{
    scene_each(symlink_body, NULL);
}

static void forged_body(struct scene *scene)
{
    struct origin_ref  good, bad, other;
    struct origin_attr attr;

    scene_write_file(scene, "f", "text", 0644);
    scene_write_file(scene, "g", "text", 0644);
    scene_write_file(scene, "../outside", "secret", 0600);
    good = scene_lookup(scene, &scene->root, "f");
    other = scene_lookup(scene, &scene->root, "g");

    bad = (struct origin_ref){0};
    expect_rc(scene, origin_getattr(scene->origin, &bad, &attr), -EUCLEAN);
    bad = good;
    bad.kind = 7;
    expect_rc(scene, origin_getattr(scene->origin, &bad, &attr), -EUCLEAN);
    bad = good;
    bad.handle_len = 21;
    expect_rc(scene, origin_getattr(scene->origin, &bad, &attr), -EUCLEAN);
    bad = good;
    bad.ino += 1000003; /* the next one may be that of g, born in the same tick */
    expect_rc(scene, origin_getattr(scene->origin, &bad, &attr), -ESTALE);
    bad = good;
    bad.dev++;
    expect_rc(scene, origin_getattr(scene->origin, &bad, &attr), -ESTALE);
    bad = good;
    bad.birth_ns++;
    expect_rc(scene, origin_getattr(scene->origin, &bad, &attr), -ESTALE);
    if (good.kind == ORIGIN_REF_HANDLE) {
        bad = good; /* the handle of one file, the identity of another */
        memcpy(bad.handle, other.handle, sizeof bad.handle);
        expect_rc(scene, origin_getattr(scene->origin, &bad, &attr), -ESTALE);
        bad = good;
        memset(bad.handle, 0xff, bad.handle_len);
        expect_rc(scene, origin_getattr(scene->origin, &bad, &attr), -ESTALE);
        bad = good;
        bad.handle_type = 0x7777;
        expect_rc(scene, origin_getattr(scene->origin, &bad, &attr), -ESTALE);
    } else {
        struct stat st; /* the identity of a file outside, said to be in the directory */
        sys(stat(scene_path(scene, "../outside"), &st));
        bad = (struct origin_ref){.dev = st.st_dev, .ino = st.st_ino, .kind = ORIGIN_REF_PATH};
        scene_learn(scene, &bad, &scene->root, "../outside");
        expect_rc(scene, origin_getattr(scene->origin, &bad, &attr), -ESTALE);
        bad.handle_len = 4;
        expect_rc(scene, origin_getattr(scene->origin, &bad, &attr), -EUCLEAN);
    }
    expect_ok(scene, origin_getattr(scene->origin, &good, &attr));
}

/* Goal:   a reference that was tampered with in the segment is refused; the origin neither crashes nor opens another file.
 * Method: each field changed by itself. */
Test(origin_ref, forged_references_are_refused)
{
    scene_each(forged_body, NULL);
}

static void ring_body(struct scene *scene)
{
    struct origin_ref  a = {.dev = scene->root.dev, .ino = 1111111, .kind = ORIGIN_REF_PATH};
    struct origin_ref  b = {.dev = scene->root.dev, .ino = 2222222, .kind = ORIGIN_REF_PATH};
    struct origin_attr attr;

    scene_learn(scene, &a, &b, "a");
    scene_learn(scene, &b, &a, "b");
    expect_rc(scene, origin_getattr(scene->origin, &a, &attr), -ESTALE);
    expect_true(scene, scene->locate_count == 4096);
    struct origin_ref bad_names = {.dev = scene->root.dev, .ino = scene->root.ino, .kind = ORIGIN_REF_PATH};
    scene_learn(scene, &bad_names, &scene->root, "..");
    expect_rc(scene, origin_getattr(scene->origin, &bad_names, &attr), -ESTALE);
    struct origin_ref unknown = {.dev = 1, .ino = 1, .kind = ORIGIN_REF_PATH};
    expect_rc(scene, origin_getattr(scene->origin, &unknown, &attr), -ESTALE);
}

/* Goal:   names out of the cache may be nonsense: a ring of parents ends, ".." is no name.
 * Method: teach the locate callback such answers. */
Test(origin_ref, nonsense_from_locate_ends, .timeout = 20)
{
    scene_each(ring_body, NULL);
}

static void restart_body(struct scene *scene)
{
    struct origin_ref at = scene->root, file;

    for (int depth = 0; depth < 300; depth++)
        at = scene_mkdir(scene, &at, "directory-with-a-long-name", 0755);
    file = scene_create(scene, &at, "f", 0644);
    expect_rc(scene, origin_write(scene->origin, &file, "deep", 4, 0, 0, false, NULL), 4);
    scene_reopen(scene);
    scene_expect_text(scene, &file, "deep");
    expect_true(scene, scene->locate_count == (file.kind == ORIGIN_REF_PATH ? 301u : 0u));
    /* what lies on the way is known now */
    scene->locate_count = 0;
    expect_ok(scene, origin_getattr(scene->origin, &at, &(struct origin_attr){0}));
    expect_true(scene, scene->locate_count == 0);
    /* remove it again from below: paths this long have no name for nftw() */
    expect_ok(scene, origin_unlink(scene->origin, &at, "f", &root_cred));
    for (int depth = 300; depth-- > 0;) {
        expect_ok(scene,
                  origin_rmdir(scene->origin, &scene->names[depth].parent, scene->names[depth].name, &root_cred));
    }
}

/* Goal:   references hold over a restart, also deeper than PATH_MAX.
 * Method: 300 directories with names of 26 bytes, reopen, read the file at the end. */
Test(origin_ref, references_survive_a_restart, .timeout = 60)
{
    scene_each(restart_body, NULL);
}

static void renamed_body(struct scene *scene)
{
    struct origin_ref  file, dir;
    struct origin_attr attr;

    dir = scene_mkdir(scene, &scene->root, "d", 0755);
    file = scene_create(scene, &dir, "f", 0644);
    sys(rename(scene_path(scene, "d"), scene_path(scene, "e")));
    sys(rename(scene_path(scene, "e/f"), scene_path(scene, "e/g")));
    expect_ok(scene, origin_getattr(scene->origin, &file, &attr)); /* its descriptor is kept */
    scene_reopen(scene);
    if (file.kind == ORIGIN_REF_HANDLE) {
        expect_ok(scene, origin_getattr(scene->origin, &file, &attr));
    } else {
        expect_rc(scene, origin_getattr(scene->origin, &file, &attr), -ESTALE);
        scene_unlearn(scene, &file);
        scene_unlearn(scene, &dir);
        scene_learn(scene, &dir, &scene->root, "e");
        scene_learn(scene, &file, &dir, "g");
        expect_ok(scene, origin_getattr(scene->origin, &file, &attr));
        sys(rename(scene_path(scene, "e"), scene_path(scene, "h"))); /* pinned: found without a name */
        expect_ok(scene, origin_getattr(scene->origin, &file, &attr));
    }
}

/* Goal:   a rename from outside does not lose a node that is open here; after a restart a handle still finds it, a path
 *         only under its new name.
 * Method: rename file and directory with rename(2). */
Test(origin_ref, renamed_from_outside)
{
    scene_each(renamed_body, NULL);
}

static void reused_body(struct scene *scene)
{
    struct origin_ref  old, new;
    struct origin_attr attr;
    bool               reused = false;

    for (int i = 0; i < 200 && !reused; i++) {
        char name[32];
        snprintf(name, sizeof name, "old%d", i);
        scene_write_file(scene, name, "old", 0644);
        old = scene_lookup(scene, &scene->root, name);
        sys(unlink(scene_path(scene, name)));
        expect_ok(scene,
                  origin_getattr(scene->origin, &old, &attr)); /* the content is still there for who has it open */
        expect_true(scene, attr.nlink == 0);
        scene_expect_text(scene, &old, "old");
        origin_forget(scene->origin, &old);
        expect_rc(scene, origin_getattr(scene->origin, &old, &attr), -ESTALE);

        snprintf(name, sizeof name, "new%d", i);
        scene_write_file(scene, name, "new", 0644);
        new = scene_lookup(scene, &scene->root, name);
        if (new.ino == old.ino) {
            reused = true;
            expect_true(scene, memcmp(&old, &new, sizeof old) != 0);
            scene_learn(scene, &old, &scene->root, name);
            expect_rc(scene, origin_getattr(scene->origin, &old, &attr), -ESTALE);
            origin_forget(scene->origin, &new);
            expect_rc(scene, origin_getattr(scene->origin, &old, &attr), -ESTALE);
            scene_expect_text(scene, &new, "new");
        }
    }
    if (strncmp(scene->label, "tmp", 3) == 0 && !reused) /* tmpfs counts on and on, ext4 takes the lowest */
        scene_note(scene, "no inode number was reused: that part was not tested");
}

/* Goal:   a file deleted by somebody else is -ESTALE once forgotten, and so it stays when its inode number comes back.
 * Method: delete and create until the number is reused. */
Test(origin_ref, deleted_and_inode_reused)
{
    scene_each(reused_body, NULL);
}

static void mounts_body(struct scene *scene)
{
    struct origin_ref  ref, dir, inner;
    struct origin_attr attr;
    struct origin     *inner_origin;

    scene_mkdir(scene, &scene->root, "mnt", 0755);
    sys(mount("none", scene_path(scene, "mnt"), "tmpfs", 0, "size=1m"));
    scene_write_file(scene, "mnt/f", "below", 0644);
    dir = scene_lookup(scene, &scene->root, "mnt");
    ref = scene_lookup(scene, &dir, "f");
    expect_true(scene, dir.kind == ORIGIN_REF_PATH && ref.kind == ORIGIN_REF_PATH);
    expect_true(scene, !origin_has_handles(scene->origin));
    scene_expect_text(scene, &ref, "below");
    scene_reopen(scene);
    scene_expect_text(scene, &ref, "below"); /* the root has a handle or not; these are walked to */
    origin_forget(scene->origin, &ref);
    origin_forget(scene->origin, &dir);

    /* an overlay on top of it gives no handles at all, and copies up */
    char text[3 * PATH_MAX + 64];
    sys(mkdir(scene_path(scene, "mnt/lower"), 0755));
    sys(mkdir(scene_path(scene, "mnt/upper"), 0755));
    sys(mkdir(scene_path(scene, "mnt/work"), 0755));
    sys(mkdir(scene_path(scene, "mnt/all"), 0755));
    scene_write_file(scene, "mnt/lower/f", "lower", 0644);
    snprintf(text, sizeof text, "lowerdir=%s/mnt/lower,upperdir=%s/mnt/upper,workdir=%s/mnt/work", scene->dir,
             scene->dir, scene->dir);
    if (mount("none", scene_path(scene, "mnt/all"), "overlay", 0, text) == 0) {
        cr_assert(origin_posix_open(scene_path(scene, "mnt/all"), &scene->options, &inner_origin) == 0);
        expect_ok(scene, origin_root(inner_origin, &dir, &attr));
        expect_true(scene, dir.kind == ORIGIN_REF_PATH);
        expect_ok(scene, origin_lookup(inner_origin, &dir, "f", &ref, &attr));
        expect_rc(scene, origin_write(inner_origin, &ref, "UPPER", 5, 0, 0, false, NULL), 5);
        expect_ok(scene, origin_lookup(inner_origin, &dir, "f", &inner, &attr));
        expect_true(scene, memcmp(&inner, &ref, sizeof ref) == 0); /* copied up, and still the same node */
        origin_close(inner_origin);
        sys(umount(scene_path(scene, "mnt/all")));
    }
    origin_close(scene->origin);
    sys(umount(scene_path(scene, "mnt")));
    expect_ok(scene, origin_posix_open(scene->dir, &scene->options, &scene->origin));
}

/* Goal:   nodes on another file system beneath the root, and on overlayfs, are named by PATH and work.
 * Method: a tmpfs mounted in the directory, and an overlay made in that, in a mount namespace of this test. */
Test(origin_ref, mounts_beneath_and_overlays)
{
    need_root();
    if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        cr_skip_test("may not mount");
    scene_each(mounts_body, NULL);
}

/* Mounts; the server dies with the test. */
static pid_t bindfs_start(const char *from, const char *to)
{
    struct stat before, now;
    pid_t       server;

    sys(stat(to, &before));
    sys(server = fork());
    if (server == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execlp("bindfs", "bindfs", "-f", "-o", "attr_timeout=0,entry_timeout=0", from, to, (char *)NULL);
        _exit(127);
    }
    do { /* .timeout ends this if it never comes up */
        cr_assert(waitpid(server, NULL, WNOHANG) == 0, "bindfs has ended");
        sched_yield();
        sys(stat(to, &now));
    } while (now.st_dev == before.st_dev);
    return server;
}

static void fuse_body(struct scene *scene)
{
    struct origin     *origin;
    struct origin_ref  root, old, dir, ref;
    struct origin_attr attr;
    bool               created, reused = false;

    sys(mkdir(scene_path(scene, "../view"), 0755));
    pid_t server = bindfs_start(scene->dir, scene_path(scene, "../view"));
    int   err = origin_posix_open(scene_path(scene, "../view"), &scene->options, &origin);
    if (!err) {
        expect_ok(scene, origin_root(origin, &root, &attr));
        expect_true(scene, root.kind == ORIGIN_REF_PATH && !origin_has_handles(origin));
        for (int i = 0; i < 50 && !reused; i++) {
            char name[24];
            snprintf(name, sizeof name, "d%d", i);
            scene_write_file(scene, "f", "text", 0644);
            expect_ok(scene, origin_lookup(origin, &root, "f", &old, &attr));
            expect_ok(scene, origin_unlink(origin, &root, "f", &root_cred));
            expect_ok(scene, origin_mkdir(origin, &root, name, 0755, &root_cred, &dir, &attr));
            expect_ok(scene, origin_create(origin, &dir, "g", 0644, O_EXCL, &root_cred, &ref, &attr, &created));
            expect_rc(scene, origin_write(origin, &ref, "new", 3, 0, 0, false, NULL), 3);
            reused = dir.ino == old.ino;
        }
        if (!reused)
            scene_note(scene, "no inode number was reused: that part was not tested");
        origin_close(origin);
    }
    sys(umount(scene_path(scene, "../view")));
    sys(waitpid(server, NULL, 0));
    expect_ok(scene, err);
}

/* Goal:   a FUSE file system is an origin without handles, and an inode number that it reuses while the deleted node is
 *         still known here is the new node.
 * Method: bindfs; unlink a file and make a directory, until that gets the same number. */
Test(origin_ref, fuse_file_system, .timeout = 60)
{
    need_root();
    if (system("command -v bindfs >/dev/null && test -c /dev/fuse") != 0)
        cr_skip_test("needs bindfs and /dev/fuse");
    if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        cr_skip_test("may not mount");
    scene_each(fuse_body, NULL);
}

struct churn {
    const char *path;
    atomic_bool stop;
};

static void *churn_run(void *arg)
{
    struct churn *churn = arg;

    while (!atomic_load(&churn->stop)) {
        int fd;
        sys(fd = open(churn->path, O_CREAT | O_EXCL | O_RDWR, 0600));
        close(fd);
        sys(unlink(churn->path));
    }
    return NULL;
}

static void number_reuse_body(struct scene *scene)
{
    struct origin_ref  ref;
    struct origin_attr attr;
    pthread_t          thread;
    struct churn       churn = {.path = scene_path(scene, "churn")};

    cr_assert(pthread_create(&thread, NULL, churn_run, &churn) == 0);
    for (int i = 0; i < 5000; i++) {
        expect_ok(scene, origin_tmpfile(scene->origin, &scene->root, 0600, &root_cred, &ref, &attr));
        origin_forget(scene->origin, &ref);
        expect_rc(scene, origin_getattr(scene->origin, &ref, &attr), -ESTALE);
    }
    atomic_store(&churn.stop, true);
    pthread_join(thread, NULL);
}

/* Goal:   a removed file is ESTALE, also at the moment at which its inode number is given to a new one.
 * Method: a second thread creates and removes all the while; ext4 then answers ENOMEM a few times in ten thousand. */
Test(origin_ref, a_number_in_reuse_is_stale)
{
    scene_each(number_reuse_body, NULL);
}
