#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Goal:   every operation that a program meets on ext4 does the same on a mount.
# Method: helpers/posix_*.c print the outcome of each step; run in a plain directory next to the origin and on A;
#         outputs compared, and at the end what B and the origin show of the result.
T_SIZE=256M
T_LIMIT=200
. "$(dirname "$0")/lib.sh"

mount_member A
mount_member B
ls -R "$t_dir/B" >/dev/null
for part in names data rights; do
    program=$(helper posix_$part) || exit
    mkdir -p "$t_dir/plain/$part" "$t_dir/A/$part"
    (cd "$t_dir/plain/$part" && within 60 "$program" >"$t_dir/$part.plain") || fail "posix_$part fails in a plain directory: this machine is no measure"
    (cd "$t_dir/A/$part" && within 100 "$program" >"$t_dir/$part.mount") ||
        { diff "$t_dir/$part.plain" "$t_dir/$part.mount" | head -n 20 >&2; fail "posix_$part on the mount"; }
    same "posix_$part, plain and on A" "$t_dir/$part.plain" "$t_dir/$part.mount"
done
within 20 rm "$t_dir/A/data/large" || fail "rm of the file beyond 4 GiB"
rm "$t_dir/plain/data/large"
same_tree "A and B" "$t_dir/A" "$t_dir/B"
same_tree "origin and B" "$t_origin" "$t_dir/B" nodirtime
shape() { within 60 find "$1" -mindepth 1 -printf '%y %m %U %G %n %P\0' | sort -z | tr '\0' '\n'; }
shape "$t_dir/plain" >"$t_dir/shape.plain"
shape "$t_dir/A" >"$t_dir/shape.A"
same "what the steps left, plain and on A" "$t_dir/shape.plain" "$t_dir/shape.A"
within 60 rm -rf "$t_dir/A"/* || fail "rm -rf of it all"
[[ -z $(ls -A "$t_dir/B") ]] || fail "B still shows $(ls -A "$t_dir/B")"
check_segment
umount_member A
umount_member B
