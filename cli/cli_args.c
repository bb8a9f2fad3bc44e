/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cli_args.c - command lines by glibc's argp, with errors in one line.
 *
 * argp complains in two lines of its own; so it is told to be silent, and cli_args_parse() says what was wrong: the argument at which it stopped. A silent argp
 * gives no help either, so --help, --usage and --version are looked for first. The texts are argp's.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

int cli_error(int code, const char *format, ...)
{
    char    line[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    for (char *c = line; *c; c++) /* one line, whatever a path contains */
        if (*c == '\n' || *c == '\r')
            *c = '?';
    fprintf(stderr, "hearthfs: %s\n", line);
    return code;
}

/* A parser around the command's own that remembers where an error happened. */
struct watch {
    const struct argp *argp;
    void              *input;
    int                next;
};

static error_t watch_option(int key, char *arg, struct argp_state *state)
{
    struct watch *watch = state->input;
    (void)arg;
    if (key == ARGP_KEY_INIT)
        state->child_inputs[0] = watch->input;
    if (key == ARGP_KEY_ERROR)
        watch->next = state->next;
    return key == ARGP_KEY_INIT || key == ARGP_KEY_ERROR ? 0 : ARGP_ERR_UNKNOWN;
}

/* True when help was wanted, and given. */
static bool help_given(const struct argp *argp, int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-?") == 0 || strcmp(argv[i], "-h") == 0)
            argp_help(argp, stdout, ARGP_HELP_USAGE | ARGP_HELP_DOC | ARGP_HELP_LONG, argv[0]);
        else if (strcmp(argv[i], "--usage") == 0)
            argp_help(argp, stdout, ARGP_HELP_USAGE, argv[0]);
        else if (strcmp(argv[i], "--version") == 0)
            puts(argp_program_version);
        else
            continue;
        return true;
    }
    return false;
}

int cli_args_parse(const struct argp *argp, int argc, char **argv, void *input)
{
    if (help_given(argp, argc, argv)) {
        fflush(stdout);
        exit(CLI_OK);
    }
    struct argp_child children[] = {{.argp = argp}, {0}};
    struct argp       outer = {.parser = watch_option, .children = children};
    struct watch      watch = {.argp = argp, .input = input};

    int rc = argp_parse(&outer, argc, argv, ARGP_NO_ERRS | ARGP_NO_HELP, NULL, &watch);
    if (rc == 0)
        return 0;
    const char *slash = strrchr(argv[0], '/');
    const char *said = slash ? slash + 1 : argv[0]; /* "hearthfs NAME", or the helper's own name */
    const char *command = strncmp(said, "hearthfs ", 9) == 0 ? said + 9 : said;
    const char *culprit = NULL;
    if (watch.next > 0 && watch.next <= argc) {
        culprit = argv[watch.next - 1];
        if (culprit[0] != '-' && watch.next < argc && argv[watch.next][0] == '-')
            culprit = argv[watch.next];
    }
    if (rc == ENODATA) /* the parsers' own way to say: something is missing */
        return cli_error(CLI_USAGE, "%s: arguments are missing; usage: %s %s (see %s --help)", command, said,
                         argp->args_doc ? argp->args_doc : "", said);
    if (!culprit || watch.next <= 1)
        return cli_error(CLI_USAGE, "%s: a wrong call; see %s --help", command, said);
    if (culprit[0] != '-')
        return cli_error(CLI_USAGE, "%s: \"%.200s\" is one argument too many, or not understood; see %s --help", command, culprit, said);
    return cli_error(CLI_USAGE, "%s: \"%.200s\" is not understood, or lacks its value; see %s --help", command, culprit, said);
}

error_t cli_args_option(int key, char *arg, struct argp_state *state)
{
    struct cli_args *args = state->input;
    switch (key) {
    case 'j':
        args->json = true;
        return 0;
    case 'V':
        args->verify = true;
        return 0;
    case 'F':
        args->force = true;
        return 0;
    case 'S':
        args->state_dir = arg;
        return 0;
    case ARGP_KEY_ARG:
        if (state->arg_num > 0)
            return EINVAL;
        args->name = arg;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* ---- which segment ---- */

struct found {
    unsigned count;
    char    *first;
    char     names[256];
};

static int found_add(void *arg, const char *name, const char *path)
{
    struct found *found = arg;
    (void)path;
    if (found->count++ == 0)
        snprintf(found->first, SEG_NAME_MAX, "%s", name);
    size_t used = strlen(found->names);
    snprintf(found->names + used, sizeof found->names - used, "%s%s", used ? ", " : "", name);
    return 0;
}

unsigned cli_segment_count(void)
{
    char         first[SEG_NAME_MAX];
    struct found found = {.first = first};
    persist_list(found_add, &found);
    return found.count;
}

int cli_segment_choose(const struct cli_args *args, const char *command, char spec[CLI_PATH_MAX])
{
    if (args->name) {
        if ((size_t)snprintf(spec, CLI_PATH_MAX, "%s", args->name) >= CLI_PATH_MAX)
            return cli_error(CLI_FAILED, "%s: the segment's name is too long", command);
        return 0;
    }
    char         first[SEG_NAME_MAX] = "";
    struct found found = {.first = first};
    int          rc = persist_list(found_add, &found);
    if (rc)
        return cli_error(CLI_FAILED, "%s: cannot read /dev/shm/hearthfs: %s%s", command, strerror(-rc), rc == -EACCES ? "; try as root" : "");
    if (found.count == 1) {
        snprintf(spec, CLI_PATH_MAX, "%s", first);
        return 0;
    }
    if (found.count == 0)
        return cli_error(CLI_FAILED, "%s: there is no segment on this host; make one with `hearthfs mount DIR MOUNTPOINT`", command);
    return cli_error(CLI_FAILED, "%s: there are %u segments; name one: hearthfs %s NAME (%s)", command, found.count, command, found.names);
}
