#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Goal:   what git and a cmake build do on A, B sees at once, file for file, with attributes.
# Method: clone, commit, gc, fsck; then this project's own release build on A while B walks the tree; A, B and origin
#         compared. HEARTHFS_TEST_TREE names another source tree, HEARTHFS_TEST_TARGETS what is built of it (the long
#         form builds all).
T_SIZE=512M
T_LIMIT=500
. "$(dirname "$0")/lib.sh"
need git cmake ninja tar
tree=${HEARTHFS_TEST_TREE:-$t_root}
targets=${HEARTHFS_TEST_TARGETS-$(pick "hearth_segment hearth_work hearth_lockmgr hearth_cache" "")}
export GIT_CONFIG_COUNT=3 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*' \
    GIT_CONFIG_KEY_1=user.name GIT_CONFIG_VALUE_1=t GIT_CONFIG_KEY_2=user.email GIT_CONFIG_VALUE_2=t@example.org

# A's directories may bear another change time than the origin's; all else must be equal.
compare() {
    same_tree "$1: A and B" "$t_dir/A" "$t_dir/B"
    same_tree "$1: origin and B" "$t_origin" "$t_dir/B" nodirtime
}
on() { local m=$1; shift; (cd "$t_dir/$m/clone" && within 120 git "$@"); }

git init -q "$t_dir/seed"
for i in {1..200}; do
    mkdir -p "$t_dir/seed/dir$((i % 10))"
    head -c $((RANDOM % 9000)) /dev/urandom | base64 >"$t_dir/seed/dir$((i % 10))/f$i"
    git -C "$t_dir/seed" add -A
    git -C "$t_dir/seed" commit -qm "$i" || fail "commit $i"
done

mount_member A
mount_member B
ls -lR "$t_dir/B" >/dev/null
within 120 git clone -q --no-local "$t_dir/seed" "$t_dir/A/clone" || fail "git clone"
[[ $(on B rev-parse HEAD) == $(git -C "$t_dir/seed" rev-parse HEAD) ]] || fail "B does not see the clone"
compare clone

for i in {1..20}; do
    echo "change $i" >>"$t_dir/A/clone/dir$((i % 10))/f$i"
    within 10 rm "$t_dir/A/clone/dir$(((i + 100) % 10))/f$((i + 100))"
    echo "new" >"$t_dir/A/clone/new$i"
    on A add -A && on A commit -qm "on A $i" || fail "commit $i on A"
    [[ $(on A rev-parse HEAD) == $(on B rev-parse HEAD) ]] || fail "B does not see commit $i"
    [[ $(<"$t_dir/B/clone/new$i") == new ]] || fail "B does not see new$i"
    [[ -z $(on B --no-optional-locks status --porcelain) ]] || fail "on B, git status is not clean after commit $i"
done
say "20 commits on A, each seen by B at once"
compare commits
on A checkout -q -b other HEAD~10 && on A checkout -q - || fail "checkout"
on A gc -q --prune=now || fail "gc"
on A fsck --full --strict >/dev/null 2>"$t_dir/fsck.err" || { cat "$t_dir/fsck.err"; fail "fsck on A"; }
on B fsck --full --strict >/dev/null 2>"$t_dir/fsck.err" || { cat "$t_dir/fsck.err"; fail "fsck on B"; }
compare "gc"
on B log --format=%H%n%B --stat >"$t_dir/log.B"
on A log --format=%H%n%B --stat >"$t_dir/log.A"
same "git log" "$t_dir/log.A" "$t_dir/log.B"

say "building ${targets:-everything} of a copy of the source tree on A"
mkdir "$t_dir/A/src"
tar -C "$tree" --exclude=./build --exclude=./.git -cf - . | within 60 tar -C "$t_dir/A/src" -xf - || fail "copy of the source tree"
(while sleep 0.2; do find "$t_dir/B/src" -newermt 2000-01-01 -type f -exec head -qc1 {} + >/dev/null 2>&1; done) &
walker=$!
(cd "$t_dir/A/src" && within 120 cmake --preset release >"$t_dir/cmake.out" 2>&1) || { tail -20 "$t_dir/cmake.out"; fail "cmake --preset release"; }
# shellcheck disable=SC2086
(cd "$t_dir/A/src" && within 400 cmake --build build/release -j2 ${targets:+--target $targets} >"$t_dir/build.out" 2>&1) ||
    { tail -20 "$t_dir/build.out"; fail "the build on A"; }
kill "$walker"
wait "$walker" 2>/dev/null
compare build
say "built: $(within 20 find "$t_dir/B/src/build" -name '*.o' | wc -l) objects seen on B"
[[ -n $(within 20 find "$t_dir/B/src/build" -name '*.o' -size +0) ]] || fail "the build has made nothing"
within 60 rm -rf "$t_dir/A/src" || fail "rm -rf on A"
[[ ! -e $t_dir/B/src ]] || fail "B still shows what A has removed"
compare "rm -rf"
check_segment
umount_member A
umount_member B
