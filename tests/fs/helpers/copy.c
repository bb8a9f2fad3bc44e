/* SPDX-License-Identifier: Apache-2.0 */
/* copy.c - copies of ranges between two files, through two members, against a model.
 *
 *   copy DIR_A DIR_B DIR_ORIGIN SEED ROUNDS
 *
 * Each round does something on a member taken at random: copy_file_range (any offsets, or such that pages fit), write, truncate, punch a hole; and then compares the file that was
 * changed, where it was changed and at its end, through the other member. At the end everything is compared on both and at the origin. */
#include "t.h"

enum { FILE_MAX = 1 << 20, PAGE = 4096, FILES = 3 };

static uint8_t model[FILES][FILE_MAX];
static size_t  length[FILES];
static int     fd[2][FILES];
static const char *const names[FILES] = {"one", "two", "three"};

static void set_length(unsigned file, size_t size)
{
    if (size > length[file])
        memset(model[file] + length[file], 0, size - length[file]);
    length[file] = size;
}

static void compare(long round, unsigned member, unsigned file, size_t at, size_t size, const char *what)
{
    static uint8_t got[FILE_MAX];
    struct stat    st;
    T_OK(fstat(fd[member][file], &st));
    T_THAT((size_t)st.st_size == length[file], "round %ld, %s: %s has %zu bytes on %c, want %zu", round, what, names[file], (size_t)st.st_size,
           'A' + (int)member, length[file]);
    size_t end = at + size < length[file] ? at + size : length[file];
    size = at < end ? end - at : 0;
    T_THAT(t_pread(fd[member][file], got, size, at) == size, "round %ld, %s: short read", round, what);
    for (size_t i = 0; i < size; i++)
        T_THAT(got[i] == model[file][at + i], "round %ld, %s: byte %zu of %s on %c is %02x, want %02x", round, what, at + i, names[file],
               'A' + (int)member, got[i], model[file][at + i]);
}

static void copy(long round, uint64_t *rng, unsigned member, unsigned from, unsigned to)
{
    bool   fit = t_random(rng) % 4 != 0;
    size_t unit = fit ? PAGE : 1, in = t_random(rng) % (FILE_MAX / unit) * unit, out = t_random(rng) % (FILE_MAX / unit) * unit;
    size_t size = 1 + t_random(rng) % (FILE_MAX / 2);
    if (t_random(rng) % 4 == 0)
        in = out = 0, size = FILE_MAX; /* the whole file */
    if (size > FILE_MAX - out)
        size = FILE_MAX - out;
    if (from == to && in < out + size && out < in + size)
        return;
    size_t  want = in >= length[from] ? 0 : length[from] - in < size ? length[from] - in : size;
    size_t  done = 0;
    off_t   off_in = (off_t)in, off_out = (off_t)out;
    while (done < want) {
        ssize_t n = copy_file_range(fd[member][from], &off_in, fd[member][to], &off_out, size - done, 0);
        T_THAT(n > 0, "round %ld: copy_file_range: %zd, %s", round, n, strerror(errno));
        done += (size_t)n;
    }
    T_THAT(done == want, "round %ld: %zu bytes copied, want %zu", round, done, want);
    if (want && out + want > length[to])
        set_length(to, out + want);
    memmove(model[to] + out, model[from] + in, want);
    compare(round, !member, to, out > PAGE ? out - PAGE : 0, want + 2 * PAGE, "copy");
    compare(round, member, to, out, want, "copy");
}

static void change(long round, uint64_t *rng, unsigned member, unsigned file)
{
    size_t at = t_random(rng) % FILE_MAX, size = 1 + t_random(rng) % 30000;
    if (size > FILE_MAX - at)
        size = FILE_MAX - at;
    switch (t_random(rng) % 4) {
    case 0:
        T_OK(ftruncate(fd[member][file], (off_t)at));
        set_length(file, at);
        break;
    case 1:
        T_OK(fallocate(fd[member][file], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)size));
        if (at < length[file])
            memset(model[file] + at, 0, at + size < length[file] ? size : length[file] - at);
        break;
    default:
        if (at > length[file])
            set_length(file, at);
        t_random_fill(rng, model[file] + at, size);
        t_pwrite(fd[member][file], model[file] + at, size, at);
        if (at + size > length[file])
            length[file] = at + size;
    }
    compare(round, !member, file, at > PAGE ? at - PAGE : 0, size + 2 * PAGE, "change");
}

int main(int argc, char **argv)
{
    T_THAT(argc == 6, "usage: copy DIR_A DIR_B DIR_ORIGIN SEED ROUNDS");
    uint64_t rng = t_seed(argv[4], 1);
    long     rounds = atol(argv[5]);
    for (unsigned file = 0; file < FILES; file++) {
        fd[0][file] = t_open(argv[1], names[file], O_RDWR | O_CREAT | O_TRUNC, 0644);
        fd[1][file] = t_open(argv[2], names[file], O_RDWR, 0);
    }
    for (long round = 0; round < rounds; round++) {
        unsigned member = t_random(&rng) % 2, from = t_random(&rng) % FILES, to = t_random(&rng) % FILES;
        if (t_random(&rng) % 2)
            copy(round, &rng, member, from, to);
        else
            change(round, &rng, member, to);
    }
    for (unsigned file = 0; file < FILES; file++) {
        compare(rounds, 0, file, 0, FILE_MAX, "end");
        compare(rounds, 1, file, 0, FILE_MAX, "end");
        fd[0][file] = t_open(argv[3], names[file], O_RDONLY, 0);
        compare(rounds, 0, file, 0, FILE_MAX, "origin");
    }
    printf("copy: %ld rounds, seed %s\n", rounds, argv[4]);
    return 0;
}
