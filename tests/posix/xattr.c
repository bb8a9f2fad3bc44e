/* SPDX-License-Identifier: Apache-2.0 */
/* xattr.c - extended attributes, and the ACLs that are kept in them. */
#include "posix.h"

#include <sys/xattr.h>

static int list_cmp(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void show_list(const char *name)
{
    const char *path[2] = {name, B(name)};
    for (int i = 0; i < 2; i++) {
        char        list[4096], text[4200] = "", step[100];
        const char *at[200];
        size_t      count = 0;
        ssize_t     n = llistxattr(path[i], list, sizeof list);
        snprintf(step, sizeof step, "list %c %s", "AB"[i], name);
        if (n < 0) {
            VALUE(step, "%s", strerrorname_np(errno));
            continue;
        }
        for (char *p = list; p < list + n && count < 200; p += strlen(p) + 1)
            at[count++] = p;
        qsort(at, count, sizeof *at, list_cmp);
        for (size_t k = 0; k < count; k++)
            snprintf(text + strlen(text), sizeof text - strlen(text), " %s", at[k]);
        VALUE(step, "%zd,%s; asked for the size: %d", n, text, llistxattr(path[i], NULL, 0) == n);
    }
}

static void user(void)
{
    char value[300];
    put("f", "x");
    FAILS(ENODATA, getxattr("f", "user.a", value, sizeof value));
    FAILS(ENODATA, getxattr(B("f"), "user.a", value, sizeof value));
    FAILS(ENODATA, removexattr("f", "user.a"));
    FAILS(ENODATA, setxattr("f", "user.a", "1", 1, XATTR_REPLACE));
    DO(setxattr("f", "user.a", "one", 3, XATTR_CREATE));
    FAILS(EEXIST, setxattr("f", "user.a", "two", 3, XATTR_CREATE));
    FAILS(EEXIST, setxattr(B("f"), "user.a", "two", 3, XATTR_CREATE));
    IS(getxattr(B("f"), "user.a", value, sizeof value) == 3 && memcmp(value, "one", 3) == 0);
    DO(setxattr("f", "user.a", "longer", 6, XATTR_REPLACE));
    IS(getxattr(B("f"), "user.a", value, sizeof value) == 6 && memcmp(value, "longer", 6) == 0);
    IS(getxattr(B("f"), "user.a", NULL, 0) == 6);
    FAILS(ERANGE, getxattr("f", "user.a", value, 5));
    FAILS(ERANGE, getxattr(B("f"), "user.a", value, 1));
    FAILS(ERANGE, listxattr("f", value, 3));
    DO(setxattr("f", "user.empty", "", 0, 0));
    IS(getxattr(B("f"), "user.empty", value, sizeof value) == 0);
    DO(setxattr("f", "user.zero", "a\0b", 3, 0));
    IS(getxattr(B("f"), "user.zero", value, sizeof value) == 3 && memcmp(value, "a\0b", 3) == 0);
    DO(setxattr("f", "user.\xff\xfe name", "x", 1, 0));
    show_list("f");
    DO(removexattr("f", "user.a"));
    FAILS(ENODATA, getxattr(B("f"), "user.a", value, sizeof value));
    FAILS(ENODATA, removexattr(B("f"), "user.a"));
    show_list("f");
    FAILS(EINVAL, setxattr("f", "user.x", "x", 1, XATTR_CREATE | XATTR_REPLACE | 64));
    FAILS(EOPNOTSUPP, setxattr("f", "nonsense.x", "x", 1, 0));
    DO(setxattr("f", "user.", "x", 1, 0));
    DO(getxattr("f", "user.", value, 10));
    FAILS(ERANGE, setxattr("f", "", "x", 1, 0));
    int fd = T_OK(open("f", O_RDONLY | O_CLOEXEC));
    DO(fsetxattr(fd, "user.fd", "x", 1, 0));
    DO(fgetxattr(fd, "user.fd", value, 10));
    DO(fremovexattr(fd, "user.fd"));
    close(fd);
    fd = T_OK(open("f", O_PATH | O_CLOEXEC));
    FAILS(EBADF, fgetxattr(fd, "user.zero", value, 10));
    close(fd);
}

static void sizes(void)
{
    static char big[70000], back[70000], name[300];
    static const size_t some[] = {1, 100, 1000, 2000, 3000, 3900, 4000, 4096, 5000, 65535, 65536};
    put("f", "x");
    memset(big, 'v', sizeof big);
    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
        char step[50];
        snprintf(step, sizeof step, "value of %zu", some[i]);
        STEP(step, setxattr("f", "user.big", big, some[i], 0));
        VALUE(step, "read back %zd", getxattr(B("f"), "user.big", back, sizeof back));
    }
    FAILS(E2BIG, setxattr("f", "user.big", big, 65537, 0));
    DO(removexattr("f", "user.big"));
    for (size_t n = 254; n <= 256; n++) {
        char step[50];
        memcpy(name, "user.", 5);
        memset(name + 5, 'n', n - 5);
        name[n] = 0;
        snprintf(step, sizeof step, "name of %zu", n);
        STEP(step, setxattr("f", name, "x", 1, 0));
        STEP(step, getxattr(B("f"), name, back, 10) < 0 ? -1 : 0);
    }
    for (int i = 0; i < 20; i++) {
        snprintf(name, sizeof name, "user.n%02d", i);
        T_OK(setxattr("f", name, "value", 5, 0));
    }
    VALUE("list", "%zd", listxattr("f", back, sizeof back));
    VALUE("list", "%zd", listxattr(B("f"), NULL, 0));
    FAILS(ERANGE, listxattr(B("f"), back, 20));
}

static void classes(void)
{
    char value[100];
    put("f", "x");
    T_OK(mkdir("d", 0777));
    T_OK(mkdir("sticky", 0777));
    T_OK(chmod("sticky", 01777));
    T_OK(symlink("f", "s"));
    T_OK(symlink("nowhere", "dangling"));
    T_OK(mkfifo("p", 0666));
    DO(setxattr("f", "trusted.t", "t", 1, 0));
    DO(getxattr(B("f"), "trusted.t", value, 10));
    DO(setxattr("f", "security.mine", "s", 1, 0));
    DO(getxattr(B("f"), "security.mine", value, 10));
    DO(setxattr("d", "user.d", "d", 1, 0));
    DO(getxattr(B("d"), "user.d", value, 10));
    FAILS(EPERM, lsetxattr("s", "user.s", "s", 1, 0));
    FAILS(EPERM, setxattr("p", "user.p", "p", 1, 0));
    DO(lgetxattr("s", "user.s", value, 10));
    DO(lgetxattr("p", "user.s", value, 10));
    DO(lsetxattr("s", "trusted.s", "s", 1, 0));
    DO(lgetxattr(B("s"), "trusted.s", value, 10));
    DO(setxattr("p", "trusted.p", "p", 1, 0));
    DO(setxattr("s", "user.through", "s", 1, 0));
    DO(getxattr(B("f"), "user.through", value, 10));
    FAILS(ENOENT, setxattr("dangling", "user.x", "s", 1, 0));
    show_list("f"), show_list("s"), show_list("p"), show_list("d");
    T_OK(chmod("f", 0644));
    AS(BOB, GUESTS) {
        FAILS(ENODATA, getxattr("f", "trusted.t", value, 10));
        FAILS(EPERM, setxattr("f", "trusted.u", "t", 1, 0));
        FAILS(EPERM, removexattr("f", "trusted.t"));
        FAILS(EACCES, setxattr("f", "user.u", "t", 1, 0));
        FAILS(EPERM, setxattr("f", "security.other", "t", 1, 0));
        DO(getxattr("f", "security.mine", value, 10));
        DO(getxattr("f", "user.through", value, 10));
        show_list("f");
        FAILS(EPERM, setxattr("sticky", "user.u", "t", 1, 0));
        DO(setxattr("d", "user.u", "t", 1, 0));
    }
    T_OK(chmod("f", 0600));
    AS(BOB, GUESTS) FAILS(EACCES, getxattr("f", "user.through", value, 10));
    DO(removexattr("f", "trusted.t"));
    DO(removexattr("f", "security.mine"));
    show_list("f");
}

const struct posix_case posix_xattr[] = {{"user", user}, {"sizes", sizes}, {"classes", classes}, {0}};

/* ---- ACLs: struct posix_acl_xattr of the kernel, version 2 ---- */
enum { ACL_USER_OBJ = 1, ACL_USER = 2, ACL_GROUP_OBJ = 4, ACL_GROUP = 8, ACL_MASK = 16, ACL_OTHER = 32 };
static const char acl_access[] = "system.posix_acl_access", acl_default[] = "system.posix_acl_default";

struct entry {
    uint16_t tag, perm;
    uint32_t id;
};
struct acl {
    uint32_t     version;
    struct entry entry[10];
};

static int set_acl(const char *path, const char *which, const struct entry *entries, size_t count)
{
    struct acl acl = {.version = 2};
    memcpy(acl.entry, entries, count * sizeof *entries);
    return setxattr(path, which, &acl, 4 + count * sizeof *entries, 0);
}
#define SET_ACL(path, which, ...)                                             \
    ({                                                                        \
        const struct entry set_acl_list[] = {__VA_ARGS__};                    \
        set_acl(path, which, set_acl_list, sizeof set_acl_list / sizeof *set_acl_list); \
    })
#define U(perm) {ACL_USER_OBJ, perm, (uint32_t)-1}
#define UN(uid, perm) {ACL_USER, perm, uid}
#define G(perm) {ACL_GROUP_OBJ, perm, (uint32_t)-1}
#define GN(gid, perm) {ACL_GROUP, perm, gid}
#define M(perm) {ACL_MASK, perm, (uint32_t)-1}
#define O(perm) {ACL_OTHER, perm, (uint32_t)-1}

static void show_acl(const char *name, const char *which)
{
    const char *path[2] = {name, B(name)};
    for (int i = 0; i < 2; i++) {
        struct acl acl;
        char       text[400] = "", step[100];
        ssize_t    n = getxattr(path[i], which, &acl, sizeof acl);
        snprintf(step, sizeof step, "%s %c %s", which == acl_access ? "access" : "default", "AB"[i], name);
        for (int k = 0; n > 4 && k < (int)((size_t)(n - 4) / sizeof(struct entry)); k++)
            snprintf(text + strlen(text), sizeof text - strlen(text), " %u:%d:%o", acl.entry[k].tag, (int)acl.entry[k].id, acl.entry[k].perm);
        VALUE(step, "%s%s", n < 0 ? strerrorname_np(errno) : "", text);
    }
}

static void acl_rights(void)
{
    put("f", "text");
    T_OK(chmod("f", 0640));
    show_acl("f", acl_access);
    AS(BOB, GUESTS) FAILS(EACCES, open(B("f"), O_RDONLY));
    DO(SET_ACL("f", acl_access, U(6), UN(BOB, 6), G(4), GN(AUDIO, 4), M(6), O(0)));
    see("f");
    show_acl("f", acl_access);
    AS(BOB, GUESTS) DO(open(B("f"), O_RDWR));
    AS(ALICE, STAFF) FAILS(EACCES, open(B("f"), O_RDONLY));
    AS(ALICE, AUDIO) {
        DO(open(B("f"), O_RDONLY));
        FAILS(EACCES, open(B("f"), O_RDWR));
    }
    AS(ALICE, STAFF, AUDIO) DO(open("f", O_RDONLY));
    DO(chmod("f", 0600)); /* the group bits are the mask */
    see("f");
    show_acl("f", acl_access);
    AS(BOB, GUESTS) FAILS(EACCES, open(B("f"), O_RDONLY));
    DO(chmod("f", 0640));
    AS(BOB, GUESTS) {
        DO(open(B("f"), O_RDONLY));
        FAILS(EACCES, open(B("f"), O_WRONLY));
    }
    DO(chmod(B("f"), 0777));
    show_acl("f", acl_access);
    see("f");
    DO(removexattr("f", acl_access));
    show_acl("f", acl_access);
    see("f");
    DO(SET_ACL("f", acl_access, U(7), G(5), O(1))); /* a minimal one is the mode */
    see("f");
    show_acl("f", acl_access);
    FAILS(EINVAL, SET_ACL("f", acl_access, U(7), UN(BOB, 7), G(5), O(1))); /* no mask */
    FAILS(EINVAL, SET_ACL("f", acl_access, U(7)));
    FAILS(EOPNOTSUPP, setxattr("f", acl_access, "garbage", 7, 0));
    FAILS(EACCES, SET_ACL("f", acl_default, U(7), G(5), O(1)));
    AS(BOB, GUESTS) {
        FAILS(EPERM, SET_ACL("f", acl_access, U(7), G(5), O(1)));
        FAILS(EPERM, removexattr("f", acl_access));
    }
    T_OK(chown("f", BOB, STAFF));
    T_OK(chmod("f", 02755));
    AS(BOB, GUESTS) DO(SET_ACL("f", acl_access, U(7), UN(ALICE, 7), G(5), M(7), O(1))); /* not of the file's group: S_ISGID goes */
    see("f");
}

static void make_in(const char *dir, mode_t mask)
{
    static const mode_t modes[] = {0666, 0777, 0640, 0600, 0};
    umask(mask);
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        char name[100];
        snprintf(name, sizeof name, "%s/f%03o-%03o", dir, modes[i], mask);
        close(DO(open(name, O_CREAT | O_WRONLY | O_CLOEXEC, modes[i])));
        see(name);
        show_acl(name, acl_access);
        snprintf(name, sizeof name, "%s/d%03o-%03o", dir, modes[i], mask);
        DO(mkdir(name, modes[i]));
        see(name);
        show_acl(name, acl_access);
        show_acl(name, acl_default);
        snprintf(name, sizeof name, "%s/p%03o-%03o", dir, modes[i], mask);
        DO(mknod(name, S_IFIFO | modes[i], 0));
        see(name);
        show_acl(name, acl_access);
    }
    int fd = (int)DO(open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0666));
    see_fd("O_TMPFILE", fd);
    char    value[200];
    VALUE("its ACL", "%zd", fgetxattr(fd, acl_access, value, sizeof value));
    close(fd);
    char name[100];
    snprintf(name, sizeof name, "%s/sym%03o", dir, mask);
    DO(symlink("x", name));
    see(name);
    umask(022);
}

static void acl_inherit(void)
{
    T_OK(mkdir("d", 0777));
    DO(SET_ACL("d", acl_default, U(7), UN(BOB, 7), G(5), M(7), O(5)));
    show_acl("d", acl_default);
    show_acl("d", acl_access);
    make_in("d", 022);
    make_in("d", 077);
    T_OK(mkdir("plain", 0777));
    DO(SET_ACL("plain", acl_default, U(7), G(7), O(7))); /* umask has no effect with a default ACL */
    make_in("plain", 077);
    T_OK(mkdir("none", 0777));
    DO(SET_ACL("none", acl_default, U(0), G(0), O(0)));
    make_in("none", 0);
    AS(BOB, GUESTS) FAILS(EACCES, open("none/f666-000", O_RDONLY));
    DO(removexattr("d", acl_default));
    show_acl("d", acl_default);
    T_OK(mkdir("sg", 0777));
    T_OK(chown("sg", 0, AUDIO));
    T_OK(chmod("sg", 02777));
    DO(SET_ACL("sg", acl_default, U(7), UN(BOB, 7), G(5), M(7), O(5)));
    AS(ALICE, STAFF) {
        DO(mkdir("sg/sub", 02770));
        see("sg/sub");
        show_acl("sg/sub", acl_access);
        close(DO(open("sg/f", O_CREAT | O_WRONLY, 02770)));
        see("sg/f");
    }
}

static void acl_dirs(void)
{
    T_OK(mkdir("d", 0700));
    put("d/f", "x");
    AS(BOB, GUESTS) FAILS(EACCES, access(B("d/f"), F_OK));
    DO(SET_ACL("d", acl_access, U(7), UN(BOB, 7), G(0), M(7), O(0)));
    AS(BOB, GUESTS) {
        DO(access(B("d/f"), F_OK));
        DO(mkdir(B("d/bobs"), 0755));
        DO(unlink("d/f"));
    }
    see("d/bobs");
    DO(SET_ACL(B("d"), acl_access, U(7), UN(BOB, 7), G(0), M(0), O(0)));
    AS(BOB, GUESTS) FAILS(EACCES, access("d/bobs", F_OK));
    see("d");
    FAILS(EOPNOTSUPP, ({ T_OK(symlink("d", "s")); lsetxattr("s", acl_access, "\2\0\0\0", 4, 0); }));
}

const struct posix_case posix_acl[] = {{"rights", acl_rights}, {"inherit", acl_inherit}, {"dirs", acl_dirs}, {0}};
