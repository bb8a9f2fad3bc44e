/* SPDX-License-Identifier: Apache-2.0 */
/* test_origin_name.c - operations on names, compared with what the file system itself shows. */
#include "support_origin.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static void create_body(struct scene *scene)
{
    struct origin     *origin = scene->origin;
    struct origin_ref  first, again;
    struct origin_attr attr;
    struct stat        st;
    bool               created = false;

    expect_ok(scene, origin_create(origin, &scene->root, "f", 0640, 0, &root_cred, &first, &attr, &created));
    expect_true(scene, created);
    scene_learn(scene, &first, &scene->root, "f");
    sys(lstat(scene_path(scene, "f"), &st));
    expect_true(scene, st.st_ino == attr.ino && st.st_mode == attr.mode && attr.mode == (S_IFREG | 0640));
    expect_true(scene, first.ino == st.st_ino && attr.size_bytes == 0 && attr.nlink == 1);
    expect_rc(scene, origin_write(origin, &first, "text", 4, 0, 0, false, NULL), 4);

    expect_ok(scene, origin_create(origin, &scene->root, "f", 0600, 0, &root_cred, &again, &attr, &created));
    expect_true(scene, !created && attr.size_bytes == 4 && memcmp(&again, &first, sizeof first) == 0);
    again = (struct origin_ref){.ino = 1};
    expect_rc(scene, origin_create(origin, &scene->root, "f", 0600, O_EXCL, &root_cred, &again, &attr, &created),
              -EEXIST);
    expect_rc(scene, origin_create(origin, &scene->root, "g", 0600, O_TRUNC, &root_cred, &again, &attr, &created),
              -EINVAL);
    expect_true(scene, again.ino == 1); /* untouched on failure */
    scene_expect_text(scene, &first, "text");

    again = scene_mkdir(scene, &scene->root, "d", 0755);
    expect_ok(scene, origin_create(origin, &scene->root, "d", 0600, 0, &root_cred, &again, &attr, &created));
    expect_true(scene, !created && S_ISDIR(attr.mode));
    sys(rmdir(scene_path(scene, "d")));
    expect_rc(scene, origin_create(origin, &again, "f", 0600, 0, &root_cred, &again, &attr, &created), -ENOENT);
}

/* Goal:   create makes a file or gives the one that is there, says which, and never truncates.
 * Method: first, again, exclusively, where a directory is, in a directory that was removed. */
Test(origin_name, create)
{
    scene_each(create_body, NULL);
}

struct race {
    struct scene *scene;
    int           stop;
};

static void *race_make_and_unlink(void *arg)
{
    struct race *race = arg;
    char         path[2 * PATH_MAX];

    snprintf(path, sizeof path, "%s", scene_path(race->scene, "f"));
    while (!__atomic_load_n(&race->stop, __ATOMIC_RELAXED)) {
        int fd = open(path, O_CREAT | O_RDONLY | O_CLOEXEC, 0600);
        if (fd >= 0)
            close(fd);
        unlink(path);
    }
    return NULL;
}

static void create_race_body(struct scene *scene)
{
    struct race        race = {.scene = scene};
    struct origin_ref  ref;
    struct origin_attr attr;
    pthread_t          thread;
    bool               created;

    cr_assert(pthread_create(&thread, NULL, race_make_and_unlink, &race) == 0);
    for (int i = 0; i < 5000; i++) {
        expect_ok(scene, origin_create(scene->origin, &scene->root, "f", 0600, 0, &root_cred, &ref, &attr, &created));
        origin_forget(scene->origin, &ref);
    }
    __atomic_store_n(&race.stop, 1, __ATOMIC_RELAXED);
    pthread_join(thread, NULL);
}

/* Goal:   create without O_EXCL never answers -ENOENT or -EEXIST, whatever somebody else does with the name.
 * Method: a thread makes and unlinks it all the time. */
Test(origin_name, create_against_unlink, .timeout = 60)
{
    scene_each(create_race_body, NULL);
}

static void kinds_body(struct scene *scene)
{
    struct origin     *origin = scene->origin;
    struct origin_ref  ref;
    struct origin_attr attr;
    struct stat        st;

    expect_ok(scene, origin_mkdir(origin, &scene->root, "d", 01755, &root_cred, &ref, &attr));
    sys(lstat(scene_path(scene, "d"), &st));
    expect_true(scene, st.st_ino == ref.ino && attr.mode == st.st_mode && attr.mode == (S_IFDIR | 01755));
    expect_rc(scene, origin_mkdir(origin, &scene->root, "d", 0755, &root_cred, &ref, &attr), -EEXIST);
    expect_ok(scene, origin_mknod(origin, &scene->root, "p", S_IFIFO | 0620, 0, &root_cred, &ref, &attr));
    expect_true(scene, attr.mode == (S_IFIFO | 0620));
    expect_ok(scene, origin_mknod(origin, &scene->root, "s", S_IFSOCK | 0600, 0, &root_cred, &ref, &attr));
    expect_true(scene, attr.mode == (S_IFSOCK | 0600));
    expect_ok(scene, origin_mknod(origin, &scene->root, "r", 0604, 0, &root_cred, &ref, &attr)); /* no type: a file */
    expect_true(scene, attr.mode == (S_IFREG | 0604));
    expect_rc(scene, origin_mknod(origin, &scene->root, "x", S_IFDIR | 0700, 0, &root_cred, &ref, &attr), -EINVAL);
    if (geteuid() == 0) {
        expect_ok(scene, origin_mknod(origin, &scene->root, "b", S_IFBLK | 0600, makedev(259, 70000), &root_cred, &ref,
                                      &attr));
        sys(lstat(scene_path(scene, "b"), &st));
        expect_true(scene,
                    attr.mode == (S_IFBLK | 0600) && attr.rdev == makedev(259, 70000) && st.st_rdev == attr.rdev);
    }
    expect_ok(scene, origin_symlink(origin, &scene->root, "l", "../outside", &root_cred, &ref, &attr));
    expect_true(scene, S_ISLNK(attr.mode) && attr.size_bytes == 10);
    expect_rc(scene, origin_symlink(origin, &scene->root, "l", "x", &root_cred, &ref, &attr), -EEXIST);
    expect_rc(scene, origin_symlink(origin, &scene->root, "m", "", &root_cred, &ref, &attr), -ENOENT);
}

/* Goal:   every kind of node is made with type, mode and device number as asked.
 * Method: mkdir, mknod and symlink, compared with lstat(2). */
Test(origin_name, every_kind_of_node)
{
    scene_each(kinds_body, NULL);
}

static void link_body(struct scene *scene)
{
    struct origin     *origin = scene->origin;
    struct origin_ref  file, link, dir;
    struct origin_attr attr;
    struct stat        st;

    file = scene_create(scene, &scene->root, "f", 0644);
    dir = scene_mkdir(scene, &scene->root, "d", 0755);
    expect_ok(scene, origin_link(origin, &file, &dir, "g", &root_cred, &attr));
    expect_true(scene, attr.nlink == 2 && attr.ino == file.ino);
    link = scene_lookup(scene, &dir, "g");
    expect_true(scene, memcmp(&link, &file, sizeof file) == 0);
    expect_rc(scene, origin_link(origin, &file, &dir, "g", &root_cred, &attr), -EEXIST);
    expect_rc(scene, origin_link(origin, &dir, &scene->root, "e", &root_cred, &attr), -EPERM);
    /* a symlink itself, not what it points at */
    sys(symlink("f", scene_path(scene, "l")));
    link = scene_lookup(scene, &scene->root, "l");
    expect_ok(scene, origin_link(origin, &link, &scene->root, "l2", &root_cred, &attr));
    sys(lstat(scene_path(scene, "l2"), &st));
    expect_true(scene, S_ISLNK(st.st_mode) && st.st_nlink == 2);
    if (geteuid() == 0) { /* by the file's owner, who has no capability */
        struct origin_attr want = {.uid = NOBODY, .mode = 01777};
        expect_ok(scene, origin_setattr(origin, &file, ORIGIN_SET_UID, &want, &root_cred, &attr));
        expect_ok(scene, origin_setattr(origin, &dir, ORIGIN_SET_MODE, &want, &root_cred, &attr));
        expect_ok(scene, origin_link(origin, &file, &dir, "own", &nobody_cred, &attr));
        expect_true(scene, attr.nlink == 3);
    }
    /* one name goes: the node is still there, and not kept as one without a name */
    expect_ok(scene, origin_unlink(origin, &scene->root, "f", &root_cred));
    expect_ok(scene, origin_getattr(origin, &file, &attr));
    expect_true(scene, attr.nlink >= 1);
}

/* Goal:   hard links, of files and symlinks, by root and by an owner without capabilities.
 * Method: link counts and inode numbers. */
Test(origin_name, link)
{
    scene_each(link_body, NULL);
}

static void remove_body(struct scene *scene)
{
    struct origin     *origin = scene->origin;
    struct origin_ref  dir, file, ref;
    struct origin_attr attr;

    dir = scene_mkdir(scene, &scene->root, "d", 0755);
    file = scene_create(scene, &dir, "f", 0644);
    expect_rc(scene, origin_rmdir(origin, &scene->root, "d", &root_cred), -ENOTEMPTY);
    expect_rc(scene, origin_unlink(origin, &scene->root, "d", &root_cred), -EISDIR);
    expect_rc(scene, origin_rmdir(origin, &dir, "f", &root_cred), -ENOTDIR);
    expect_rc(scene, origin_unlink(origin, &file, "f", &root_cred), -ENOTDIR);
    expect_rc(scene, origin_unlink(origin, &dir, "none", &root_cred), -ENOENT);
    expect_ok(scene, origin_unlink(origin, &dir, "f", &root_cred));
    expect_rc(scene, access(scene_path(scene, "d/f"), F_OK), -1);
    expect_ok(scene, origin_rmdir(origin, &scene->root, "d", &root_cred));
    expect_rc(scene, access(scene_path(scene, "d"), F_OK), -1);
    expect_ok(scene, origin_getattr(origin, &dir, &attr)); /* somebody's working directory */
    expect_true(scene, attr.nlink == 0);
    expect_rc(scene, origin_lookup(origin, &dir, "f", &ref, &attr), -ENOENT);
    origin_forget(origin, &file); /* the nameless file holds its directory too */
    origin_forget(origin, &dir);
    expect_rc(scene, origin_getattr(origin, &dir, &attr), -ESTALE);
}

/* Goal:   unlink and rmdir remove what they should and nothing else.
 * Method: each error, then success, seen from outside. */
Test(origin_name, unlink_and_rmdir)
{
    scene_each(remove_body, NULL);
}

static void rename_body(struct scene *scene)
{
    struct origin     *origin = scene->origin;
    struct origin_ref  a, b, dir, ref;
    struct origin_attr attr;
    struct stat        st;

    a = scene_create(scene, &scene->root, "a", 0644);
    b = scene_create(scene, &scene->root, "b", 0644);
    dir = scene_mkdir(scene, &scene->root, "d", 0755);
    const struct origin_ref *root = &scene->root;
    expect_rc(scene, origin_rename(origin, root, "a", root, "b", RENAME_NOREPLACE, &root_cred), -EEXIST);
    expect_ok(scene, origin_rename(origin, root, "a", &dir, "a2", RENAME_NOREPLACE, &root_cred));
    ref = scene_lookup(scene, &dir, "a2");
    expect_true(scene, memcmp(&ref, &a, sizeof a) == 0);
    expect_ok(scene, origin_rename(origin, &dir, "a2", root, "b", RENAME_EXCHANGE, &root_cred));
    ref = scene_lookup(scene, root, "b");
    expect_true(scene, memcmp(&ref, &a, sizeof a) == 0);
    ref = scene_lookup(scene, &dir, "a2");
    expect_true(scene, memcmp(&ref, &b, sizeof b) == 0);
    expect_rc(scene, origin_rename(origin, root, "b", root, "none", RENAME_EXCHANGE, &root_cred), -ENOENT);
    expect_rc(scene, origin_rename(origin, root, "none", root, "b", 0, &root_cred), -ENOENT);
    expect_rc(scene, origin_rename(origin, root, "d", &dir, "x", 0, &root_cred), -EINVAL);
    expect_rc(scene, origin_rename(origin, root, "b", root, "c", RENAME_EXCHANGE | RENAME_NOREPLACE, &root_cred),
              -EINVAL);
    expect_ok(scene, origin_rename(origin, root, "b", &dir, "a2", 0, &root_cred)); /* replaces */
    ref = scene_lookup(scene, &dir, "a2");
    expect_true(scene, memcmp(&ref, &a, sizeof a) == 0);
    expect_ok(scene, origin_getattr(origin, &b, &attr));
    expect_true(scene, attr.nlink == 0);
    if (geteuid() == 0) {
        expect_ok(scene, origin_rename(origin, &dir, "a2", root, "w", RENAME_WHITEOUT, &root_cred));
        sys(lstat(scene_path(scene, "d/a2"), &st));
        expect_true(scene, S_ISCHR(st.st_mode) && st.st_rdev == 0);
    }
}

/* Goal:   rename with each flag does what renameat2(2) does.
 * Method: follow two files by their references. */
Test(origin_name, rename_and_its_flags)
{
    scene_each(rename_body, NULL);
}

static void tmpfile_body(struct scene *scene)
{
    struct origin     *origin = scene->origin;
    struct origin_ref  ref, found, file;
    struct origin_attr attr;

    expect_ok(scene, origin_tmpfile(origin, &scene->root, 0640, &root_cred, &ref, &attr));
    expect_true(scene, attr.nlink == 0 && attr.mode == (S_IFREG | 0640));
    expect_rc(scene, origin_write(origin, &ref, "unnamed", 7, 0, 0, false, NULL), 7);
    scene_expect_text(scene, &ref, "unnamed");
    expect_ok(scene, origin_link(origin, &ref, &scene->root, "f", &root_cred, &attr));
    expect_true(scene, attr.nlink == 1 && attr.size_bytes == 7);
    found = scene_lookup(scene, &scene->root, "f");
    expect_true(scene, memcmp(&found, &ref, sizeof ref) == 0);
    origin_forget(origin, &ref);
    scene_expect_text(scene, &found, "unnamed");
    file = scene_create(scene, &scene->root, "g", 0644);
    expect_rc(scene, origin_tmpfile(origin, &file, 0600, &root_cred, &ref, &attr), -ENOTDIR);

    expect_ok(scene, origin_tmpfile(origin, &scene->root, 0600, &root_cred, &ref, &attr));
    origin_forget(origin, &ref);
    expect_rc(scene, origin_getattr(origin, &ref, &attr), -ESTALE);
}

/* Goal:   an unnamed file lives until it is forgotten, or for good once it is linked.
 * Method: both. */
Test(origin_name, tmpfile_and_link)
{
    scene_each(tmpfile_body, NULL);
}

struct listing {
    struct scene *scene;
    uint8_t       seen[2000];
    unsigned      dots, count, stop_after;
    uint64_t      cookie;
    int           answer;
};

static int listing_entry(void *arg, const struct origin_dirent *entry)
{
    struct listing *listing = arg;
    char            name[256];

    if (listing->stop_after && listing->count == listing->stop_after)
        return 1;
    memcpy(name, entry->name, entry->name_len);
    name[entry->name_len] = '\0';
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
        listing->dots++;
    } else {
        struct stat st;
        cr_assert(entry->type == DT_REG && strncmp(name, "file-", 5) == 0);
        listing->seen[atoi(name + 5)]++;
        sys(lstat(scene_path(listing->scene, name), &st));
        cr_assert(st.st_ino == entry->ino);
    }
    listing->count++;
    listing->cookie = entry->cookie;
    return listing->answer;
}

static void listing_expect_all(struct scene *scene, const struct listing *listing)
{
    expect_rc(scene, listing->dots, 2);
    for (int i = 0; i < 2000; i++)
        cr_assert(listing->seen[i] == 1, "[%s] file-%d: %d times", scene->label, i, listing->seen[i]);
}

static void readdir_body(struct scene *scene)
{
    struct listing *listing = calloc(1, sizeof *listing);

    cr_assert(listing);
    listing->scene = scene;
    for (int i = 0; i < 2000; i++) {
        char name[32];
        snprintf(name, sizeof name, "file-%d", i);
        scene_write_file(scene, name, "", 0644);
    }
    expect_ok(scene, origin_readdir(scene->origin, &scene->root, 0, listing_entry, listing));
    listing_expect_all(scene, listing);

    *listing = (struct listing){.scene = scene}; /* in pieces of 7, each going on from the last cookie */
    unsigned before;
    do {
        before = listing->count;
        listing->stop_after = before + 7;
        expect_ok(scene, origin_readdir(scene->origin, &scene->root, listing->cookie, listing_entry, listing));
    } while (listing->count > before);
    listing_expect_all(scene, listing);

    *listing = (struct listing){.scene = scene, .answer = -ENOMEM};
    expect_rc(scene, origin_readdir(scene->origin, &scene->root, 0, listing_entry, listing), -ENOMEM);
    expect_rc(scene, listing->count, 1);
    struct origin_ref file = scene_lookup(scene, &scene->root, "file-7");
    expect_rc(scene, origin_readdir(scene->origin, &file, 0, listing_entry, listing), -ENOTDIR);
    free(listing);
}

/* Goal:   a listing has each name once, also when it is read in pieces; the callback can stop it and fail it.
 * Method: 2,000 files. */
Test(origin_name, readdir, .timeout = 60)
{
    scene_each(readdir_body, NULL);
}
