/* SPDX-License-Identifier: Apache-2.0 */
/*
 * persist_record.c - the identity record: what a member must remember while it is away.
 *
 * One file, STATE_DIR/NAME/MEMBER, one JSON object. The field "checksum" is the XXH3-64 (hexadecimal) of the object without it, as json-c prints
 * it plainly in the order in which the fields stand. So a truncated, mixed or edited record is told from a good one; a good one of
 * another format number is refused, not guessed at.
 *
 * Writing is atomic: temporary name in the same folder, fsync, rename, fsync of the folder. If we die before the rename, the old record stands
 * and a file that begins with a dot is left, which the next store of the same member overwrites (it has the same name: one member has one daemon).
 *
 * A record that is lost or damaged costs nothing but the slot: the segment knows its members too, and whoever bears the same name takes it back.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <json-c/json.h>
#include <xxhash.h>

#include "persist_internal.h"

enum { RECORD_FORMAT = 1, RECORD_BYTES_MAX = 16384, DIRS_DEPTH_MAX = 64 };

bool persist_name_ok(const char *name)
{
    size_t length = strlen(name);
    return length >= 1 && length < SEG_NAME_MAX && name[0] != '.' &&
           strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == length;
}

/* ---- folders ---- */

int persist_dirs_make(const char *path, unsigned *made)
{
    char     part[PERSIST_PATH_MAX];
    unsigned count = 0;
    int      rc = 0;
    if ((size_t)snprintf(part, sizeof part, "%s", path) >= sizeof part)
        return -ENAMETOOLONG;
    for (char *slash = part; rc == 0 && slash;) {
        slash = strchr(slash + 1, '/');
        if (slash)
            *slash = 0;
        if (mkdir(part, 0700) == 0)
            count++;
        else if (errno != EEXIST)
            rc = -errno;
        if (slash)
            *slash = '/';
    }
    struct stat st;
    if (rc == 0 && stat(path, &st) != 0)
        rc = -errno;
    else if (rc == 0 && !S_ISDIR(st.st_mode))
        rc = -ENOTDIR;
    if (rc) {
        persist_dirs_undo(path, count);
        return rc;
    }
    *made = count;
    return 0;
}

void persist_dirs_undo(const char *path, unsigned made)
{
    char part[PERSIST_PATH_MAX];
    snprintf(part, sizeof part, "%s", path);
    while (made > 0 && part[0]) {
        if (rmdir(part) == 0)
            made--;
        else if (errno != ENOENT) /* the deepest ones may not have been made */
            return;
        char *slash = strrchr(part, '/');
        if (!slash)
            return;
        *slash = 0;
    }
}

/* ---- text of binary fields ---- */

static void hex_put(char *text, const uint8_t *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        sprintf(text + 2 * i, "%02x", bytes[i]);
}

static bool hex_get(const char *text, uint8_t *bytes, size_t count)
{
    if (!text || strlen(text) != 2 * count || strspn(text, "0123456789abcdef") != 2 * count)
        return false;
    for (size_t i = 0; i < count; i++) {
        unsigned byte = 0;
        sscanf(text + 2 * i, "%2x", &byte);
        bytes[i] = (uint8_t)byte;
    }
    return true;
}

static void object_add_hex(struct json_object *object, const char *key, const uint8_t *bytes, size_t count)
{
    char text[2 * 64 + 1];
    hex_put(text, bytes, count);
    json_object_object_add(object, key, json_object_new_string(text));
}

static const char *object_text(struct json_object *object, const char *key)
{
    struct json_object *value;
    return json_object_object_get_ex(object, key, &value) && json_object_is_type(value, json_type_string)
               ? json_object_get_string(value) : NULL;
}

static bool object_number(struct json_object *object, const char *key, int64_t least, int64_t most, int64_t *number)
{
    struct json_object *value;
    if (!json_object_object_get_ex(object, key, &value) || !json_object_is_type(value, json_type_int))
        return false;
    *number = json_object_get_int64(value);
    return *number >= least && *number <= most;
}

static void object_checksum(struct json_object *object, char text[17])
{
    size_t      length = 0;
    const char *plain = json_object_to_json_string_length(object, JSON_C_TO_STRING_PLAIN, &length);
    snprintf(text, 17, "%016llx", (unsigned long long)XXH3_64bits(plain, length));
}

/* ---- load ---- */

static bool record_parse(struct json_object *object, struct persist_record *record)
{
    struct persist_record got = {0};
    char                  sum[17];
    int64_t               format, slot, incarnation;
    const char           *said = object_text(object, "checksum");
    char                  said_copy[17];

    if (!said || strlen(said) != 16)
        return false;
    memcpy(said_copy, said, sizeof said_copy);
    json_object_object_del(object, "checksum");
    object_checksum(object, sum);
    if (strcmp(sum, said_copy) != 0 || !object_number(object, "format", RECORD_FORMAT, RECORD_FORMAT, &format))
        return false;

    const char *path = object_text(object, "segment_path"), *member = object_text(object, "member");
    uint8_t     signature[8];
    if (!path || strlen(path) >= sizeof got.segment_path || !member || !persist_name_ok(member) ||
        !hex_get(object_text(object, "segment_uuid"), got.segment_uuid, sizeof got.segment_uuid) ||
        !hex_get(object_text(object, "signature"), signature, sizeof signature) ||
        !hex_get(object_text(object, "origin_id"), got.origin_id, sizeof got.origin_id) ||
        !hex_get(object_text(object, "member_uuid"), got.member_uuid, sizeof got.member_uuid) ||
        !object_number(object, "slot", 0, SEG_MEMBERS_MAX - 1, &slot) ||
        !object_number(object, "incarnation", 0, UINT32_MAX, &incarnation))
        return false;
    strcpy(got.segment_path, path);
    strcpy(got.member, member);
    memcpy(&got.signature, signature, sizeof signature);
    got.slot = (int32_t)slot;
    got.incarnation = (uint32_t)incarnation;
    *record = got;
    return true;
}

static int record_path(char path[PERSIST_PATH_MAX], const char *state_dir, const char *name, const char *member, char *err)
{
    if (!persist_name_ok(name) || !persist_name_ok(member))
        return persist_fail(err, -EINVAL, "\"%s\" is not a name: 1 to 63 letters, digits, dots, underscores or hyphens, not a dot first",
                            persist_name_ok(name) ? member : name);
    if (snprintf(path, PERSIST_PATH_MAX, "%s/%s/%s", state_dir, name, member) >= PERSIST_PATH_MAX)
        return persist_fail(err, -ENAMETOOLONG, "the state directory's path is too long; give a shorter one with -o state_dir=");
    return 0;
}

int persist_record_load(const char *state_dir, const char *name, const char *member, struct persist_record *record, char err[SEG_ERR_BYTES])
{
    char path[PERSIST_PATH_MAX], text[RECORD_BYTES_MAX];
    int  rc = record_path(path, state_dir, name, member, err);
    if (rc)
        return rc;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && (errno == ENOENT || errno == ENOTDIR))
        return -ENOENT;
    if (fd < 0)
        return persist_fail(err, -errno, "cannot read the identity record %s: %s", path, strerror(errno));
    ssize_t got = read(fd, text, sizeof text - 1);
    close(fd);
    struct json_object *object = NULL;
    if (got > 0) {
        text[got] = 0;
        object = json_tokener_parse(text);
    }
    bool good = object && json_object_is_type(object, json_type_object) && record_parse(object, record);
    json_object_put(object);
    return good ? 0 : persist_fail(err, -EBADMSG, "the identity record %s is damaged", path);
}

/* ---- store ---- */

static struct json_object *record_object(const struct persist_record *record)
{
    struct json_object *object = json_object_new_object();
    uint8_t             signature[8];
    char                sum[17];
    if (!object)
        return NULL;
    memcpy(signature, &record->signature, sizeof signature);
    json_object_object_add(object, "format", json_object_new_int(RECORD_FORMAT));
    json_object_object_add(object, "segment_path", json_object_new_string(record->segment_path));
    object_add_hex(object, "segment_uuid", record->segment_uuid, sizeof record->segment_uuid);
    object_add_hex(object, "signature", signature, sizeof signature);
    object_add_hex(object, "origin_id", record->origin_id, sizeof record->origin_id);
    json_object_object_add(object, "member", json_object_new_string(record->member));
    object_add_hex(object, "member_uuid", record->member_uuid, sizeof record->member_uuid);
    json_object_object_add(object, "slot", json_object_new_int(record->slot));
    json_object_object_add(object, "incarnation", json_object_new_int64(record->incarnation));
    object_checksum(object, sum);
    json_object_object_add(object, "checksum", json_object_new_string(sum));
    return object;
}

static int dir_sync(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int rc = fsync(fd) == 0 || errno == EINVAL ? 0 : -errno; /* EINVAL: a file system that has nothing to sync */
    close(fd);
    return rc;
}

static int file_put(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return -errno;
    size_t length = strlen(text), done = 0;
    int    rc = 0;
    while (rc == 0 && done < length) {
        ssize_t put = write(fd, text + done, length - done);
        if (put < 0 && errno != EINTR)
            rc = -errno;
        else if (put > 0)
            done += (size_t)put;
    }
    if (rc == 0 && fsync(fd) != 0)
        rc = -errno;
    if (close(fd) != 0 && rc == 0)
        rc = -errno;
    return rc;
}

/* -ENOENT: the folder has been removed meanwhile, by `hearthfs destroy` of an older segment of that name. */
static int record_put(const char *dir, const char *fresh, const char *path, const char *text)
{
    unsigned made;
    int      rc = persist_dirs_make(dir, &made);
    if (rc == 0)
        rc = file_put(fresh, text);
    if (rc == 0 && rename(fresh, path) != 0)
        rc = -errno;
    if (rc == 0)
        rc = dir_sync(dir);
    else
        unlink(fresh);
    return rc;
}

int persist_record_store(const char *state_dir, const char *name, const struct persist_record *record, char err[SEG_ERR_BYTES])
{
    char     path[PERSIST_PATH_MAX], dir[PERSIST_PATH_MAX], fresh[2 * PERSIST_PATH_MAX];
    int      rc = record_path(path, state_dir, name, record->member, err);
    if (rc)
        return rc;
    snprintf(dir, sizeof dir, "%s/%s", state_dir, name);
    snprintf(fresh, sizeof fresh, "%s/.%s.new", dir, record->member);
    struct json_object *object = record_object(record);
    if (!object)
        return persist_fail(err, -ENOMEM, "no memory for the identity record");
    const char *text = json_object_to_json_string_ext(object, JSON_C_TO_STRING_PRETTY);
    for (unsigned tries = 0; tries < PERSIST_DIR_TRIES; tries++)
        if ((rc = record_put(dir, fresh, path, text)) != -ENOENT)
            break;
    json_object_put(object);
    if (rc)
        return persist_fail(err, rc, "cannot write the identity record %s: %s; give another folder with -o state_dir=", path,
                            strerror(-rc));
    return 0;
}

/* ---- remove ---- */

int persist_record_remove(const char *state_dir, const char *name, const char *member)
{
    char path[PERSIST_PATH_MAX], err[SEG_ERR_BYTES];
    int  rc = record_path(path, state_dir, name, member, err);
    if (rc == 0 && unlink(path) != 0)
        rc = -errno;
    return rc;
}

int persist_record_remove_all(const char *state_dir, const char *name)
{
    char path[PERSIST_PATH_MAX];
    if (!persist_name_ok(name))
        return -EINVAL;
    if (snprintf(path, sizeof path, "%s/%s", state_dir, name) >= (int)sizeof path)
        return -ENAMETOOLONG;
    DIR *dir = opendir(path);
    if (!dir)
        return -errno;
    int            rc = 0;
    struct dirent *entry;
    while ((entry = readdir(dir))) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 && unlinkat(dirfd(dir), entry->d_name, 0) != 0)
            rc = -errno;
    }
    closedir(dir);
    if (rmdir(path) != 0 && rc == 0)
        rc = -errno;
    return rc;
}

/* ---- the default name of a member ---- */

void persist_member_name(const char *mountpoint, char name[SEG_NAME_MAX])
{
    char machine[128] = "";
    int  fd = open("/etc/machine-id", O_RDONLY | O_CLOEXEC);
    if (fd < 0 || read(fd, machine, sizeof machine - 1) <= 0)
        gethostname(machine, sizeof machine - 1);
    if (fd >= 0)
        close(fd);
    machine[strcspn(machine, "\n")] = 0;

    XXH64_hash_t hash = XXH3_64bits_withSeed(mountpoint, strlen(mountpoint), XXH3_64bits(machine, strlen(machine)));
    const char  *base = strrchr(mountpoint, '/');
    base = base ? base + 1 : mountpoint;
    enum { BASE_MAX = 40 };
    char   word[BASE_MAX + 1];
    size_t length = 0;
    for (; *base && length < BASE_MAX; base++) {
        char c = *base;
        if (c >= 'A' && c <= 'Z')
            c = (char)(c - 'A' + 'a');
        word[length++] = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ? c : '-';
    }
    word[length] = 0;
    snprintf(name, SEG_NAME_MAX, "%s-%08x", length ? word : "root", (unsigned)(hash & 0xffffffff));
}
