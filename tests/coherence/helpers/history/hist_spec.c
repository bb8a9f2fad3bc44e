/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hist_spec.c - what each object does when one operation follows another; and its operations in words.
 *
 * A word that is HIST_ANY admits every result that touches it. So a history in which a change has been replaced by HIST_HAVOC of its words admits all orders
 * that the real one admits, and more: if it is illegal, so is the real one. The same holds of a log with gaps.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "hist.h"

enum { PAGE = 4096, CELL = 8, T_CELLS = 4 };

bool hist_observes(const struct hist_op *op)
{
    switch ((enum hist_kind)op->kind) {
    case HIST_READ:
    case HIST_COUNT:
    case HIST_GET:
    case HIST_T_READ:
    case HIST_T_SIZE:
    case HIST_LOOKUP:
    case HIST_LINKS:
        return true;
    default:
        return op->err != 0; /* what was refused has only looked */
    }
}

uint32_t hist_touches(const struct hist_object *object, const struct hist_op *op)
{
    if ((object->class != HIST_NAMES && object->class != HIST_DIRS) || op->kind == HIST_LINKS)
        return UINT32_MAX;
    if (op->kind == HIST_HAVOC)
        return (uint32_t)op->a;
    if (op->kind == HIST_RENAME || op->kind == HIST_NOREPLACE || op->kind == HIST_EXCHANGE)
        return 1u << op->x | 1u << op->y;
    return 1u << op->x;
}

static bool is(uint64_t word, uint64_t value)
{
    return word == value || word == HIST_ANY;
}

static bool present(uint64_t word)
{
    return word != 0; /* or ANY */
}

static bool absent(uint64_t word)
{
    return is(word, 0);
}

static bool apply_register(const struct hist_op *op, struct hist_state *state)
{
    if (op->kind == HIST_READ)
        return is(state->word[0], op->a);
    if (op->kind == HIST_SWAP && !is(state->word[0], op->a))
        return false;
    state->word[0] = op->kind == HIST_SWAP ? op->b : op->a;
    return true;
}

/* With gaps the word is a lower bound: nothing is known of the appends that are left out. */
static bool apply_log(const struct hist_op *op, bool gaps, struct hist_state *state)
{
    uint64_t count = state->word[0];
    if (op->kind == HIST_COUNT)
        return gaps ? count <= op->a : is(count, op->a);
    if (op->kind == HIST_GET && op->a)
        return gaps || count > op->b;
    if (op->kind == HIST_GET)
        return count == HIST_ANY || count <= op->b;
    if (!is(count, op->b) && !(gaps && count < op->b))
        return false;
    state->word[0] = op->b + 1;
    return true;
}

static bool apply_tfile(const struct hist_op *op, struct hist_state *state)
{
    uint64_t *size = &state->word[0], *cell = &state->word[1 + op->x % T_CELLS], off = (uint64_t)op->x * PAGE;
    switch ((enum hist_kind)op->kind) {
    case HIST_T_WRITE:
        if (*size < off + CELL)
            *size = off + CELL;
        *cell = op->a;
        return true;
    case HIST_T_READ:
        if (*size == HIST_ANY)
            return op->err ? true : is(*cell, op->a);
        return op->err ? *size <= off : *size > off && is(*cell, op->a);
    case HIST_T_RESIZE:
        *size = op->a;
        for (unsigned i = 0; i < T_CELLS; i++)
            if ((uint64_t)i * PAGE >= op->a)
                state->word[1 + i] = 0;
        return true;
    case HIST_T_SIZE:
        return is(*size, op->a);
    case HIST_T_PUNCH:
        *cell = 0;
        return true;
    default:
        return false;
    }
}

/* rename(2) of a name to another name of the same inode does nothing. */
static bool apply_rename(const struct hist_op *op, bool distinct, struct hist_state *state)
{
    uint64_t *x = &state->word[op->x], *y = &state->word[op->y];
    if (!present(*x) || (op->kind == HIST_NOREPLACE && !absent(*y)) || (op->kind == HIST_EXCHANGE && !present(*y)))
        return false;
    if (*x == HIST_ANY || *y == HIST_ANY) {
        *x = *y = HIST_ANY;
        return true;
    }
    if (op->kind == HIST_EXCHANGE) {
        uint64_t was = *x;
        *x = *y;
        *y = was;
    } else if (*x != *y || distinct) {
        *y = *x;
        *x = 0;
    }
    return true;
}

static bool apply_refused_name(const struct hist_op *op, const struct hist_state *state)
{
    uint64_t x = state->word[op->x], y = state->word[op->y];
    if (op->err == EEXIST)
        return present(op->kind == HIST_NOREPLACE ? y : x);
    if (op->err == ENOENT)
        return absent(x) || (op->kind == HIST_EXCHANGE && absent(y));
    return false;
}

static bool apply_names(const struct hist_op *op, bool distinct, struct hist_state *state)
{
    uint64_t *x = &state->word[op->x];
    unsigned  links = 0;
    if (op->err)
        return apply_refused_name(op, state);
    switch ((enum hist_kind)op->kind) {
    case HIST_CREATE:
        if (!absent(*x))
            return false;
        *x = op->a;
        return true;
    case HIST_REMOVE:
        if (!present(*x))
            return false;
        *x = 0;
        return true;
    case HIST_RENAME:
    case HIST_NOREPLACE:
    case HIST_EXCHANGE:
        return apply_rename(op, distinct, state);
    case HIST_LOOKUP:
        return op->a == HIST_ANY ? present(*x) : is(*x, op->a);
    case HIST_LINKS:
        for (unsigned i = 0; i < HIST_WORDS; i++) {
            if (state->word[i] == HIST_ANY)
                return true;
            links += state->word[i] == op->a;
        }
        return links == op->b;
    default:
        return false;
    }
}

static bool apply_lock(const struct hist_op *op, struct hist_state *state)
{
    if (op->err)
        return state->word[0] != 0 && state->word[0] != op->a;
    if (!is(state->word[0], op->kind == HIST_ACQUIRE ? 0 : op->a))
        return false;
    state->word[0] = op->kind == HIST_ACQUIRE ? op->a : 0;
    return true;
}

bool hist_apply(const struct hist_object *object, const struct hist_op *op, const struct hist_state *state, struct hist_state *next)
{
    *next = *state;
    if (op->kind == HIST_HAVOC) {
        for (unsigned i = 0; i < HIST_WORDS; i++)
            if (op->a >> i & 1)
                next->word[i] = HIST_ANY;
        return true;
    }
    switch (object->class) {
    case HIST_REGISTER:
        return apply_register(op, next);
    case HIST_LOG:
        return apply_log(op, object->gaps, next);
    case HIST_TFILE:
        return apply_tfile(op, next);
    case HIST_NAMES:
        return apply_names(op, false, next);
    case HIST_DIRS:
        return apply_names(op, true, next);
    case HIST_LOCK:
        return apply_lock(op, next);
    }
    return false;
}

/* ---- in words ---- */
static const char *const kind_names[] = {
    [HIST_WRITE] = "write",       [HIST_READ] = "read",           [HIST_SWAP] = "read and write, locked",
    [HIST_APPEND] = "append",     [HIST_COUNT] = "size",          [HIST_GET] = "read record",
    [HIST_T_WRITE] = "write",     [HIST_T_READ] = "read",         [HIST_T_RESIZE] = "truncate",
    [HIST_T_SIZE] = "size",       [HIST_T_PUNCH] = "punch hole",  [HIST_CREATE] = "create",
    [HIST_REMOVE] = "remove",     [HIST_RENAME] = "rename",       [HIST_NOREPLACE] = "rename, no replace",
    [HIST_EXCHANGE] = "exchange", [HIST_LOOKUP] = "look up",      [HIST_LINKS] = "link count",
    [HIST_ACQUIRE] = "lock",      [HIST_RELEASE] = "unlock",      [HIST_HAVOC] = "any change",
};

static const char *word_name(const struct hist_object *object, unsigned word, char *buffer, size_t size)
{
    if (object->words)
        return object->words[word];
    snprintf(buffer, size, "%u", word);
    return buffer;
}

static void value_text(uint64_t value, char *buffer, size_t size)
{
    if (value == HIST_ANY)
        snprintf(buffer, size, "something");
    else if (value == 0)
        snprintf(buffer, size, "nothing");
    else
        snprintf(buffer, size, "%llx", (unsigned long long)value);
}

static void what_text(const struct hist_object *object, const struct hist_op *op, char *text, size_t size)
{
    char x[16], y[16], a[32];
    value_text(op->a, a, sizeof a);
    const char *name_x = word_name(object, op->x, x, sizeof x), *name_y = word_name(object, op->y, y, sizeof y);
    switch ((enum hist_kind)op->kind) {
    case HIST_RENAME:
    case HIST_NOREPLACE:
    case HIST_EXCHANGE:
        snprintf(text, size, "%s, %s", name_x, name_y);
        break;
    case HIST_CREATE:
        snprintf(text, size, op->err ? "%s" : "%s = %s", name_x, a);
        break;
    case HIST_REMOVE:
        snprintf(text, size, "%s", name_x);
        break;
    case HIST_LOOKUP:
        snprintf(text, size, "%s: %s", name_x, a);
        break;
    case HIST_LINKS:
        snprintf(text, size, "of %s: %llu", a, (unsigned long long)op->b);
        break;
    case HIST_T_WRITE:
    case HIST_T_READ:
        snprintf(text, size, "page %u: %s", op->x, op->err ? "end of file" : a);
        break;
    case HIST_T_PUNCH:
        snprintf(text, size, "page %u", op->x);
        break;
    case HIST_T_RESIZE:
    case HIST_T_SIZE:
    case HIST_COUNT:
        snprintf(text, size, "%llu", (unsigned long long)op->a);
        break;
    case HIST_APPEND:
    case HIST_GET:
        snprintf(text, size, "%s at %llu", a, (unsigned long long)op->b);
        break;
    case HIST_SWAP:
        snprintf(text, size, "%s, then %llx", a, (unsigned long long)op->b);
        break;
    default:
        snprintf(text, size, "%s", a);
    }
}

void hist_print_op(const struct hist_object *object, const struct hist_op *op, uint64_t base_ns)
{
    static const char *const ways[] = {"", "by read", "by mapping", "with O_DIRECT", "by listing", "by stat", "by write", "by store and msync"};
    char text[128];
    what_text(object, op, text, sizeof text);
    printf("  %12.3f .. %12.3f us  member %c thread %u  %-12s %s%s%s%s%s\n", (double)(int64_t)(op->call_ns - base_ns) / 1000,
           (double)(int64_t)(op->return_ns - base_ns) / 1000, 'A' + op->member, op->thread, kind_names[op->kind], text,
           op->err && op->kind != HIST_T_READ ? " -> " : "", op->err && op->kind != HIST_T_READ ? strerrorname_np(op->err) : "",
           op->way ? "  " : "", ways[op->way % (sizeof ways / sizeof *ways)]);
    if (op->start != op->call_ns || op->end != op->return_ns)
        printf("  %12s    judged as if it had lasted from %.3f to %.3f, as a change by the same member did\n", "",
               (double)(int64_t)(op->start - base_ns) / 1000, (double)(int64_t)(op->end - base_ns) / 1000);
}

void hist_print_state(const struct hist_object *object, const struct hist_state *state)
{
    unsigned words = object->class == HIST_NAMES || object->class == HIST_DIRS ? HIST_WORDS : object->class == HIST_TFILE ? 5 : 1;
    printf("  {");
    for (unsigned i = 0; i < words; i++) {
        char name[16], value[32];
        value_text(state->word[i], value, sizeof value);
        if (words > 1)
            printf(" %s:", word_name(object, i, name, sizeof name));
        printf(" %s", value);
    }
    printf(" }\n");
}
