/* SPDX-License-Identifier: Apache-2.0 */
/*
 * plain_runner.c - runs Criterion's tests without Criterion's sandbox; linked into the unit tests of preset tsan only.
 *
 * Why: Criterion's sandbox maps an arena at a fixed address between 0x200000000000 and 0x600000000000, where
 * ThreadSanitizer keeps its shadow memory and lets nobody map anything, so that every test ends with "Could not
 * initialize inheritable arena". Criterion's headers put each test into the section cr_tst (and each suite into cr_sts)
 * and call the library through a handful of functions. This file defines these functions and main() anew; definitions
 * in the program win over those of the library.
 *
 * Method: each test runs in a child of its own, one after the other. The child's end is the result: 0 passed, 1 failed,
 * 77 skipped; a signal, an exit code or a timeout is compared with what the test asked for. A race ends the child at
 * once with ThreadSanitizer's exit code (halt_on_error=1 is set by ./check). The report is TAP, one line a test as
 * Criterion writes it, on standard output or in the file that --tap names. Not supported: parameterized tests, theories (none of ours); they fail loudly.
 *
 * If the runner dies, its child goes with it (PR_SET_PDEATHSIG).
 */
#include <criterion/criterion.h>
#include <fnmatch.h>
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { RESULT_PASSED = 0, RESULT_FAILED = 1, RESULT_SKIPPED = 77 };

extern struct criterion_test  *__start_cr_tst[], *__stop_cr_tst[];
extern struct criterion_suite *__start_cr_sts[] __attribute__((weak)), *__stop_cr_sts[] __attribute__((weak));

int main(int argc, char **argv);

static const struct criterion_test            *test_now; /* the child's test */
static const struct criterion_test_extra_data *suite_now;
static atomic_bool                             failed_now;
static FILE                                   *tap;

/* --- what Criterion's macros call ------------------------------------------------------------------------------- */

void criterion_internal_test_setup(void)
{
    if (suite_now && suite_now->init)
        suite_now->init();
    if (test_now->data->init)
        test_now->data->init();
}

void criterion_internal_test_main(void (*fn)(void))
{
    fn();
}

void criterion_internal_test_teardown(void)
{
    if (test_now->data->fini)
        test_now->data->fini();
    if (suite_now && suite_now->fini)
        suite_now->fini();
}

void criterion_send_assert(struct criterion_assert_stats *stats)
{
    if (stats->passed)
        return;
    atomic_store(&failed_now, true);
    fprintf(stderr, "%s:%u: assertion failed: %s\n", stats->file, stats->line, stats->message ? stats->message : "");
}

void cri_asserts_passed_incr(void)
{
}

void criterion_abort_test(void)
{
    exit(RESULT_FAILED);
}

void criterion_skip_test(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(RESULT_SKIPPED);
}

void criterion_test_die(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(RESULT_FAILED);
}

/* --- one test --------------------------------------------------------------------------------------------------- */

static const struct criterion_test_extra_data *suite_find(const char *name)
{
    for (struct criterion_suite **s = __start_cr_sts; s < __stop_cr_sts; s++)
        if (*s && !strcmp((*s)->name, name))
            return (*s)->data;
    return NULL;
}

static int child_run(const struct criterion_test *test, double timeout_s)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (timeout_s > 0)
        alarm((unsigned)timeout_s + 1);
    if (test->data->kind_ != CR_TEST_NORMAL) {
        fprintf(stderr, "%s::%s: only plain tests can run here\n", test->category, test->name);
        return RESULT_FAILED;
    }
    test->test();
    return atomic_load(&failed_now) ? RESULT_FAILED : RESULT_PASSED;
}

/* Returns RESULT_*; `why` becomes a word on a failure. */
static int status_judge(const struct criterion_test_extra_data *want, int status, char why[64])
{
    if (WIFSIGNALED(status)) {
        if (want->signal == WTERMSIG(status))
            return RESULT_PASSED;
        snprintf(why, 64, WTERMSIG(status) == SIGALRM ? "timed out" : "unexpected signal %d", WTERMSIG(status));
        return RESULT_FAILED;
    }
    if (WEXITSTATUS(status) == RESULT_SKIPPED)
        return RESULT_SKIPPED;
    if (want->signal == 0 && WEXITSTATUS(status) == want->exit_code)
        return RESULT_PASSED;
    snprintf(why, 64, "ended with exit code %d", WEXITSTATUS(status));
    return RESULT_FAILED;
}

static int test_run(const struct criterion_test *test, double timeout_all_s)
{
    struct timespec start, end;
    char            why[64] = "";
    double          timeout_s;
    int             status = 0, result;
    pid_t           pid;

    test_now = test;
    suite_now = suite_find(test->category);
    timeout_s = test->data->timeout > 0 ? test->data->timeout : suite_now ? suite_now->timeout : 0;
    if (timeout_s <= 0)
        timeout_s = timeout_all_s;

    fflush(NULL);
    clock_gettime(CLOCK_MONOTONIC, &start);
    pid = fork();
    if (pid == 0)
        exit(child_run(test, timeout_s));
    if (pid < 0 || waitpid(pid, &status, 0) != pid) {
        perror("plain_runner");
        return RESULT_FAILED;
    }
    clock_gettime(CLOCK_MONOTONIC, &end);

    result = status_judge(test->data, status, why);
    fprintf(tap, "%s - %s::%s %s (%.2fs)%s\n", result == RESULT_FAILED ? "not ok" : "ok", test->category, test->name,
            why, (double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) / 1e9,
            result == RESULT_SKIPPED ? " # SKIP" : "");
    return result;
}

/* --- all of them ------------------------------------------------------------------------------------------------ */

static int usage_show(const char *name)
{
    printf("usage: %s [--filter SUITE/TEST] [--timeout SECONDS] [--tap FILE] [--list]\n", name);
    return 2;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"filter", required_argument, NULL, 'f'},
                                            {"timeout", required_argument, NULL, 't'},
                                            {"tap", required_argument, NULL, 'o'},
                                            {"list", no_argument, NULL, 'l'},
                                            {0}};
    const char                *filter = "*";
    double                     timeout_s = 0;
    bool                       list = false;
    unsigned                   failures = 0, runs = 0;

    tap = stdout;
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == 'f')
            filter = optarg;
        else if (c == 't')
            timeout_s = atof(optarg);
        else if (c == 'o' && tap == stdout)
            tap = fopen(optarg, "we");
        else if (c == 'l')
            list = true;
        else
            return usage_show(argv[0]);
    }
    if (!tap) {
        perror(argv[0]);
        return 2;
    }

    for (struct criterion_test **t = __start_cr_tst; t < __stop_cr_tst; t++) {
        if (!*t || (*t)->data->disabled || fnmatch(filter, (*t)->data->identifier_, 0))
            continue;
        if (list) {
            printf("%s\n", (*t)->data->identifier_);
            continue;
        }
        runs++;
        failures += test_run(*t, timeout_s) == RESULT_FAILED;
    }
    if (!list)
        fprintf(tap, "1..%u\n", runs);
    return failures != 0;
}
