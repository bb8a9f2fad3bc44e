/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fs_serve.c - mounting, what is agreed with the kernel, the threads, and the end.
 *
 * Order at the start: session and mount, notifier (recalls can be answered before anything is cached), lanes, receivers, INIT, ready.
 * Order at the end: the mount is detached, receivers end when the last open file has gone (or END_WAIT_S later), lanes finish what they hold while the notifier still
 * answers recalls, then this member's interest and references are dropped (its kernel holds nothing any more), then the notifier stops.
 * Signals are taken by the thread that called fs_serve; all others block them.
 */
#include <fcntl.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include "fs_internal.h"

enum { END_WAIT_S = 5, INIT_WAIT_S = 20, BACKGROUND_MAX = 32768, URING_ENTRIES = 1280, URING_DEPTH_MIN = 32 };

_Static_assert(sizeof(struct origin_ref) == CACHE_REF_BYTES, "the cache keeps the origin's references");

static sem_t init_done;
static char  last_log[SEG_ERR_BYTES]; /* the newest line of libfuse: the reason of a failed mount */

static void keep_log(enum fuse_log_level level, const char *format, va_list args)
{
    char line[SEG_ERR_BYTES];
    vsnprintf(line, sizeof line, format, args);
    line[strcspn(line, "\n")] = 0;
    if (level <= FUSE_LOG_WARNING && line[0])
        memcpy(last_log, line, sizeof last_log);
    if (getenv("HEARTHFS_FUSE_LOG"))
        fprintf(stderr, "libfuse: %s\n", line);
}

/* ---- INIT ---- */
static void want(struct fuse_conn_info *conn, uint64_t cap, bool on)
{
#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 17)
    if (on)
        fuse_set_feature_flag(conn, cap);
    else
        fuse_unset_feature_flag(conn, cap);
#else
    if (on)
        conn->want |= (unsigned)cap & conn->capable;
    else
        conn->want &= ~(unsigned)cap;
#endif
}

static void op_init(void *arg, struct fuse_conn_info *conn)
{
    struct fs *fs = arg;
    static const uint64_t on[] = {FUSE_CAP_ASYNC_READ, FUSE_CAP_PARALLEL_DIROPS, FUSE_CAP_READDIRPLUS, FUSE_CAP_READDIRPLUS_AUTO,
                                  FUSE_CAP_EXPLICIT_INVAL_DATA, FUSE_CAP_POSIX_ACL, FUSE_CAP_CACHE_SYMLINKS, FUSE_CAP_DONT_MASK,
                                  FUSE_CAP_NO_OPEN_SUPPORT, FUSE_CAP_NO_OPENDIR_SUPPORT, FUSE_CAP_ASYNC_DIO};
    /* Not: O_TRUNC inside OPEN (lost when opens are not sent); times and sizes kept by the kernel; pages dropped whenever a time moves; splicing (data comes from the segment). */
    static const uint64_t off[] = {FUSE_CAP_ATOMIC_O_TRUNC, FUSE_CAP_WRITEBACK_CACHE, FUSE_CAP_AUTO_INVAL_DATA, FUSE_CAP_SPLICE_READ,
                                   FUSE_CAP_SPLICE_WRITE,   FUSE_CAP_SPLICE_MOVE,     FUSE_CAP_HANDLE_KILLPRIV};
#ifdef FUSE_CAP_HANDLE_KILLPRIV_V2
    want(conn, FUSE_CAP_HANDLE_KILLPRIV_V2, true); /* without it each write costs a GETXATTR */
#endif
#ifdef FUSE_CAP_DIRECT_IO_ALLOW_MMAP
    want(conn, FUSE_CAP_DIRECT_IO_ALLOW_MMAP, true); /* files opened with O_APPEND can still be mapped */
#endif
    for (unsigned i = 0; i < sizeof on / sizeof *on; i++)
        want(conn, on[i], true);
    for (unsigned i = 0; i < sizeof off / sizeof *off; i++)
        want(conn, off[i], false);
    want(conn, FUSE_CAP_POSIX_LOCKS, !fs->config.locks_none); /* off: the kernel keeps them, per mount */
    want(conn, FUSE_CAP_FLOCK_LOCKS, !fs->config.locks_none);
    conn->max_write = FS_REQUEST_MAX;
    conn->max_readahead = FS_REQUEST_MAX;
    conn->max_background = BACKGROUND_MAX; /* requests that wait for a slow origin must not keep others from being sent */
    conn->congestion_threshold = BACKGROUND_MAX / 4 * 3;
    conn->time_gran = 1;
    sem_post(&init_done);
}

static const struct fuse_lowlevel_ops operations = {
    .init = op_init,
    .lookup = fs_op_lookup,
    .forget = fs_op_forget,
    .forget_multi = fs_op_forget_multi,
    .getattr = fs_op_getattr,
    .setattr = fs_op_setattr,
    .readlink = fs_op_readlink,
    .mknod = fs_op_mknod,
    .mkdir = fs_op_mkdir,
    .unlink = fs_op_unlink,
    .rmdir = fs_op_rmdir,
    .symlink = fs_op_symlink,
    .rename = fs_op_rename,
    .link = fs_op_link,
    .open = fs_op_open,
    .read = fs_op_read,
    .write = fs_op_write,
    .flush = fs_op_flush,
    .release = fs_op_release,
    .fsync = fs_op_fsync,
    .opendir = fs_op_opendir,
    .readdir = fs_op_readdir,
    .readdirplus = fs_op_readdirplus,
    .fsyncdir = fs_op_fsyncdir,
    .statfs = fs_op_statfs,
    .setxattr = fs_op_setxattr,
    .getxattr = fs_op_getxattr,
    .listxattr = fs_op_listxattr,
    .removexattr = fs_op_removexattr,
    .create = fs_op_create,
    .getlk = fs_op_getlk,
    .setlk = fs_op_setlk,
    .flock = fs_op_flock,
    .copy_file_range = fs_op_copy_file_range,
    .fallocate = fs_op_fallocate,
    .lseek = fs_op_lseek,
#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 18)
    .statx = fs_op_statx,
#endif
#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 15)
    .tmpfile = fs_op_tmpfile,
#endif
};

/* ---- mounting ---- */
static bool kernel_offers_uring(void)
{
    char value = 'N';
    int  fd = open("/sys/module/fuse/parameters/enable_uring", O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        if (read(fd, &value, 1) != 1)
            value = 'N';
        close(fd);
    }
    return value == 'Y' || value == '1';
}

/* Whether requests are to come through io_uring; *note tells how to have it where it is off. */
static bool choose_uring(const struct fs_config *config, const char **note)
{
    *note = NULL;
    if (config->uring == FS_URING_OFF)
        return false;
#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 18)
    if (kernel_offers_uring())
        return true;
    if (config->uring == FS_URING_ON) /* insisted on: refuse, with this line as the reason */
        *note = "FUSE over io_uring is off in this kernel: echo Y > /sys/module/fuse/parameters/enable_uring";
    else if (access("/sys/module/fuse/parameters/enable_uring", F_OK) == 0)
        *note = "FUSE over io_uring is off in this kernel; to use it: echo Y > /sys/module/fuse/parameters/enable_uring, then mount again";
#else
    (void)kernel_offers_uring;
    *note = "built with a libfuse older than 3.18: no FUSE over io_uring";
#endif
    return false;
}

static int add_options(struct fs *fs, struct fuse_args *args)
{
    const struct fs_config *config = &fs->config;
    char                    text[1024];
    long                    cpus = sysconf(_SC_NPROCESSORS_CONF);
    long                    depth = URING_ENTRIES / (cpus > 0 ? cpus : 1);

    snprintf(text, sizeof text, "-oallow_other,default_permissions,suid,dev,subtype=hearthfs,fsname=%s%s", config->fsname,
             config->read_only ? ",ro" : "");
    int bad = fuse_opt_add_arg(args, "hearthfs") | fuse_opt_add_arg(args, text);
    if (config->fuse_options && config->fuse_options[0]) {
        snprintf(text, sizeof text, "-o%s", config->fuse_options);
        bad |= fuse_opt_add_arg(args, text);
    }
    if (config->debug)
        bad |= fuse_opt_add_arg(args, "-d");
    if (fs->uring_on) {
        snprintf(text, sizeof text, "-oio_uring,io_uring_q_depth=%ld", depth < URING_DEPTH_MIN ? URING_DEPTH_MIN : depth);
        bad |= fuse_opt_add_arg(args, text);
    }
    return bad ? -ENOMEM : 0;
}

static int mount_it(struct fs *fs, char err[SEG_ERR_BYTES])
{
    struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
    int              result = add_options(fs, &args);

    if (access("/dev/fuse", F_OK) != 0) {
        snprintf(err, SEG_ERR_BYTES, "/dev/fuse is missing: load the fuse module (modprobe fuse) or give this container the device");
        result = -ENODEV;
    }
    if (result == 0) {
        fuse_set_log_func(keep_log);
        fs->se = fuse_session_new(&args, &operations, sizeof operations, fs);
        if (!fs->se)
            snprintf(err, SEG_ERR_BYTES, "FUSE options refused: %.250s", last_log[0] ? last_log : "unknown option");
        else if (fuse_session_mount(fs->se, fs->config.mountpoint) != 0)
            snprintf(err, SEG_ERR_BYTES, "cannot mount on %.120s: %.160s", fs->config.mountpoint, last_log[0] ? last_log : "the kernel refused");
        else
            err[0] = 0;
        result = err[0] ? -EIO : 0;
    }
    fuse_opt_free_args(&args);
    return result;
}

/* ---- threads ---- */
static void wake_up(int signal)
{
    (void)signal; /* only to end a read of /dev/fuse */
}

static void *receiver_main(void *arg)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    fs_receive(arg);
    kill(getpid(), SIGUSR1); /* the first one that ends wakes the main thread */
    return NULL;
}

static int start_receivers(struct fs *fs)
{
    struct sigaction action = {.sa_handler = wake_up};
    sigaction(SIGUSR2, &action, NULL);
    for (fs->reader_count = 0; fs->reader_count < FS_READERS; fs->reader_count++) {
        int result = pthread_create(&fs->reader[fs->reader_count], NULL, receiver_main, fs);
        if (result != 0)
            return fs->reader_count ? 0 : -result;
    }
    return 0;
}

/* Waits for them; after END_WAIT_S without an end they are told to stop, and the kernel aborts what is still open. */
static void join_receivers(struct fs *fs)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += END_WAIT_S;
    for (unsigned i = 0; i < fs->reader_count; i++) {
        while (pthread_timedjoin_np(fs->reader[i], NULL, &until) != 0) {
            fuse_session_exit(fs->se);
            pthread_kill(fs->reader[i], SIGUSR2);
            clock_gettime(CLOCK_REALTIME, &until);
            until.tv_nsec += 100000000;
            if (until.tv_nsec >= 1000000000) {
                until.tv_sec++;
                until.tv_nsec -= 1000000000;
            }
        }
    }
}

static void block_signals(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGHUP);
    sigaddset(set, SIGUSR1);
    sigaddset(set, SIGUSR2);
    pthread_sigmask(SIG_BLOCK, set, NULL);
    sigdelset(set, SIGUSR2);
    signal(SIGPIPE, SIG_IGN);
}

static void on_fenced(void *arg)
{
    /* Requests find out by themselves (fs_stands) and answer EIO. */
    static const char line[] = "this member has been fenced by another: requests fail with EIO until it is mounted again";
    const struct fs  *fs = arg;
    if (fs->config.foreground)
        fprintf(stderr, "hearthfs: %s\n", line);
    else
        syslog(LOG_ERR, "%s: %s", fs->config.mountpoint, line);
}

static void prune_inode(void *arg, uint64_t id, uint64_t known)
{
    struct fs       *fs = arg;
    struct work_item item = {.kind = WORK_PRUNE, .key = id};
    for (; known; known &= known - 1)
        work_post(fs->work, (unsigned)__builtin_ctzll(known), &item, true);
}

static int serve_until_end(struct fs *fs, sigset_t *signals, void (*ready)(void *, const char *), void *arg, const char *note,
                           char err[SEG_ERR_BYTES])
{
    int             taken = 0;
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += INIT_WAIT_S;
    if (start_receivers(fs) != 0 || sem_timedwait(&init_done, &until) != 0) {
        snprintf(err, SEG_ERR_BYTES, "the kernel did not begin to talk on %.200s", fs->config.mountpoint);
        umount2(fs->config.mountpoint, MNT_DETACH);
        join_receivers(fs);
        return -EIO;
    }
    ready(arg, note);
    sigwait(signals, &taken);
    if (taken != SIGUSR1)
        umount2(fs->config.mountpoint, MNT_DETACH); /* the last close ends the connection */
    join_receivers(fs);
    return 0;
}

static struct fs *fs_new(const struct fs_config *config, struct persist_session *session, struct origin *origin)
{
    struct fs *fs = calloc(1, sizeof *fs);
    if (!fs)
        return NULL;
    fs->config = *config;
    fs->session = session;
    fs->seg = session->seg;
    fs->cache = session->cache;
    fs->lock = session->lock;
    fs->work = session->work;
    fs->origin = origin;
    fs->node_count = (uint32_t)seg_section(fs->seg, SEG_SECTION_INODES).count;
    fs->node = calloc(fs->node_count, sizeof *fs->node);
    for (unsigned i = 0; i < FS_STRIPES; i++)
        pthread_mutex_init(&fs->node_stripe[i], NULL);
    if (fs->node)
        return fs;
    free(fs);
    return NULL;
}

/* The root of the tree is the origin's root; a segment that has another one is not ours. */
static int name_root(struct fs *fs, char err[SEG_ERR_BYTES])
{
    struct origin_ref  ref;
    struct origin_attr attr;
    int                result = origin_root(fs->origin, &ref, &attr);
    if (result == 0)
        result = cache_root_set(fs->cache, &ref);
    if (result != 0)
        snprintf(err, SEG_ERR_BYTES, "%s", result == -EXDEV ? "this segment caches another directory; give another name=" : strerror(-result));
    return result;
}

static int watch_it(struct fs *fs, char err[SEG_ERR_BYTES])
{
    int result = fs_watch_start(fs);
    if (result == 0)
        return 0;
    if (result == -ENOSPC || result == -EMFILE)
        snprintf(err, SEG_ERR_BYTES, "watch: inotify has no more %s; raise the sysctl fs.inotify.%s", result == -ENOSPC ? "watches" : "instances",
                 result == -ENOSPC ? "max_user_watches" : "max_user_instances");
    else
        snprintf(err, SEG_ERR_BYTES, "watch: %s%s", strerror(-result),
                 fs->config.watch == FS_WATCH_FANOTIFY ? "; this file system or kernel has no fanotify for it, or the rights are missing; try watch=inotify" : "");
    umount2(fs->config.mountpoint, MNT_DETACH);
    return result;
}

int fs_serve(const struct fs_config *config, struct persist_session *session, struct origin *origin,
             void (*ready)(void *arg, const char *note), void *arg, char err[SEG_ERR_BYTES])
{
    struct fs  *fs = fs_new(config, session, origin);
    const char *note;
    sigset_t    signals;

    if (!fs) {
        snprintf(err, SEG_ERR_BYTES, "out of memory");
        return -ENOMEM;
    }
    sem_init(&init_done, 0, 0);
    block_signals(&signals);
    fs->uring_on = choose_uring(config, &note);
    int result = name_root(fs, err);
    if (result == 0 && config->uring == FS_URING_ON && !fs->uring_on) {
        snprintf(err, SEG_ERR_BYTES, "%s", note);
        result = -EOPNOTSUPP;
    }
    if (result == 0)
        result = mount_it(fs, err);
    if (result == 0 && ((result = fs_lanes_start(fs, config->workers_max)) != 0 || (result = fs_lock_start(fs)) != 0 || (result = fs_notify_start(fs)) != 0 ||
                        (result = fs_atime_start(fs)) != 0 ||
                        (result = persist_watch_start(session, on_fenced, fs)) != 0)) {
        snprintf(err, SEG_ERR_BYTES, "cannot start threads: %s", strerror(-result));
        umount2(config->mountpoint, MNT_DETACH);
    }
    if (result == 0) {
        cache_known_set(fs->cache, CACHE_ROOT_ID);
        cache_prune_set(fs->cache, prune_inode, fs);
        result = watch_it(fs, err);
    }
    if (result == 0) {
        result = serve_until_end(fs, &signals, ready, arg, note, err);
    }
    fs_watch_stop(fs);
    fs_lanes_stop(fs);
    if (fs->se && fs->reader_count)
        fs_node_drop_all(fs);
    fs_atime_stop(fs);
    persist_watch_stop(session);
    fs_notify_stop(fs);
    fs_lock_stop(fs);
    if (fs->se) {
        fuse_session_unmount(fs->se);
        fuse_session_destroy(fs->se);
    }
    fs_lanes_free(fs);
    fs_atime_free(fs);
    sem_destroy(&init_done);
    free(fs->node);
    free(fs);
    return result;
}
