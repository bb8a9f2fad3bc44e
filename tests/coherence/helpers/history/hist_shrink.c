/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hist_shrink.c - a small part of an illegal history that is illegal by itself.
 *
 * Delta debugging (A. Zeller and R. Hildebrandt, "Simplifying and isolating failure-inducing input", IEEE TSE 28(2), 2002), in chunks that get smaller. Each
 * step must be *sound*: what is left may be illegal only if the whole is. Sound steps are:
 *   - to leave out an observation;
 *   - of a register whose writes are all of different values: to leave out a write together with all that read its value (a legal order of the whole stays legal without them);
 *   - of a log: to leave out an append, and to take the number of records for a lower bound from then on;
 *   - to replace any other change by HIST_HAVOC: something happened to these words then, we do not say what;
 *   - to know nothing of the state at the beginning.
 * A part that is smaller but could be illegal for another reason is not taken.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hist.h"

struct shrink {
    struct hist_object        object;
    struct hist_op           *ops, *scratch;
    size_t                    count;
    struct hist_states        initial;
    bool                      unique; /* a register whose writes are of different values */
};

static bool still_illegal(struct shrink *shrink)
{
    struct hist_states states = shrink->initial;
    size_t             count = 0;
    for (size_t i = 0; i < shrink->count; i++)
        if (!shrink->ops[i].dropped)
            shrink->scratch[count++] = shrink->ops[i];
    return hist_check(&shrink->object, shrink->scratch, count, &states, NULL) == HIST_ILLEGAL;
}

static int compare_u64(const void *left, const void *right)
{
    uint64_t x = *(const uint64_t *)left, y = *(const uint64_t *)right;
    return x < y ? -1 : x > y;
}

static bool writes_differ(const struct hist_op *ops, size_t count, const struct hist_states *initial)
{
    uint64_t *values = malloc((count + initial->count + 1) * sizeof *values);
    size_t    used = 0;
    bool      differ = values != NULL;
    for (size_t i = 0; differ && i < count; i++) {
        differ = ops[i].kind == HIST_WRITE || ops[i].kind == HIST_READ;
        if (ops[i].kind == HIST_WRITE)
            values[used++] = ops[i].a;
    }
    for (unsigned i = 0; differ && i < initial->count; i++)
        values[used++] = initial->state[i].word[0];
    if (differ)
        qsort(values, used, sizeof *values, compare_u64);
    for (size_t i = 1; differ && i < used; i++)
        differ = values[i] != values[i - 1];
    free(values);
    return differ;
}

static void leave_out(struct shrink *shrink, size_t op)
{
    struct hist_op *at = &shrink->ops[op];
    if (hist_observes(at) || shrink->object.gaps) {
        at->dropped = 1;
    } else if (shrink->unique) {
        for (size_t i = 0; i < shrink->count; i++)
            if (shrink->ops[i].a == at->a && &shrink->ops[i] != at)
                shrink->ops[i].dropped = 1;
        at->dropped = 1;
    } else if (at->kind != HIST_HAVOC) {
        uint32_t touches = hist_touches(&shrink->object, at);
        at->kind = HIST_HAVOC;
        at->a = touches;
    }
}

static bool is_left(const struct hist_op *op)
{
    return !op->dropped && op->kind != HIST_HAVOC;
}

/* Tries to do without `size` operations at a time; what is not possible is undone. Returns whether anything could go. */
static bool pass(struct shrink *shrink, size_t size, struct hist_op *backup)
{
    bool any = false;
    for (size_t first = 0; first < shrink->count; first += size) {
        bool some = false;
        memcpy(backup, shrink->ops, shrink->count * sizeof *backup);
        for (size_t i = first; i < first + size && i < shrink->count; i++) {
            if (is_left(&shrink->ops[i])) {
                leave_out(shrink, i);
                some = true;
            }
        }
        if (some && still_illegal(shrink))
            any = true;
        else
            memcpy(shrink->ops, backup, shrink->count * sizeof *backup);
    }
    return any;
}

static void forget_beginning(struct shrink *shrink)
{
    if (shrink->object.gaps)
        return;
    struct hist_states was = shrink->initial;
    shrink->initial.count = 1;
    memset(&shrink->initial.state[0], 0xff, sizeof shrink->initial.state[0]); /* HIST_ANY */
    if (!still_illegal(shrink))
        shrink->initial = was;
}

/* With the beginning unknown, what happened before the first operation that is left does not matter. */
static void leave_out_early(struct shrink *shrink)
{
    for (size_t i = 0; i < shrink->count; i++) {
        struct hist_op was = shrink->ops[i];
        if (was.kind != HIST_HAVOC || was.dropped || shrink->initial.state[0].word[0] != HIST_ANY)
            continue;
        bool first = true;
        for (size_t j = 0; first && j < shrink->count; j++)
            first = !is_left(&shrink->ops[j]) || shrink->ops[j].start > was.end;
        shrink->ops[i].dropped = first;
    }
}

size_t hist_shrink(const struct hist_object *object, struct hist_op *ops, size_t count, struct hist_states *initial)
{
    struct shrink shrink = {.object = *object, .ops = ops, .count = count, .initial = *initial};
    size_t        left = 0;
    shrink.scratch = malloc((count + 1) * sizeof *shrink.scratch);
    struct hist_op *backup = malloc((count + 1) * sizeof *backup);
    if (!shrink.scratch || !backup)
        abort();
    shrink.unique = object->class == HIST_REGISTER && writes_differ(ops, count, initial);
    shrink.object.gaps = object->class == HIST_LOG;
    if (!still_illegal(&shrink))
        shrink.object.gaps = false;
    for (size_t size = (count + 1) / 2; size > 0;) {
        bool any = pass(&shrink, size, backup);
        if (size > 1)
            size /= 2;
        else if (!any)
            break;
    }
    forget_beginning(&shrink);
    pass(&shrink, 1, backup);
    leave_out_early(&shrink);
    for (size_t i = 0; i < count; i++)
        left += is_left(&ops[i]);
    *initial = shrink.initial;
    free(shrink.scratch);
    free(backup);
    return left;
}

void hist_explain(const struct hist_object *object, struct hist_op *ops, size_t count, const struct hist_states *initial,
                  const struct hist_fault *fault)
{
    struct hist_states first = *initial;
    struct hist_op     culprit = ops[fault->op];
    size_t             in_reach = 0, unsaid = 0;

    for (size_t i = 0; i < count; i++) /* sorted by start: what began after the fault had to be explained is not needed */
        if (ops[i].start <= culprit.end)
            in_reach = i + 1;
    size_t   left = hist_shrink(object, ops, in_reach, &first);
    uint64_t base = UINT64_MAX;
    for (size_t i = 0; i < in_reach; i++)
        if (is_left(&ops[i]) && ops[i].call_ns < base)
            base = ops[i].call_ns;
    printf("VIOLATION: %s: no order of these %zu operations (of %zu) explains their results:\n", object->name, left, count);
    if (first.state[0].word[0] != HIST_ANY || first.count > 1) {
        printf("  at the beginning, one of\n");
        for (unsigned i = 0; i < first.count; i++)
            hist_print_state(object, &first.state[i]);
    }
    for (size_t i = 0; i < in_reach; i++) {
        if (is_left(&ops[i]))
            hist_print_op(object, &ops[i], base);
        unsaid += ops[i].kind == HIST_HAVOC && !ops[i].dropped;
    }
    if (unsaid)
        printf("  (%zu more changes explain it neither, whatever they did)\n", unsaid);
    printf("  in the whole history, this one could not be explained:\n");
    hist_print_op(object, &culprit, base);
    printf("  when it had to have happened, the state was one of\n");
    for (unsigned i = 0; i < fault->before.count && i < 8; i++)
        hist_print_state(object, &fault->before.state[i]);
}
