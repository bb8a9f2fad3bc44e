/* SPDX-License-Identifier: Apache-2.0 */
/* append.c - O_APPEND by two members: no record is lost, none is torn.
 *
 *   append DIR_A DIR_B SEED ROUNDS
 *
 * Both members append records to one file, first strictly in turn (each append must land behind the other's, and both
 * must see the new size at once), then both at the same time without any agreement. A record is a header {magic,
 * member, number, size} and bytes that follow from these, so that a walk from the start of the file, done through
 * both mounts, finds every record whole, each member's numbers in order, and nothing between them. */
#include "t.h"

enum { MAGIC = 0x41505031, PAYLOAD_MAX_BYTES = 6000 };

struct record {
    uint32_t magic, member, number, size_bytes;
    uint8_t  payload[PAYLOAD_MAX_BYTES];
};
enum { HEADER_BYTES = 16 };

struct appender {
    const char *dir;
    uint32_t    member, next_number;
    int         fd;
    uint64_t    rng;
    long        rounds;
};

static void fill_payload(struct record *r)
{
    uint64_t rng = ((uint64_t)r->member << 32 | r->number) + 1;
    t_random_fill(&rng, r->payload, r->size_bytes);
}

static size_t append_one(struct appender *a)
{
    struct record r = {.magic = MAGIC, .member = a->member, .number = a->next_number++};
    r.size_bytes = (uint32_t)(t_random(&a->rng) % (t_random(&a->rng) % 4 ? 200 : PAYLOAD_MAX_BYTES));
    fill_payload(&r);
    ssize_t total = HEADER_BYTES + (ssize_t)r.size_bytes, n = write(a->fd, &r, (size_t)total);
    T_THAT(n == total, "append of %zd bytes through %s: %zd, %s", total, a->dir, n, strerror(errno));
    return (size_t)total;
}

static void *append_many(void *argument)
{
    struct appender *a = argument;
    for (long i = 0; i < a->rounds; i++)
        append_one(a);
    return NULL;
}

static void walk(const char *dir, const uint32_t want[2])
{
    int         fd = t_open(dir, "appended", O_RDONLY, 0);
    struct stat st;
    T_OK(fstat(fd, &st));
    uint8_t *all = malloc((size_t)st.st_size + 1);
    size_t   size = t_pread(fd, all, (size_t)st.st_size + 1, 0), at = 0;
    uint32_t found[2] = {0, 0};
    T_THAT(size == (size_t)st.st_size, "through %s: %zu bytes, but stat says %lld", dir, size, (long long)st.st_size);
    while (at < size) {
        struct record r, should;
        T_THAT(size - at >= HEADER_BYTES, "through %s: half a header at %zu", dir, at);
        memcpy(&r, all + at, HEADER_BYTES);
        T_THAT(r.magic == MAGIC && r.member < 2 && r.size_bytes <= PAYLOAD_MAX_BYTES &&
                   r.size_bytes <= size - at - HEADER_BYTES,
               "through %s: no record at %zu of %zu", dir, at, size);
        T_THAT(r.number == found[r.member], "through %s at %zu: record %u of member %u, want %u", dir, at, r.number,
               r.member, found[r.member]);
        should = r;
        fill_payload(&should);
        T_THAT(memcmp(should.payload, all + at + HEADER_BYTES, r.size_bytes) == 0, "through %s: torn record at %zu",
               dir, at);
        found[r.member]++;
        at += HEADER_BYTES + r.size_bytes;
    }
    for (int m = 0; m < 2; m++)
        T_THAT(found[m] == want[m], "through %s: %u records of member %d, want %u", dir, found[m], m, want[m]);
    printf("append: %u + %u records whole through %s, %zu bytes\n", found[0], found[1], dir, size);
    free(all);
    close(fd);
}

int main(int argc, char **argv)
{
    T_THAT(argc == 5, "usage: append DIR_A DIR_B SEED ROUNDS");
    struct appender a[2];
    pthread_t       threads[2];
    uint64_t        size = 0;
    for (uint32_t m = 0; m < 2; m++) {
        a[m] = (struct appender){.dir = argv[1 + m], .member = m, .rng = t_seed(argv[3], m), .rounds = atol(argv[4])};
        a[m].fd = t_open(a[m].dir, "appended", O_WRONLY | O_APPEND | O_CREAT, 0644);
    }
    for (long i = 0; i < a[0].rounds; i++) {
        size += append_one(&a[i % 2]);
        for (int m = 0; m < 2; m++) {
            struct stat st;
            T_OK(fstat(a[m].fd, &st));
            T_THAT((uint64_t)st.st_size == size, "append %ld in turn: size %lld through %s, want %llu", i,
                   (long long)st.st_size, a[m].dir, (unsigned long long)size);
        }
    }
    for (int m = 0; m < 2; m++)
        T_THAT(pthread_create(&threads[m], NULL, append_many, &a[m]) == 0, "pthread_create");
    for (int m = 0; m < 2; m++)
        pthread_join(threads[m], NULL);
    for (int m = 0; m < 2; m++)
        walk(a[m].dir, (uint32_t[2]){a[0].next_number, a[1].next_number});
    return 0;
}
