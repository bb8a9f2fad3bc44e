#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Goal:   1,000 FUSE requests that wait for a slow origin do not delay a hit on another file.
# Method: the origin is a bindfs with a read rate; helpers/slow_hits.c reads 1,000 cold files at once (direct, so that
#         each is a request) and hits a warm one meanwhile; judged by order: the hits end while most of the slow
#         requests still wait.
T_SIZE=128M
T_LIMIT=300
. "$(dirname "$0")/lib.sh"
need bindfs
slow_hits=$(helper slow_hits) || exit
count=1000

real=$t_dir/real
mkdir -p "$real/slow"
head -c 65536 /dev/urandom >"$real/hot"
for ((i = 0; i < count; i++)); do printf '%-4095d\n' $i; done | split -a 4 -d -b 4096 - "$real/slow/x"
i=0
for f in "$real"/slow/x*; do mv "$f" "$real/slow/s$((i++))"; done
[[ $(<"$real/slow/s999") =~ ^999\ +$ && $(stat -c %s "$real/slow/s999") == 4096 ]] || fail "the slow files are wrong"
# 4 MB at 160 kB/s: 25 s.
bindfs --multithreaded --read-rate=160k "$real" "$t_origin" || skip "bindfs does not work here"

mount_member A
mount_member B
within 60 sha256sum <"$t_dir/A/hot" | cmp - <(sha256sum <"$real/hot") || fail "the hot file is wrong"
cmp "$t_dir/B/hot" "$real/hot" || fail "the hot file is wrong on B"
hot_bytes=$(origin_read_bytes)
ls "$t_dir/A/slow" >/dev/null
say "1,000 slow reads on A; hits on A and on B meanwhile"
within 200 "$slow_hits" "$t_dir/A/slow" $count "$t_dir/A/hot" "$t_dir/B/hot" || fail "hits behind slow requests"
grown=$(($(origin_read_bytes) - hot_bytes))
((grown == count * 4096)) || fail "origin_read_bytes grew by $grown, want $((count * 4096))"
check_segment
umount_member A
umount_member B
within 20 umount "$t_origin" || fail "the origin is still held after the unmount"
