#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Goal:   copy_file_range inside a mount is done by the origin, takes no frames, and is right on all members whatever is changed before and after.
# Method: a copy of 32 MiB, frames and origin reads counted; helpers/copy.c against a model; a segment too small for what is copied; a member killed while it copies.
T_SIZE=128M
. "$(dirname "$0")/lib.sh"
copy=$(helper copy) || exit
need jq
rounds=$(pick 3000 100000)

frames_used() { status '.segment.frames | .total - .free'; }
counter() { status ".counters.$1"; }
kill_member() {
    kill -KILL "$(daemon_pid "$1")"
    until_true 15 no_daemon "$1" || fail "the daemon of $1 does not end"
    within 15 umount -l "$t_dir/$1"
}

mount_member A
mount_member B
head -c 32M /dev/urandom >"$t_dir/A/big" || fail "cannot write"
within 20 cmp "$t_dir/B/big" "$t_origin/big" || fail "big differs"
before=$(frames_used) read_before=$(counter origin_read_bytes)
within 20 cp "$t_dir/A/big" "$t_dir/A/copy" || fail "cp"
within 20 cmp "$t_dir/A/copy" "$t_origin/big" || fail "the copy differs on A"
within 20 cmp "$t_dir/B/copy" "$t_origin/big" || fail "the copy differs on B"
within 20 cmp "$t_origin/copy" "$t_origin/big" || fail "the copy differs at the origin"
say "32 MiB copied: $(($(frames_used) - before)) frames more, $(($(counter origin_read_bytes) - read_before)) bytes read from the origin, $(counter pages_shared) pages shared"
(($(frames_used) - before < 200)) || fail "a copy took frames"
(($(counter origin_read_bytes) == read_before)) || fail "the copy was fetched"

within 200 "$copy" "$t_dir/A" "$t_dir/B" "$t_origin" "$t_seed" "$rounds" || fail "against the model, seed $t_seed"
check_segment

for i in 1 2 3 4 5; do # 160 MiB through 128 MiB: shared frames are evicted, too
    within 20 cp "$t_dir/A/big" "$t_dir/B/more$i" 2>/dev/null
    within 20 cp "$t_dir/B/more$i" "$t_dir/B/again$i" || fail "cp"
    printf %s "$i" | dd of="$t_dir/A/again$i" bs=1 seek=100000 conv=notrunc status=none
done
for i in 1 2 3 4 5; do
    within 20 cmp "$t_dir/A/more$i" "$t_origin/big" || fail "more$i differs"
    within 20 cmp "$t_dir/A/again$i" "$t_origin/again$i" || fail "again$i differs"
done
check_segment

for i in $(seq "$(pick 5 100)"); do
    (while cp "$t_dir/B/big" "$t_dir/B/victim" 2>/dev/null; do :; done) &
    loop=$!
    sleep "0.$((RANDOM % 4 + 1))"
    kill_member B
    wait $loop
    until_true 20 timeout 5 cat "$t_dir/A/victim" >/dev/null || fail "A cannot read after B's death"
    within 20 cmp "$t_dir/A/big" "$t_origin/big" || fail "the source differs after a death"
    within 20 cmp "$t_dir/A/victim" "$t_origin/victim" || fail "the copy differs from the origin after a death"
    mount_member B
done
check_segment
umount_member A
umount_member B
