/* SPDX-License-Identifier: Apache-2.0 */
/* hammer.c - several members change one directory and one file as fast as they can; nobody's update may be lost.
 *
 *   hammer run    DIR MEMBER MEMBERS SECONDS SEED REPORT     one process per member, each on its own mount
 *   hammer verify DIR REPORT...                              afterwards: through a mount, or at the origin
 *
 * DIR must hold "names/", "slots", "log" and "counter" (8 zero bytes). Each round of a member does one of these:
 *   slots    writes a record in a slot of its own; the members' slots alternate, so that each page belongs to all.
 *            Reads another member's slot: a whole record (no slot crosses a page), never older than the one seen last.
 *   log      appends a record (O_APPEND).
 *   names    creates, renames (also over another) and unlinks names of its own in names/.
 *   common   renames a file of its own over names/common, which everybody does; to open that name never fails.
 *   counter  creates names/lock with O_EXCL; who wins adds one to the counter by read and write, and unlinks the lock.
 *            Lost updates, two winners and stale reads all end in a wrong sum.
 * What a member has done stands in its report, and verify compares all of them with what DIR shows. */
#include "t.h"

#include <dirent.h>
#include <time.h>

enum { SLOT_BYTES = 256, SLOTS = 100, LOG_BYTES = 100, NAMES = 40, MEMBERS_MAX = 16, MAGIC = 0x48414d31 };

struct report {
    uint32_t magic, member, members, zero;
    uint64_t slot_number[SLOTS]; /* the last record in each own slot, 0: never written */
    uint64_t log_count, counter_adds, common_count, rounds;
    uint64_t name_id[NAMES]; /* what stands in the own name, 0: no such name */
};

struct slot {
    uint32_t magic, member;
    uint64_t index, number;
    uint8_t  payload[SLOT_BYTES - 24];
};

struct hammer {
    const char   *dir;
    struct report r;
    uint64_t      rng, next_id;
    uint64_t      seen[SLOTS][MEMBERS_MAX];
    int           slots, log, counter;
};

static void slot_fill(struct slot *s)
{
    uint64_t rng = (s->index + 1) * 1000003 + s->number * 8191 + s->member + 1;
    t_random_fill(&rng, s->payload, sizeof s->payload);
}

static uint64_t slot_place(const struct report *r, uint64_t index, uint32_t member)
{
    return (index * r->members + member) * SLOT_BYTES;
}

/* The number of the record in a slot, 0 if it was never written. */
static uint64_t slot_read(int fd, const struct report *r, uint64_t index, uint32_t member, const char *through)
{
    struct slot s = {0}, want;
    t_pread(fd, &s, sizeof s, slot_place(r, index, member));
    if (s.magic == 0 && s.number == 0)
        return 0;
    want = s;
    slot_fill(&want);
    T_THAT(s.magic == MAGIC && s.member == member && s.index == index && memcmp(&s, &want, sizeof s) == 0,
           "slot %llu of member %u through %s is torn or foreign (member %u, number %llu)", (unsigned long long)index,
           member, through, s.member, (unsigned long long)s.number);
    return s.number;
}

static void do_slots(struct hammer *h)
{
    uint64_t    index = t_random(&h->rng) % SLOTS;
    struct slot s = {.magic = MAGIC, .member = h->r.member, .index = index, .number = h->r.slot_number[index] + 1};
    slot_fill(&s);
    t_pwrite(h->slots, &s, sizeof s, slot_place(&h->r, index, s.member));
    h->r.slot_number[index] = s.number;

    uint32_t other = (uint32_t)(t_random(&h->rng) % h->r.members);
    index = t_random(&h->rng) % SLOTS;
    uint64_t number = slot_read(h->slots, &h->r, index, other, h->dir);
    uint64_t least = other == h->r.member ? h->r.slot_number[index] : h->seen[index][other];
    T_THAT(number >= least, "slot %llu of member %u through %s went back from %llu to %llu", (unsigned long long)index,
           other, h->dir, (unsigned long long)least, (unsigned long long)number);
    h->seen[index][other] = number;
}

static void do_log(struct hammer *h)
{
    char line[LOG_BYTES + 1];
    int  n = snprintf(line, sizeof line, "member %3u number %12llu ", h->r.member, (unsigned long long)h->r.log_count);
    memset(line + n, 'a' + (int)h->r.member, (size_t)(LOG_BYTES - 1 - n));
    line[LOG_BYTES - 1] = '\n';
    T_THAT(write(h->log, line, LOG_BYTES) == LOG_BYTES, "append: %s", strerror(errno));
    h->r.log_count++;
}

static const char *own_path(char *path, const struct hammer *h, uint32_t name)
{
    snprintf(path, 4096, "%s/names/m%u-%u", h->dir, h->r.member, name);
    return path;
}

static void write_id(const char *path, uint64_t id)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    T_THAT(fd >= 0, "create %s: %s", path, strerror(errno));
    t_pwrite(fd, &id, sizeof id, 0);
    close(fd);
}

static uint64_t read_id(const char *path)
{
    uint64_t id = 0;
    int      fd = open(path, O_RDONLY | O_CLOEXEC);
    T_THAT(fd >= 0, "open %s: %s", path, strerror(errno));
    T_THAT(t_pread(fd, &id, sizeof id, 0) == sizeof id, "%s is empty", path);
    close(fd);
    return id;
}

static void do_names(struct hammer *h)
{
    char      path[4096], other[4096];
    uint32_t  name = (uint32_t)(t_random(&h->rng) % NAMES), name2 = (uint32_t)(t_random(&h->rng) % NAMES);
    uint64_t *id = &h->r.name_id[name];
    own_path(path, h, name);
    if (*id == 0) {
        *id = ++h->next_id * MEMBERS_MAX + h->r.member;
        write_id(path, *id);
    } else if (name == name2 || t_random(&h->rng) % 3 == 0) {
        T_THAT(unlink(path) == 0, "unlink %s: %s", path, strerror(errno));
        *id = 0;
    } else {
        T_THAT(rename(path, own_path(other, h, name2)) == 0, "rename %s: %s", path, strerror(errno));
        h->r.name_id[name2] = *id;
        *id = 0;
        T_THAT(read_id(other) == h->r.name_id[name2], "%s leads to the wrong file", other);
    }
}

static void do_common(struct hammer *h)
{
    char path[4096], common[4096];
    snprintf(path, sizeof path, "%s/names/new%u", h->dir, h->r.member);
    snprintf(common, sizeof common, "%s/names/common", h->dir);
    write_id(path, ++h->r.common_count * MEMBERS_MAX + h->r.member);
    T_THAT(rename(path, common) == 0, "rename %s: %s", path, strerror(errno));
    for (int i = 0; i < 3; i++)
        T_THAT(read_id(common) % MEMBERS_MAX < h->r.members, "names/common holds nonsense");
}

static void do_counter(struct hammer *h)
{
    char     path[4096];
    uint64_t value = 0;
    snprintf(path, sizeof path, "%s/names/lock", h->dir);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) {
        T_THAT(errno == EEXIST, "create %s: %s", path, strerror(errno));
        return;
    }
    close(fd);
    T_THAT(t_pread(h->counter, &value, sizeof value, 0) == sizeof value, "the counter is short");
    value++;
    t_pwrite(h->counter, &value, sizeof value, 0);
    T_THAT(unlink(path) == 0, "unlink %s: %s", path, strerror(errno));
    h->r.counter_adds++;
}

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static int run(int argc, char **argv)
{
    static struct hammer h;
    T_THAT(argc == 8, "usage: hammer run DIR MEMBER MEMBERS SECONDS SEED REPORT");
    h.dir = argv[2];
    h.r = (struct report){.magic = MAGIC, .member = (uint32_t)atoi(argv[3]), .members = (uint32_t)atoi(argv[4])};
    h.rng = t_seed(argv[6], h.r.member);
    h.slots = t_open(h.dir, "slots", O_RDWR, 0);
    h.log = t_open(h.dir, "log", O_WRONLY | O_APPEND, 0);
    h.counter = t_open(h.dir, "counter", O_RDWR, 0);
    int64_t end = now_ms() + atol(argv[5]) * 1000;
    static void (*const steps[])(struct hammer *) = {do_slots, do_slots,  do_log,    do_names,
                                                     do_names, do_common, do_counter};
    for (; now_ms() < end; h.r.rounds++)
        steps[t_random(&h.rng) % (sizeof steps / sizeof *steps)](&h);
    int fd = T_OK(open(argv[7], O_WRONLY | O_CREAT | O_TRUNC, 0644));
    t_pwrite(fd, &h.r, sizeof h.r, 0);
    return 0;
}

/* ---- verify -------------------------------------------------------------------------------------------------------- */

static void verify_log(const char *dir, const struct report *reports, uint32_t members)
{
    int      fd = t_open(dir, "log", O_RDONLY, 0);
    uint64_t next[MEMBERS_MAX] = {0};
    char     line[LOG_BYTES + 1] = {0};
    for (uint64_t at = 0; t_pread(fd, line, LOG_BYTES, at) > 0; at += LOG_BYTES) {
        unsigned           member = MEMBERS_MAX;
        unsigned long long number;
        T_THAT(line[LOG_BYTES - 1] == '\n' && line[LOG_BYTES - 2] == line[LOG_BYTES - 50] &&
                   sscanf(line, "member %u number %llu", &member, &number) == 2 && member < members,
               "torn log record at %llu through %s", (unsigned long long)at, dir);
        T_THAT(number == next[member], "log record %llu of member %u at %llu through %s, want %llu", number, member,
               (unsigned long long)at, dir, (unsigned long long)next[member]);
        next[member]++;
    }
    for (uint32_t m = 0; m < members; m++)
        T_THAT(next[m] == reports[m].log_count, "%llu log records of member %u through %s, want %llu",
               (unsigned long long)next[m], m, dir, (unsigned long long)reports[m].log_count);
    close(fd);
}

static void verify_names(const char *dir, const struct report *reports, uint32_t members)
{
    char     path[4096];
    uint32_t want = 0, found = 0;
    for (uint32_t m = 0; m < members; m++)
        for (uint32_t i = 0; i < NAMES; i++) {
            snprintf(path, sizeof path, "%s/names/m%u-%u", dir, m, i);
            if (reports[m].name_id[i] == 0) {
                T_THAT(access(path, F_OK) < 0 && errno == ENOENT, "%s exists, but was unlinked", path);
                continue;
            }
            want++;
            T_THAT(read_id(path) == reports[m].name_id[i], "%s leads to the wrong file", path);
        }
    snprintf(path, sizeof path, "%s/names", dir);
    DIR *stream = opendir(path);
    T_THAT(stream, "opendir %s: %s", path, strerror(errno));
    for (struct dirent *entry; (entry = readdir(stream));) {
        found += entry->d_name[0] == 'm';
        T_THAT(strcmp(entry->d_name, "lock") != 0 && strncmp(entry->d_name, "new", 3) != 0, "%s/%s is left over", path,
               entry->d_name);
    }
    T_THAT(found == want, "readdir of %s shows %u names, want %u", path, found, want);
    closedir(stream);
}

static int verify(int argc, char **argv)
{
    static struct report reports[MEMBERS_MAX];
    const char          *dir = argv[2];
    uint32_t             members = (uint32_t)(argc - 3);
    uint64_t             adds = 0, counter = 0, rounds = 0;
    for (uint32_t m = 0; m < members; m++) {
        int fd = T_OK(open(argv[3 + m], O_RDONLY));
        T_THAT(t_pread(fd, &reports[m], sizeof *reports, 0) == sizeof *reports && reports[m].magic == MAGIC &&
                   reports[m].member == m,
               "bad report %s", argv[3 + m]);
        close(fd);
        T_THAT(reports[m].log_count && reports[m].common_count, "member %u got nothing done", m);
        adds += reports[m].counter_adds;
        rounds += reports[m].rounds;
    }
    int slots = t_open(dir, "slots", O_RDONLY, 0), fd = t_open(dir, "counter", O_RDONLY, 0);
    for (uint32_t m = 0; m < members; m++)
        for (uint64_t i = 0; i < SLOTS; i++) {
            uint64_t number = slot_read(slots, &reports[m], i, m, dir);
            T_THAT(number == reports[m].slot_number[i], "slot %llu of member %u through %s: record %llu, want %llu",
                   (unsigned long long)i, m, dir, (unsigned long long)number,
                   (unsigned long long)reports[m].slot_number[i]);
        }
    verify_log(dir, reports, members);
    verify_names(dir, reports, members);
    t_pread(fd, &counter, sizeof counter, 0);
    T_THAT(adds > 0 && counter == adds, "the counter through %s is %llu, want %llu", dir, (unsigned long long)counter,
           (unsigned long long)adds);
    printf("hammer: %llu rounds of %u members whole through %s, counter %llu\n", (unsigned long long)rounds, members,
           dir, (unsigned long long)counter);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 3 && strcmp(argv[1], "run") == 0)
        return run(argc, argv);
    if (argc > 3 && argc <= 3 + MEMBERS_MAX && strcmp(argv[1], "verify") == 0)
        return verify(argc, argv);
    t_die("usage: hammer run|verify ...");
}
