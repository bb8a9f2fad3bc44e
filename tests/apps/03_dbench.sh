#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Goal:   dbench runs clean on two mounts of one tree at the same time.
. "$(dirname "$0")/../fs/lib.sh"
need dbench
seconds=$(pick 20 300)

mount_member A
mount_member B
mkdir "$t_dir/A/one" "$t_dir/B/two"
within $((seconds + 200)) dbench -D "$t_dir/A/one" -t "$seconds" 4 >"$t_dir/a.out" 2>&1 & a=$!
within $((seconds + 200)) dbench -D "$t_dir/B/two" -t "$seconds" 4 >"$t_dir/b.out" 2>&1 & b=$!
wait $a || { tail -20 "$t_dir/a.out" >&2; fail "dbench on A"; }
wait $b || { tail -20 "$t_dir/b.out" >&2; fail "dbench on B"; }
for out in a b; do
    grep -E '^Throughput' "$t_dir/$out.out" || { tail -20 "$t_dir/$out.out" >&2; fail "no result in $out.out"; }
    if grep -v 'barrier semaphore' "$t_dir/$out.out" | grep -iE 'ERROR|failed|No such file' >&2; then fail "dbench reports errors"; fi
done
list_tree "$t_dir/A" >"$t_dir/list.A"
list_tree "$t_dir/B" >"$t_dir/list.B"
same "what is left" "$t_dir/list.A" "$t_dir/list.B"
check_segment
umount_member A
umount_member B
