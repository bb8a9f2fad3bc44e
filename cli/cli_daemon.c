/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cli_daemon.c - into the background, with a word back through a pipe.
 *
 * The fork happens before any thread exists and before anything is opened, so the child owns all locks and mappings that it makes (an OFD lock that parent and
 * child shared would keep a dead member alive). The parent waits until the mount is up, prints what the child says, and ends with its code. So
 * `hearthfs mount ... && use the mount` is safe, and nothing on standard error comes from anybody else: the child's standard descriptors are /dev/null.
 *
 * Wire: lines, the first byte is the kind. If the child dies without a last word, the parent says how. If the parent dies first, the child
 * goes on (its words are lost, SIGPIPE is ignored).
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <syslog.h>
#include <unistd.h>

#include "cli.h"

enum { SAY = 'S', NOTE = 'N', UP = 'U', FAIL = 'F', PIPE_FD = 3 };

struct cli_daemon {
    int  pipe;       /* -1: foreground, or the parent has its answer */
    bool foreground;
};

/* ---- the parent ---- */

static int parent_hear(FILE *words, pid_t child)
{
    char  *line = NULL;
    size_t size = 0;
    int    code = -1;
    while (code < 0 && getline(&line, &size, words) > 0) {
        line[strcspn(line, "\n")] = 0;
        if (line[0] == SAY)
            puts(line + 1);
        else if (line[0] == NOTE)
            fprintf(stderr, "hearthfs: note: %s\n", line + 1);
        else if (line[0] == UP)
            code = CLI_OK;
        else if (line[0] == FAIL)
            code = cli_error(CLI_FAILED, "%s", line + 1);
    }
    free(line);
    fflush(stdout);
    int status = 0;
    if (code == CLI_OK)
        return code;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    if (code >= 0)
        return code;
    if (WIFSIGNALED(status))
        return cli_error(CLI_FAILED, "the daemon died of signal %d (%s) before the mount was up; try again with -f to see more", WTERMSIG(status),
                         strsignal(WTERMSIG(status)));
    return cli_error(CLI_FAILED, "the daemon ended with code %d before the mount was up; try again with -f to see more", WEXITSTATUS(status));
}

/* ---- the child ---- */

/* Modes of files are said in full each time, by the caller's umask and not by the one of whoever mounted. */
static void process_prepare(void)
{
    signal(SIGPIPE, SIG_IGN);
    umask(0);
}

static int child_begin(int pipe_fd)
{
    process_prepare();
    setsid();
    int null = open("/dev/null", O_RDWR);
    if (null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0 || dup2(null, 2) < 0 || dup2(pipe_fd, PIPE_FD) < 0)
        return -errno;
    fcntl(PIPE_FD, F_SETFD, FD_CLOEXEC);
    close_range(PIPE_FD + 1, ~0u, 0); /* what the caller had open is none of the daemon's business */
    if (chdir("/") != 0)
        return -errno;
    openlog("hearthfs", LOG_PID, LOG_DAEMON);
    return 0;
}

int cli_daemon_start(bool foreground, struct cli_daemon **out, int *code)
{
    struct cli_daemon *daemon = calloc(1, sizeof *daemon);
    if (!daemon)
        return -ENOMEM;
    daemon->foreground = foreground;
    daemon->pipe = -1;
    *out = daemon;
    if (foreground) {
        process_prepare();
        return 0;
    }
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) {
        free(daemon);
        return -errno;
    }
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        daemon->pipe = PIPE_FD;
        int rc = child_begin(ends[1]);
        if (rc)
            _exit(CLI_FAILED);
        return 0;
    }
    int rc = child < 0 ? -errno : 1;
    close(ends[1]);
    free(daemon);
    FILE *words = rc == 1 ? fdopen(ends[0], "r") : NULL;
    if (words) {
        *code = parent_hear(words, child);
        fclose(words);
    } else {
        close(ends[0]);
        rc = rc == 1 ? -ENOMEM : rc;
    }
    return rc;
}

static void word(struct cli_daemon *daemon, char kind, const char *text)
{
    char   line[2048];
    int    length = snprintf(line, sizeof line - 1, "%c%s", kind, text);
    size_t end = length < (int)sizeof line - 1 ? (size_t)length : sizeof line - 2;
    for (size_t i = 1; i < end; i++)
        if (line[i] == '\n')
            line[i] = ' ';
    line[end] = '\n';
    for (size_t done = 0; done <= end;) {
        ssize_t put = write(daemon->pipe, line + done, end + 1 - done);
        if (put < 0 && errno != EINTR)
            return; /* nobody listens */
        done += put > 0 ? (size_t)put : 0;
    }
}

void cli_daemon_say(struct cli_daemon *daemon, const char *line)
{
    if (daemon->foreground)
        puts(line);
    else if (daemon->pipe >= 0)
        word(daemon, SAY, line);
}

void cli_daemon_note(struct cli_daemon *daemon, const char *line)
{
    if (daemon->foreground) {
        fprintf(stderr, "hearthfs: note: %s\n", line);
        return;
    }
    syslog(LOG_NOTICE, "%s", line);
    if (daemon->pipe >= 0)
        word(daemon, NOTE, line);
}

void cli_daemon_up(struct cli_daemon *daemon)
{
    if (daemon->foreground)
        fflush(stdout);
    else if (daemon->pipe >= 0) {
        word(daemon, UP, "");
        close(daemon->pipe);
        daemon->pipe = -1;
    }
}

void cli_daemon_fail(struct cli_daemon *daemon, const char *line)
{
    if (daemon->foreground) {
        cli_error(CLI_FAILED, "%s", line);
    } else if (daemon->pipe >= 0) {
        word(daemon, FAIL, line);
        close(daemon->pipe);
        daemon->pipe = -1;
    } else {
        syslog(LOG_ERR, "%s", line);
    }
}
