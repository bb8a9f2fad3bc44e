#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Goal:   two members show the origin as it is, and what one has read costs the other no read of the origin.
# Method: /usr/include and a git repository of 210 commits; find, tar and sha256sum on origin, A and B; the counter
#         around B's reading.
T_SIZE=1G
T_LIMIT=300
. "$(dirname "$0")/lib.sh"
need git tar

cp -a /usr/include "$t_origin/include"
git init -q "$t_origin/repo"
for i in {1..210}; do
    mkdir -p "$t_origin/repo/d$((i % 7))"
    echo "line $i, seed $t_seed" >>"$t_origin/repo/d$((i % 7))/file$((i % 30))"
    git -C "$t_origin/repo" add -A
    git -C "$t_origin/repo" -c user.name=t -c user.email=t@example.org -c gc.auto=0 commit -qm "commit $i" || fail "commit $i"
done
cp -a "$t_here" "$t_origin/odd"
ln "$t_origin/odd/lib.sh" "$t_origin/odd/hard link"
ln -s ../include/stdio.h "$t_origin/odd/symlink"
mkfifo -m 600 "$t_origin/odd/fifo"
mkdir -m 1777 "$t_origin/odd/empty"
: >"$t_origin/odd/"$'name\nof two lines'
chown 123:456 "$t_origin/odd/empty"
sync -f "$t_origin"
say "origin: $(find "$t_origin" | wc -l) names, $(git -C "$t_origin/repo" rev-list --count HEAD) commits"

tar_sum() { (cd "$1" && within 200 tar -cf - --sort=name --numeric-owner . | sha256sum); }

list_tree "$t_origin" >"$t_dir/find.origin"
tar_sum "$t_origin" >"$t_dir/tar.origin"
sum_tree "$t_origin" >"$t_dir/sha256.origin"
read_all() { # LETTER
    list_tree "$t_dir/$1" >"$t_dir/find.$1"
    tar_sum "$t_dir/$1" >"$t_dir/tar.$1"
    sum_tree "$t_dir/$1" >"$t_dir/sha256.$1"
    same "find on $1" "$t_dir/find.origin" "$t_dir/find.$1"
    same "tar on $1" "$t_dir/tar.origin" "$t_dir/tar.$1"
    same "sha256sum on $1" "$t_dir/sha256.origin" "$t_dir/sha256.$1"
}

mount_member A
mount_member B
before=$(origin_read_bytes)
read_all A
after_a=$(origin_read_bytes)
all=$(find "$t_origin" -type f -links 1 -printf '%s\n' | awk '{ s += $1 } END { print s }')
say "origin_read_bytes: $before, after A $after_a; the single-link files have $all bytes"
((after_a - before >= all)) || fail "A has read $all bytes, but the counter moved by $((after_a - before)) only"
((after_a - before <= all + all / 10 + 1000000)) || fail "A has read $all bytes twice; a byte was fetched more than once: $((after_a - before))"
read_all B
after_b=$(origin_read_bytes)
say "origin_read_bytes after B: $after_b"
((after_b == after_a)) || fail "B's reading cost $((after_b - after_a)) bytes from the origin"

say "git fsck on B"
(cd "$t_dir/B/repo" && within 60 git -c safe.directory='*' fsck --full --strict >"$t_dir/fsck.out" 2>&1) || { cat "$t_dir/fsck.out"; fail "git fsck on B"; }
check_segment
umount_member A
umount_member B
check_segment
