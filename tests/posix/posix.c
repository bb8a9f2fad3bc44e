/* SPDX-License-Identifier: Apache-2.0 */
/*
 * posix.c - runs the cases: posix ACT OBSERVE [AREA | AREA.CASE]...
 *
 * Each case runs in a child of its own, in the new directory ACT/AREA.CASE; OBSERVE/AREA.CASE is the same directory seen another way. Prints the transcript; the
 * exit code is 0 when every expectation held and every case came to its end. Areas named "readonly" and "errors" need trees that are prepared for them and run only when
 * they are named.
 */
#include "posix.h"

#include <grp.h>
#include <sys/prctl.h>
#include <time.h>

enum { CASE_LIMIT_S = 60, EXIT_WRONG = 3 };

static const struct posix_area areas[] = {
    {"rights", posix_rights}, {"setid", posix_setid},   {"acl", posix_acl},       {"xattr", posix_xattr},   {"times", posix_times},
    {"names", posix_names},   {"links", posix_links},   {"rename", posix_rename}, {"open", posix_open},     {"orphan", posix_orphan},
    {"dir", posix_dir},       {"data", posix_data},     {"space", posix_space},   {"copy", posix_copy},     {"map", posix_map},
    {"exec", posix_exec},     {"atime", posix_atime},   {"readonly", posix_readonly}, {"errors", posix_errors},
};

static char     case_name[100], observe[3000];
static bool     across;
static unsigned wrong;

const char *B(const char *name)
{
    static char     path[16][4096];
    static unsigned next;
    char           *at = path[next++ % 16];
    return t_path(at, sizeof path[0], observe, name);
}

bool posix_across(void)
{
    return across;
}

void posix_line(const char *step, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    printf("%s %s: ", case_name, step);
    vprintf(format, args);
    putchar('\n');
    va_end(args);
}

long posix_do(const char *step, long result, int error)
{
    if (result < 0)
        posix_line(step, "%s", strerrorname_np(error));
    else
        posix_line(step, "ok");
    errno = error;
    return result;
}

void posix_fails(const char *step, long result, int error, int expected)
{
    if (result < 0 && error == expected) {
        posix_line(step, "%s", strerrorname_np(error));
        return;
    }
    wrong++;
    posix_line(step, "NO, %s where %s is right", result < 0 ? strerrorname_np(error) : "ok", strerrorname_np(expected));
}

void posix_is(const char *step, bool so)
{
    posix_line(step, so ? "yes" : "NO");
    wrong += !so;
}

/* ---- looking ---- */
static void stat_text(const struct stat *st, char text[200])
{
    bool sized = S_ISREG(st->st_mode) || S_ISLNK(st->st_mode);
    snprintf(text, 200, "mode %06o owner %u:%u links %lu size %lld rdev %llx", st->st_mode, st->st_uid, st->st_gid, (unsigned long)st->st_nlink,
             sized ? (long long)st->st_size : -1, S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode) ? (unsigned long long)st->st_rdev : 0);
}

static void see_one(const char *what, const char *name, const char *path)
{
    struct stat st;
    char        text[200], step[400];
    snprintf(step, sizeof step, "see %s %.200s", what, name);
    if (lstat(path, &st) < 0) {
        posix_line(step, "%s", strerrorname_np(errno));
        return;
    }
    stat_text(&st, text);
    posix_line(step, "%s", text);
}

void see(const char *name)
{
    see_one("A", name, name);
    see_one("B", name, B(name));
}

void see_fd(const char *step, int fd)
{
    struct stat st;
    char        text[200];
    if (fstat(fd, &st) < 0) {
        posix_line(step, "%s", strerrorname_np(errno));
        return;
    }
    stat_text(&st, text);
    posix_line(step, "%s", text);
}

static uint64_t sum(uint64_t value, const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        value = (value ^ bytes[i]) * 1099511628211ULL;
    return value;
}

static void bytes_one(const char *what, const char *name, const char *path)
{
    static uint8_t buffer[1 << 20];
    char           step[400];
    uint64_t       value = 14695981039346656037ULL, at = 0;
    size_t         n;
    int            fd = open(path, O_RDONLY | O_CLOEXEC);
    snprintf(step, sizeof step, "bytes %s %.200s", what, name);
    if (fd < 0) {
        posix_line(step, "%s", strerrorname_np(errno));
        return;
    }
    for (; (n = t_pread(fd, buffer, sizeof buffer, at)) > 0; at += n)
        value = sum(value, buffer, n);
    posix_line(step, "%llu, %016llx", (unsigned long long)at, (unsigned long long)value);
    close(fd);
}

static void bytes_mapped(const char *name, const char *path)
{
    char        step[400];
    struct stat st;
    int         fd = open(path, O_RDONLY | O_CLOEXEC);
    snprintf(step, sizeof step, "bytes mapped %.200s", name);
    if (fd < 0)
        return;
    T_OK(fstat(fd, &st));
    if (st.st_size > 0) {
        uint8_t *map = T_OK(mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0));
        posix_line(step, "%016llx", (unsigned long long)sum(14695981039346656037ULL, map, (size_t)st.st_size));
        munmap(map, (size_t)st.st_size);
    }
    close(fd);
}

void see_bytes(const char *name)
{
    bytes_one("A", name, name);
    bytes_one("B", name, B(name));
    bytes_mapped(name, B(name));
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void names_one(const char *what, const char *directory, const char *path)
{
    static char *found[100000];
    char         step[400];
    size_t       count = 0;
    uint64_t     value = 14695981039346656037ULL;
    DIR         *dir = opendir(path);
    snprintf(step, sizeof step, "names %s %.200s", what, directory);
    if (!dir) {
        posix_line(step, "%s", strerrorname_np(errno));
        return;
    }
    for (struct dirent *entry; count < 100000 && (entry = readdir(dir)) != NULL;) {
        found[count] = malloc(300);
        snprintf(found[count++], 300, "%s/%u", entry->d_name, entry->d_type);
    }
    closedir(dir);
    qsort(found, count, sizeof *found, by_name);
    for (size_t i = 0; i < count; i++) {
        if (count <= 12)
            posix_line(step, "%s", found[i]);
        value = sum(value, (uint8_t *)found[i], strlen(found[i]) + 1);
        free(found[i]);
    }
    posix_line(step, "%zu, %016llx", count, (unsigned long long)value);
}

void see_names(const char *directory)
{
    names_one("A", directory, directory);
    names_one("B", directory, B(directory));
}

void see_target(const char *name)
{
    static char target[5000];
    const char *path[2] = {name, B(name)};
    for (int i = 0; i < 2; i++) {
        ssize_t n = readlink(path[i], target, sizeof target);
        char    step[400];
        snprintf(step, sizeof step, "target %c %.200s", "AB"[i], name);
        if (n < 0)
            posix_line(step, "%s", strerrorname_np(errno));
        else
            posix_line(step, "%zd, %016llx", n, (unsigned long long)sum(14695981039346656037ULL, (uint8_t *)target, (size_t)n));
    }
}

void put(const char *name, const char *text)
{
    int fd = T_OK(open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    t_pwrite(fd, text, strlen(text), 0);
    close(fd);
}

void put_pattern(const char *name, size_t size, uint64_t seed)
{
    int      fd = T_OK(open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    uint8_t *bytes = malloc(size);
    seed = seed * 2 + 1;
    t_random_fill(&seed, bytes, size);
    t_pwrite(fd, bytes, size, 0);
    free(bytes);
    close(fd);
}

const char *text_at_b(const char *name)
{
    static char text[201];
    int         fd = open(B(name), O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return strerrorname_np(errno);
    text[t_pread(fd, text, sizeof text - 1, 0)] = 0;
    close(fd);
    return text;
}

/* ---- times ---- */
void posix_nap_ms(unsigned ms)
{
    struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
    nanosleep(&pause, NULL);
}

static int64_t ns_of(struct timespec t)
{
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

void posix_times_before(struct posix_times *times, const char *const *list)
{
    struct timespec now;
    times->count = 0;
    for (; list[0] && times->count < 4; list += 2, times->count++) {
        struct stat seen;
        times->name[times->count] = list[0];
        times->expected[times->count] = list[1];
        T_OK(lstat(list[0], &times->before[times->count]));
        T_OK(lstat(B(list[0]), &seen)); /* so that the other side has something to forget */
    }
    posix_nap_ms(11); /* longer than a tick: a time that moves is another one then */
    clock_gettime(CLOCK_REALTIME, &now);
    times->start.st_mtim = now;
}

void posix_times_after(const struct posix_times *times, const char *step, long result, int error)
{
    char outcome[200];
    snprintf(outcome, sizeof outcome, "%s", result < 0 ? strerrorname_np(error) : "ok");
    for (unsigned i = 0; i < times->count; i++) {
        struct stat        st, seen;
        const struct stat *was = &times->before[i];
        char               moved[4] = "", text[600];
        size_t             n = 0;
        bool               now = true;
        int64_t            tick = ns_of(times->start.st_mtim) - 11000000;
        if (lstat(times->name[i], &st) < 0 || lstat(B(times->name[i]), &seen) < 0) {
            posix_line(step, "%s; %s: %s", outcome, times->name[i], strerrorname_np(errno));
            continue;
        }
        const struct timespec old[3] = {was->st_atim, was->st_mtim, was->st_ctim}, new[3] = {st.st_atim, st.st_mtim, st.st_ctim},
                              far[3] = {seen.st_atim, seen.st_mtim, seen.st_ctim};
        bool agree = true;
        for (int k = 0; k < 3; k++) {
            agree &= ns_of(new[k]) == ns_of(far[k]);
            if (ns_of(old[k]) == ns_of(new[k]))
                continue;
            moved[n++] = "amc"[k];
            now &= ns_of(new[k]) >= tick;
        }
        moved[n] = 0;
        bool right = times->expected[i][0] == '?' || strcmp(times->expected[i], moved) == 0;
        wrong += !right || !now || !agree;
        snprintf(text, sizeof text, "%s; %s moves [%s]%s%s%s", outcome, times->name[i], moved, right ? "" : " NO, not as it must be",
                 now ? "" : " NO, not to now", agree ? "" : " NO, the sides differ");
        posix_line(step, "%s", text);
    }
}

/* ---- as somebody ---- */
pid_t posix_as_begin(uid_t uid, const gid_t *groups)
{
    int    status;
    size_t more = 0;
    fflush(NULL);
    pid_t child = T_OK(fork());
    if (child == 0) {
        wrong = 0;
        while (groups[0] && groups[1 + more])
            more++;
        if (uid || groups[0]) {
            T_OK(setgroups(more, groups + 1));
            T_OK(setresgid(groups[0], groups[0], groups[0]));
            T_OK(setresuid(uid, uid, uid));
        }
        return 0;
    }
    T_OK(waitpid(child, &status, 0));
    if (WIFSIGNALED(status))
        posix_line("a step", "ended by signal %s", sigabbrev_np(WTERMSIG(status)));
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        wrong++;
    return child;
}

pid_t posix_as_end(void)
{
    fflush(NULL);
    _exit(wrong ? EXIT_WRONG : 0);
}

/* ---- running ---- */
static bool chosen(const struct posix_area *area, const struct posix_case *one, int argc, char **argv)
{
    char whole[100];
    snprintf(whole, sizeof whole, "%s.%s", area->name, one->name);
    for (int i = 3; i < argc; i++)
        if (strcmp(argv[i], area->name) == 0 || strcmp(argv[i], whole) == 0)
            return true;
    return argc <= 3 && area->cases != posix_readonly && area->cases != posix_errors;
}

static void run_case(const struct posix_area *area, const struct posix_case *one, const char *act, const char *obs)
{
    char home[3000];
    int  status;
    snprintf(case_name, sizeof case_name, "%s.%s", area->name, one->name);
    t_path(home, sizeof home, act, case_name);
    t_path(observe, sizeof observe, obs, case_name);
    if (mkdir(home, 0755) < 0 && errno != EEXIST && errno != EROFS)
        t_die("mkdir %s: %s", home, strerror(errno));
    chmod(home, 0777);
    fflush(NULL);
    pid_t child = T_OK(fork());
    if (child == 0) {
        setpgid(0, 0);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        alarm(getenv("POSIX_LONG") ? 20 * CASE_LIMIT_S : CASE_LIMIT_S);
        umask(022);
        T_OK(chdir(home));
        wrong = 0;
        one->run();
        fflush(NULL);
        _exit(wrong ? EXIT_WRONG : 0);
    }
    T_OK(waitpid(child, &status, 0));
    kill(-child, SIGKILL); /* what it may have left */
    if (WIFSIGNALED(status))
        posix_line("the case", "ended by signal %s", sigabbrev_np(WTERMSIG(status)));
    else if (WEXITSTATUS(status) != 0 && WEXITSTATUS(status) != EXIT_WRONG)
        posix_line("the case", "ended early");
    wrong += status != 0;
}

int main(int argc, char **argv)
{
    unsigned ran = 0, bad = 0;
    T_THAT(argc >= 3, "usage: posix ACT OBSERVE [AREA | AREA.CASE]...");
    across = strcmp(argv[1], argv[2]) != 0;
    setvbuf(stdout, NULL, _IOFBF, 1 << 16);
    signal(SIGPIPE, SIG_IGN);
    for (size_t i = 0; i < sizeof areas / sizeof *areas; i++) {
        for (const struct posix_case *one = areas[i].cases; one->name; one++) {
            if (!chosen(&areas[i], one, argc, argv))
                continue;
            wrong = 0;
            run_case(&areas[i], one, argv[1], argv[2]);
            ran++;
            bad += wrong != 0;
        }
    }
    T_THAT(ran, "no such case");
    fflush(NULL);
    fprintf(stderr, "%u cases, %u of them not as they must be\n", ran, bad);
    return bad != 0;
}
