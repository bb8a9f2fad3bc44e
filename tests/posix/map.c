/* SPDX-License-Identifier: Apache-2.0 */
/* map.c - mappings, and programs that are executed out of the tree. */
#include "posix.h"

#include <setjmp.h>

static sigjmp_buf            jump;
static volatile sig_atomic_t got_signal;

static void on_signal(int number)
{
    got_signal = number;
    siglongjmp(jump, 1);
}

/* What touching a byte does: its value, or the signal. */
static int touch(volatile uint8_t *byte, bool store)
{
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGBUS, &action, NULL);
    sigaction(SIGSEGV, &action, NULL);
    got_signal = 0;
    if (sigsetjmp(jump, 1))
        return -got_signal;
    if (store)
        *byte = 'S';
    return *byte;
}
static void show_touch(const char *step, uint8_t *byte, bool store)
{
    int value = touch(byte, store);
    if (value < 0)
        VALUE(step, "SIG%s", sigabbrev_np(-value));
    else
        VALUE(step, "%d", value);
}

static uint8_t *map_file(const char *name, size_t size, int prot, int flags)
{
    int   fd = T_OK(open(name, (prot & PROT_WRITE) && (flags & MAP_SHARED) ? O_RDWR | O_CLOEXEC : O_RDONLY | O_CLOEXEC));
    void *map = mmap(NULL, size, prot, flags, fd, 0);
    T_THAT(map != MAP_FAILED, "mmap %s: %s", name, strerror(errno));
    close(fd);
    return map;
}

static void shared(void)
{
    char text[20] = {0};
    put_pattern("f", 5 * BLOCK + 10, 1);
    int      fd = T_OK(open("f", O_RDWR | O_CLOEXEC)), far = T_OK(open(B("f"), O_RDWR | O_CLOEXEC));
    uint8_t *here = map_file("f", 6 * BLOCK, PROT_READ | PROT_WRITE, MAP_SHARED), *there = map_file(B("f"), 6 * BLOCK, PROT_READ | PROT_WRITE, MAP_SHARED);
    IS(memcmp(here, there, 5 * BLOCK + 10) == 0);
    memcpy(here + BLOCK - 4, "crosses", 7);
    IS(pread(fd, text, 7, BLOCK - 4) == 7 && memcmp(text, "crosses", 7) == 0);
    DO(msync(here, 6 * BLOCK, MS_SYNC));
    IS(memcmp(there + BLOCK - 4, "crosses", 7) == 0);
    IS(pread(far, text, 7, BLOCK - 4) == 7 && memcmp(text, "crosses", 7) == 0);
    IS(pwrite(far, "by write", 8, 2 * BLOCK) == 8);
    IS(memcmp(here + 2 * BLOCK, "by write", 8) == 0);
    memcpy(there + 3 * BLOCK, "there", 5);
    DO(msync(there + 3 * BLOCK, BLOCK, MS_SYNC));
    IS(memcmp(here + 3 * BLOCK, "there", 5) == 0);
    memcpy(here + 3 * BLOCK + 100, "again", 5); /* the page that was recalled is stored to again */
    DO(msync(here + 3 * BLOCK, BLOCK, MS_SYNC));
    IS(memcmp(there + 3 * BLOCK, "there", 5) == 0 && memcmp(there + 3 * BLOCK + 100, "again", 5) == 0);
    memcpy(here, "munmap", 6);
    munmap(here, 6 * BLOCK);
    T_OK(fsync(fd));
    IS(memcmp(there, "munmap", 6) == 0);
    see_bytes("f");
    FAILS(EACCES, mmap(NULL, BLOCK, PROT_READ | PROT_WRITE, MAP_SHARED, T_OK(open("f", O_RDONLY | O_CLOEXEC)), 0) == MAP_FAILED ? -1 : 0);
    FAILS(EACCES, mmap(NULL, BLOCK, PROT_READ, MAP_SHARED, T_OK(open("f", O_WRONLY | O_CLOEXEC)), 0) == MAP_FAILED ? -1 : 0);
    FAILS(ENODEV, mmap(NULL, BLOCK, PROT_READ, MAP_SHARED, T_OK(open(".", O_RDONLY | O_CLOEXEC)), 0) == MAP_FAILED ? -1 : 0);
    FAILS(EINVAL, mmap(NULL, BLOCK, PROT_READ, MAP_SHARED, fd, 100) == MAP_FAILED ? -1 : 0);
}

static void private(void)
{
    char text[20];
    put("f", "original text");
    int      fd = T_OK(open("f", O_RDWR | O_CLOEXEC));
    uint8_t *map = map_file("f", BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE), *other = map_file("f", BLOCK, PROT_READ, MAP_PRIVATE);
    memcpy(map, "PRIVATE!", 8);
    DO(msync(map, BLOCK, MS_SYNC));
    IS(pread(fd, text, 13, 0) == 13 && memcmp(text, "original text", 13) == 0);
    VALUE("there", "%s", text_at_b("f"));
    int far = T_OK(open(B("f"), O_RDWR | O_CLOEXEC));
    IS(pwrite(far, "ORIG", 4, 0) == 4);
    IS(memcmp(map, "PRIVATE!", 8) == 0);
    IS(memcmp(other, "ORIG", 4) == 0); /* not copied yet: Linux shows the file */
}

/* Past the last page: SIGBUS. In the last page past the end: zeros, and what is stored there is not the file's. */
static void past_the_end(void)
{
    put_pattern("f", BLOCK + 100, 2);
    uint8_t *map = map_file("f", 4 * BLOCK, PROT_READ | PROT_WRITE, MAP_SHARED), *far = map_file(B("f"), 4 * BLOCK, PROT_READ | PROT_WRITE, MAP_SHARED);
    show_touch("past the last page", map + 2 * BLOCK, false);
    show_touch("past it, there", far + 3 * BLOCK, true);
    int dirty = 0;
    for (int i = 100; i < BLOCK; i++)
        dirty |= map[BLOCK + i] | far[BLOCK + i];
    IS(dirty == 0);
    map[BLOCK + 200] = 'x';
    far[BLOCK + 300] = 'y';
    T_OK(msync(map, 2 * BLOCK, MS_SYNC));
    T_OK(msync(far, 2 * BLOCK, MS_SYNC));
    see_bytes("f");
    see("f");
    T_OK(truncate("f", BLOCK + 1000));
    int  fd = T_OK(open(B("f"), O_RDONLY | O_CLOEXEC));
    char byte = 1;
    IS(pread(fd, &byte, 1, BLOCK + 300) == 1 && byte == 0);
    byte = 1;
    IS(pread(fd, &byte, 1, BLOCK + 200) == 1 && byte == 0);
    T_OK(truncate("f", 3 * BLOCK));
    show_touch("grown over it", map + 2 * BLOCK, false);
    show_touch("grown, there", far + 2 * BLOCK, true);
    see_bytes("f");
}

static void cut_short(void)
{
    for (int round = 0; round < 4; round++) {
        const char *cutter = round & 1 ? B("f") : "f";
        put_pattern("f", 8 * BLOCK, 3);
        uint8_t *map = map_file(round & 2 ? B("f") : "f", 8 * BLOCK, PROT_READ | PROT_WRITE, MAP_SHARED);
        for (int i = 0; i < 8; i++)
            touch(map + i * BLOCK, false);
        map[6 * BLOCK] = 'd'; /* dirty when it is cut off */
        T_OK(truncate(cutter, 3 * BLOCK + 50));
        show_touch("before the cut", map + BLOCK, false);
        show_touch("after it, in the page", map + 3 * BLOCK + 60, false);
        show_touch("after it", map + 4 * BLOCK, false);
        show_touch("after it, dirty", map + 6 * BLOCK, false);
        show_touch("after it, stored", map + 7 * BLOCK, true);
        T_OK(truncate(cutter, 8 * BLOCK));
        show_touch("longer again", map + 6 * BLOCK, false);
        show_touch("longer again, in the page", map + 3 * BLOCK + 60, false);
        see_bytes("f");
        T_OK(truncate(cutter, 0));
        show_touch("cut to nothing", map, false);
        munmap(map, 8 * BLOCK);
        T_OK(unlink("f"));
    }
    put_pattern("f", 8 * BLOCK, 4);
    uint8_t *map = map_file(B("f"), 8 * BLOCK, PROT_READ, MAP_PRIVATE);
    touch(map + 5 * BLOCK, false);
    close(T_OK(open("f", O_WRONLY | O_TRUNC | O_CLOEXEC)));
    show_touch("a private mapping, cut", map + 5 * BLOCK, false);
}

static void protections(void)
{
    put("f", "text");
    uint8_t *map = map_file("f", BLOCK, PROT_READ, MAP_SHARED);
    show_touch("a store into a mapping for reading", map, true);
    FAILS(EACCES, mprotect(map, BLOCK, PROT_READ | PROT_WRITE));
    uint8_t *both = map_file("f", BLOCK, PROT_READ | PROT_WRITE, MAP_SHARED);
    DO(mprotect(both, BLOCK, PROT_READ));
    show_touch("a store after mprotect", both, true);
    DO(mprotect(both, BLOCK, PROT_READ | PROT_WRITE));
    show_touch("a store after mprotect back", both, true);
    DO(msync(both, BLOCK, MS_ASYNC));
    DO(msync(both, BLOCK, MS_SYNC));
    VALUE("text", "%s", text_at_b("f"));
    DO(msync(both, BLOCK, MS_INVALIDATE));
    DO(madvise(both, BLOCK, MADV_DONTNEED));
    show_touch("after MADV_DONTNEED", both, false);
    DO(madvise(both, BLOCK, MADV_WILLNEED));
    DO(mlock(both, BLOCK));
    int fd = T_OK(open(B("f"), O_WRONLY | O_CLOEXEC));
    IS(pwrite(fd, "L", 1, 0) == 1);
    show_touch("locked in memory, written there", both, false);
    DO(madvise(both, BLOCK, MADV_REMOVE));
    show_touch("after MADV_REMOVE", both, false);
    see_bytes("f");
}

static void forked(void)
{
    put("f", "parent and child");
    uint8_t *map = map_file("f", BLOCK, PROT_READ | PROT_WRITE, MAP_SHARED), *own = map_file("f", BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    own[0] = 'q';
    CHILD {
        IS(own[0] == 'q');
        own[1] = 'z';
        map[0] = 'C';
    }
    IS(map[0] == 'C');
    IS(own[0] == 'q' && own[1] == 'a');
    T_OK(msync(map, BLOCK, MS_SYNC));
    VALUE("text", "%s", text_at_b("f"));
    CHILD map[1] = 'E'; /* written back when the last mapping that is dirty goes, or at msync of another */
    T_OK(msync(map, BLOCK, MS_SYNC));
    VALUE("text", "%s", text_at_b("f"));
    unlink("f");
    map[2] = 'U';
    T_OK(msync(map, BLOCK, MS_SYNC));
    IS(map[2] == 'U');
}

/* write() from a mapping of the same page, read() into one, direct I/O into one. */
static void crossed(void)
{
    put_pattern("f", 4 * BLOCK, 5);
    put_pattern("g", 4 * BLOCK, 6);
    int      fd = T_OK(open("f", O_RDWR | O_CLOEXEC)), g = T_OK(open("g", O_RDWR | O_CLOEXEC));
    uint8_t *map = map_file("f", 4 * BLOCK, PROT_READ | PROT_WRITE, MAP_SHARED);
    VALUE("write from its own page", "%zd", pwrite(fd, map + 100, 2000, 300));
    see_bytes("f");
    VALUE("write from a page that is not there yet", "%zd", pwrite(g, map_file("f", 4 * BLOCK, PROT_READ, MAP_SHARED) + BLOCK, 3 * BLOCK, 10));
    see_bytes("g");
    VALUE("read into a mapping", "%zd", pread(g, map + 10, 2 * BLOCK, 0));
    T_OK(msync(map, 4 * BLOCK, MS_SYNC));
    see_bytes("f");
    int direct = T_OK(open("g", O_RDWR | O_DIRECT | O_CLOEXEC));
    VALUE("direct read into a mapping", "%zd", pread(direct, map, BLOCK, BLOCK));
    T_OK(msync(map, 4 * BLOCK, MS_SYNC));
    see_bytes("f");
    VALUE("direct write from one", "%zd", pwrite(direct, map + BLOCK, BLOCK, 0));
    see_bytes("g");
}

const struct posix_case posix_map[] = {
    {"shared", shared}, {"private", private}, {"end", past_the_end}, {"cut", cut_short}, {"protect", protections}, {"fork", forked}, {"crossed", crossed}, {0},
};

/* ---- executing ---- */
static void copy_program(const char *from, const char *to)
{
    static char buffer[1 << 16];
    int         in = T_OK(open(from, O_RDONLY | O_CLOEXEC)), out = T_OK(open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0755));
    ssize_t     n;
    while ((n = T_OK(read(in, buffer, sizeof buffer))) > 0)
        T_OK(write(out, buffer, (size_t)n));
    close(in), close(out);
}

static pid_t start(const char *program, const char *argument, int *error)
{
    int pipes[2], found = 0;
    fflush(NULL);
    T_OK(pipe2(pipes, O_CLOEXEC));
    pid_t child = T_OK(fork());
    if (child == 0) {
        int null = open("/dev/null", O_RDWR);
        dup2(null, 1);
        execl(program, program, argument, NULL);
        found = errno;
        T_OK(write(pipes[1], &found, sizeof found));
        _exit(127);
    }
    close(pipes[1]);
    *error = read(pipes[0], &found, sizeof found) == sizeof found ? found : 0;
    close(pipes[0]);
    return child;
}

static void run(const char *step, const char *program)
{
    int   error, status;
    pid_t child = start(program, "0", &error);
    T_OK(waitpid(child, &status, 0));
    if (error)
        VALUE(step, "%s", strerrorname_np(error));
    else
        VALUE(step, "exit %d", WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status));
}

static void programs(void)
{
    copy_program("/bin/sleep", "p");
    run("run", "./p");
    run("run there", B("p"));
    T_OK(chmod("p", 0644));
    run("without the right", "./p");
    run("without the right, there", B("p"));
    T_OK(chmod("p", 0711));
    AS(BOB, GUESTS) {
        run("by a user who cannot read it", "./p");
        FAILS(EACCES, open("p", O_RDONLY));
    }
    put("script", "#!/bin/sh\nexit 7\n");
    T_OK(chmod("script", 0755));
    run("a script", "./script");
    put("script", "#!/bin/sh\nexit 9\n");
    run("a script that was changed", B("script"));
    put("text", "nothing to run\n");
    T_OK(chmod("text", 0755));
    run("not a program", "./text");
    run("a directory", ".");
    copy_program("/bin/true", "q");
    T_OK(rename("q", "p"));
    run("replaced", B("p"));
}

/* ETXTBSY: on one mount the kernel knows; across mounts see deliberate.txt. */
static void busy(void)
{
    int error, status;
    copy_program("/bin/sleep", "p");
    int fd = T_OK(open("p", O_RDWR | O_CLOEXEC));
    run("while it is open for writing", "./p");
    close(fd);
    run("after that", "./p");
    pid_t child = start("./p", "30", &error);
    VALUE("running", "%d", error);
    FAILS(ETXTBSY, open("p", O_WRONLY));
    FAILS(ETXTBSY, open("p", O_RDWR | O_TRUNC));
    FAILS(ETXTBSY, truncate("p", 0));
    DO(open("p", O_RDONLY | O_CLOEXEC));
    DO(rename("p", "p2"));
    DO(chmod("p2", 0700));
    DO(unlink("p2"));
    kill(child, SIGKILL);
    T_OK(waitpid(child, &status, 0));
    copy_program("/bin/sleep", "r");
    fd = T_OK(open("r", O_RDWR | O_CLOEXEC));
    run("open for writing here, run there", B("r"));
    close(fd);
    child = start("./r", "30", &error);
    fd = open(B("r"), O_WRONLY | O_CLOEXEC);
    VALUE("running here, opened for writing there", "%s", fd < 0 ? strerrorname_np(errno) : "ok");
    close(fd);
    kill(child, SIGKILL);
    T_OK(waitpid(child, &status, 0));
    fd = (int)DO(open("r", O_WRONLY | O_CLOEXEC));
}

const struct posix_case posix_exec[] = {{"programs", programs}, {"busy", busy}, {0}};
