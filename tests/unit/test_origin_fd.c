/* SPDX-License-Identifier: Apache-2.0 */
/* test_origin_fd.c - the cache of descriptors: bounded, never short, nothing lost that has no name, threads. */
#include "support_origin.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FILES = 300, THREADS = 4, ROUNDS = 400 };

static uint64_t open_fds(struct scene *scene)
{
    struct origin_stats stats;

    origin_stats_get(scene->origin, &stats);
    return stats.open_fds;
}

static struct origin_ref files_make(struct scene *scene, struct origin_ref ref[], int count)
{
    struct origin_ref dir = scene_mkdir(scene, &scene->root, "d", 0755);

    for (int i = 0; i < count; i++) {
        char name[24], text[24];
        snprintf(name, sizeof name, "f%d", i);
        snprintf(text, sizeof text, "text %d", i);
        ref[i] = scene_create(scene, &dir, name, 0644);
        expect_rc(scene, origin_write(scene->origin, &ref[i], text, strlen(text), 0, 0, false, NULL), strlen(text));
    }
    return dir;
}

static void files_read(struct scene *scene, const struct origin_ref ref[], int count)
{
    for (int i = 0; i < count; i++) {
        char text[24];
        snprintf(text, sizeof text, "text %d", i);
        scene_expect_text(scene, &ref[i], text);
    }
}

static void bounded_body(struct scene *scene)
{
    struct origin_ref ref[FILES];

    files_make(scene, ref, FILES);
    cr_expect(open_fds(scene) <= scene->options.fd_max + 2, "[%s] %lu open", scene->label, open_fds(scene));
    for (int round = 0; round < 2; round++)
        files_read(scene, ref, FILES);
    cr_expect(open_fds(scene) <= scene->options.fd_max + 2, "[%s] %lu open", scene->label, open_fds(scene));
}

/* Goal:   fd_max bounds the descriptors, and every file is still reached.
 * Method: 300 files with room for 16. */
Test(origin_fd, fd_max_bounds_descriptors)
{
    scene_each(bounded_body, &(struct origin_options){.fd_max = 16});
}

static void shortage_body(struct scene *scene)
{
    struct origin_ref  ref[FILES], orphan;
    struct origin_attr attr;
    int                full[256], count = 0;

    files_make(scene, ref, FILES);
    expect_ok(scene, origin_tmpfile(scene->origin, &scene->root, 0600, &root_cred, &orphan, &attr));
    expect_rc(scene, origin_write(scene->origin, &orphan, "nameless", 8, 0, 0, false, NULL), 8);
    while (count < 256 && (full[count] = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0)
        count++;
    cr_assert(count < 256 && errno == EMFILE);
    files_read(scene, ref, FILES);
    for (int i = 0; i < 50; i++) {
        char name[24];
        snprintf(name, sizeof name, "g%d", i);
        scene_create(scene, &scene->root, name, 0644);
        expect_ok(scene, origin_lookup(scene->origin, &scene->root, name, &ref[0], &attr));
    }
    scene_expect_text(scene, &orphan, "nameless");
    while (count > 0)
        close(full[--count]);
}

/* Goal:   EMFILE is answered by closing idle descriptors, never passed on, and costs no nameless file its content.
 * Method: a limit of 64, eaten up by the test after the origin has filled its part; then read, create, look up. */
Test(origin_fd, shortage_is_met, .timeout = 60)
{
    struct rlimit limit;

    sys(getrlimit(RLIMIT_NOFILE, &limit));
    limit.rlim_cur = limit.rlim_max = 64;
    sys(setrlimit(RLIMIT_NOFILE, &limit));
    scene_each(shortage_body, &(struct origin_options){.fd_max = 60});
}

static void orphan_body(struct scene *scene)
{
    struct origin_ref  ref, over, other[FILES];
    struct origin_attr attr;

    ref = scene_create(scene, &scene->root, "f", 0644);
    over = scene_create(scene, &scene->root, "g", 0644);
    expect_rc(scene, origin_write(scene->origin, &ref, "kept", 4, 0, 0, false, NULL), 4);
    expect_rc(scene, origin_write(scene->origin, &over, "over", 4, 0, 0, false, NULL), 4);
    origin_forget(scene->origin, &ref); /* as if this process had never opened it */
    origin_forget(scene->origin, &over);
    expect_ok(scene, origin_unlink(scene->origin, &scene->root, "f", &root_cred));
    scene_create(scene, &scene->root, "h", 0644);
    expect_ok(scene, origin_rename(scene->origin, &scene->root, "h", &scene->root, "g", 0, &root_cred));
    files_make(scene, other, FILES);
    files_read(scene, other, FILES);
    scene_expect_text(scene, &ref, "kept");
    scene_expect_text(scene, &over, "over");
    expect_ok(scene, origin_getattr(scene->origin, &ref, &attr));
    expect_true(scene, attr.nlink == 0);
    expect_rc(scene, origin_write(scene->origin, &ref, "KEPT!", 5, 0, 0, false, &attr), 5);
    expect_true(scene, attr.size_bytes == 5);
    origin_forget(scene->origin, &ref);
    expect_rc(scene, origin_getattr(scene->origin, &ref, &attr), -ESTALE);
}

/* Goal:   what unlink and rename leave without a name stays readable and writable until it is forgotten.
 * Method: press 300 other files through 16 descriptors in between. */
Test(origin_fd, nameless_nodes_stay)
{
    scene_each(orphan_body, &(struct origin_options){.fd_max = 16});
}

static void many_orphans_body(struct scene *scene)
{
    struct origin_ref  ref[100];
    struct origin_attr attr;

    for (int i = 0; i < 100; i++)
        expect_ok(scene, origin_tmpfile(scene->origin, &scene->root, 0600, &root_cred, &ref[i], &attr));
    cr_expect(open_fds(scene) <= scene->options.fd_max + 2, "[%s] %lu open", scene->label, open_fds(scene));
    expect_ok(scene, origin_getattr(scene->origin, &ref[99], &attr));
    for (int i = 0; i < 100; i++)
        origin_forget(scene->origin, &ref[i]);
    expect_rc(scene, open_fds(scene), 2);
}

/* Goal:   nameless nodes that nobody ever forgets cannot use up all descriptors.
 * Method: 100 of them with fd_max 20. */
Test(origin_fd, nameless_nodes_are_bounded)
{
    scene_each(many_orphans_body, &(struct origin_options){.fd_max = 20});
}

/* Runs the file at the origin, not through the origin; its exit code or -errno. */
static int run_at_origin(const char *path)
{
    int   status, channel[2], error = 0;
    pid_t child;

    sys(pipe2(channel, O_CLOEXEC));
    sys(child = fork());
    if (child == 0) {
        execl(path, path, (char *)NULL);
        error = errno;
        if (write(channel[1], &error, sizeof error) != sizeof error)
            _exit(126);
        _exit(127);
    }
    close(channel[1]);
    ssize_t got = read(channel[0], &error, sizeof error);
    close(channel[0]);
    sys(waitpid(child, &status, 0));
    return got > 0 ? -error : WEXITSTATUS(status);
}

static void busy_body(struct scene *scene)
{
    static const char  script[] = "#!/bin/sh\nexit 7\n";
    struct origin_ref  ref;
    struct origin_attr attr, want = {.mode = 0755};

    ref = scene_create(scene, &scene->root, "made-executable", 0755);
    expect_rc(scene, origin_write(scene->origin, &ref, script, sizeof script - 1, 0, 0, false, NULL),
              sizeof script - 1);
    expect_rc(scene, run_at_origin(scene_path(scene, "made-executable")), 7);

    ref = scene_create(scene, &scene->root, "later", 0644);
    expect_rc(scene, origin_write(scene->origin, &ref, script, sizeof script - 1, 0, 0, false, NULL),
              sizeof script - 1);
    expect_ok(scene, origin_setattr(scene->origin, &ref, ORIGIN_SET_MODE, &want, &root_cred, &attr));
    expect_rc(scene, run_at_origin(scene_path(scene, "later")), 7);
}

/* Goal:   what was written through the origin can be executed at the origin at once (no ETXTBSY).
 * Method: a script created executable, and one that becomes so after it was written, as a linker does. */
Test(origin_fd, written_files_can_be_executed)
{
    scene_each(busy_body, NULL);
}

static void special_body(struct scene *scene)
{
    struct origin_ref  ref;
    struct origin_attr attr;
    char               buf[8];

    sys(mkfifo(scene_path(scene, "fifo"), 0666));
    ref = scene_lookup(scene, &scene->root, "fifo");
    expect_rc(scene, origin_read(scene->origin, &ref, buf, sizeof buf, 0), -EINVAL);
    expect_rc(scene, origin_write(scene->origin, &ref, buf, 1, 0, 0, false, NULL), -EINVAL);
    expect_rc(scene, origin_fsync(scene->origin, &ref, false), -EINVAL);
    expect_rc(scene, origin_setattr(scene->origin, &ref, ORIGIN_SET_SIZE, &(struct origin_attr){0}, &root_cred, &attr),
              -EINVAL);
    if (geteuid() == 0) {
        sys(mknod(scene_path(scene, "null"), S_IFCHR | 0666, 0x103)); /* /dev/null */
        ref = scene_lookup(scene, &scene->root, "null");
        expect_rc(scene, origin_read(scene->origin, &ref, buf, sizeof buf, 0), -EINVAL);
        expect_rc(scene, origin_write(scene->origin, &ref, buf, 1, 0, 0, false, NULL), -EINVAL);
        expect_ok(scene, origin_getattr(scene->origin, &ref, &attr));
        expect_true(scene, S_ISCHR(attr.mode) && attr.rdev == 0x103);
    }
}

/* Goal:   a device or a fifo is never opened: no call blocks on it or reaches the driver.
 * Method: a fifo without a peer would block, /dev/null would take the byte. */
Test(origin_fd, special_files_are_never_opened, .timeout = 10)
{
    scene_each(special_body, NULL);
}

struct crowd {
    struct scene     *scene;
    struct origin_ref dir, shared, ref[FILES];
    unsigned          seed;
};

/* One of four: looks up, reads, writes its own range of one file, creates, unlinks and forgets, all at random. */
static void *crowd_member(void *arg)
{
    struct crowd  *crowd = arg;
    struct scene  *scene = crowd->scene;
    struct origin *origin = scene->origin;
    unsigned       id = __atomic_fetch_add(&crowd->seed, 1, __ATOMIC_RELAXED), seed = id;

    for (int round = 0; round < ROUNDS; round++) {
        struct origin_ref  ref;
        struct origin_attr attr;
        char               name[32], text[24], got[24];
        bool               created;
        int                i = rand_r(&seed) % FILES;

        snprintf(text, sizeof text, "text %d", i);
        ssize_t len = origin_read(origin, &crowd->ref[i], got, sizeof got, 0);
        cr_assert(len == (ssize_t)strlen(text) && memcmp(got, text, (size_t)len) == 0, "[%s] read %d: %zd",
                  scene->label, i, len);
        snprintf(name, sizeof name, "f%d", i);
        expect_ok(scene, origin_lookup(origin, &crowd->dir, name, &ref, &attr));
        expect_true(scene, memcmp(&ref, &crowd->ref[i], sizeof ref) == 0);
        if (round % 8 == 0)
            origin_forget(origin, &crowd->ref[i]);
        expect_rc(scene, origin_write(origin, &crowd->shared, &id, sizeof id, id * sizeof id, 0, false, NULL),
                  sizeof id);

        snprintf(name, sizeof name, "own%u", id);
        const struct origin_cred *cred = geteuid() == 0 && round % 2 ? &nobody_cred : &root_cred;
        expect_ok(scene, origin_create(origin, &crowd->dir, name, 0600, O_EXCL, cred, &ref, &attr, &created));
        expect_true(scene, attr.uid == cred->uid || geteuid() != 0);
        scene_learn(scene, &ref, &crowd->dir, name);
        expect_rc(scene, origin_write(origin, &ref, "own", 3, 0, 0, false, NULL), 3);
        expect_ok(scene, origin_unlink(origin, &crowd->dir, name, &root_cred));
        expect_rc(scene, origin_read(origin, &ref, got, sizeof got, 0), 3);
        origin_forget(origin, &ref);
    }
    return NULL;
}

static void crowd_body(struct scene *scene)
{
    struct crowd      *crowd = calloc(1, sizeof *crowd);
    struct origin_attr attr, want = {.mode = 0777};
    pthread_t          thread[THREADS];
    unsigned           id[THREADS];

    cr_assert(crowd);
    crowd->scene = scene;
    crowd->dir = files_make(scene, crowd->ref, FILES);
    expect_ok(scene, origin_setattr(scene->origin, &crowd->dir, ORIGIN_SET_MODE, &want, &root_cred, &attr));
    crowd->shared = scene_create(scene, &crowd->dir, "shared", 0644);
    for (int i = 0; i < THREADS; i++)
        cr_assert(pthread_create(&thread[i], NULL, crowd_member, crowd) == 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    expect_rc(scene, origin_read(scene->origin, &crowd->shared, id, sizeof id, 0), sizeof id);
    for (unsigned i = 0; i < THREADS; i++)
        expect_true(scene, id[i] == i);
    cr_expect(open_fds(scene) <= scene->options.fd_max + 8, "[%s] %lu open", scene->label, open_fds(scene));
    free(crowd);
}

/* Goal:   four threads on 300 files through 24 descriptors see their own data only, under every order of find, insert,
 *         evict and forget; rights of one thread do not show on another.
 * Method: 400 random rounds each; run under ASan and TSan. */
Test(origin_fd, four_threads, .timeout = 120)
{
    scene_each(crowd_body, &(struct origin_options){.fd_max = 24});
}
