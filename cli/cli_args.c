/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cli_args.c - command lines by glibc's argp, with errors in one line.
 *
 * argp complains in two lines of its own; so it is told to be silent, and cli_args_parse() says what was wrong: the argument at which it stopped. Help texts
 * are argp's.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
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

int cli_args_parse(const struct argp *argp, int argc, char **argv, void *input)
{
    struct argp_child children[] = {{.argp = argp}, {0}};
    struct argp       outer = {.parser = watch_option, .children = children};
    struct watch      watch = {.argp = argp, .input = input};

    int rc = argp_parse(&outer, argc, argv, ARGP_NO_ERRS, NULL, &watch);
    if (rc == 0)
        return 0;
    const char *culprit = NULL;
    if (watch.next > 0 && watch.next <= argc) {
        culprit = argv[watch.next - 1];
        if (culprit[0] != '-' && watch.next < argc && argv[watch.next][0] == '-')
            culprit = argv[watch.next];
    }
    if (rc == ENODATA) /* the parsers' own way to say: something is missing */
        return cli_error(CLI_USAGE, "%s: arguments are missing; usage: %s %s (see %s --help)", argv[0], argv[0],
                         argp->args_doc ? argp->args_doc : "", argv[0]);
    if (!culprit || watch.next <= 1)
        return cli_error(CLI_USAGE, "%s: a wrong call; see %s --help", argv[0], argv[0]);
    return cli_error(CLI_USAGE, "%s: \"%s\" is not understood, or lacks its value; see %s --help", argv[0], culprit, argv[0]);
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
    if (found->count++ == 0 && found->first)
        snprintf(found->first, SEG_NAME_MAX, "%s", name);
    size_t used = strlen(found->names);
    snprintf(found->names + used, sizeof found->names - used, "%s%s", used ? ", " : "", name);
    return 0;
}

unsigned cli_segment_count(char first[SEG_NAME_MAX])
{
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
    persist_list(found_add, &found);
    if (found.count == 1) {
        snprintf(spec, CLI_PATH_MAX, "%s", first);
        return 0;
    }
    if (found.count == 0)
        return cli_error(CLI_FAILED, "%s: there is no segment on this host; make one with `hearthfs mount DIR MOUNTPOINT`", command);
    return cli_error(CLI_FAILED, "%s: there are %u segments; name one: hearthfs %s NAME (%s)", command, found.count, command, found.names);
}
