#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Goal:   a tree four times the size of the segment is served right while frames are evicted all the time.
# Method: 256 MiB in 3,500 files of mixed size through a 64 MiB segment, read twice by A and B at once (the kernels'
#         own caches are dropped in between), every file compared with the origin; then check.
T_SIZE=64M
T_LIMIT=400
. "$(dirname "$0")/lib.sh"
drop=$(helper drop) || exit

RANDOM=$((t_seed % 32768))
mkdir -p "$t_origin/small"/{0..9} "$t_origin/medium" "$t_origin/large"
head -c 40M /dev/urandom >"$t_origin/large/forty"
head -c 24M /dev/urandom >"$t_origin/large/twenty-four"
mkdir "$t_dir/split"
head -c 9000000 /dev/urandom | split -a 4 -d -b 3000 - "$t_dir/split/f"
i=0
for f in "$t_dir"/split/f*; do
    truncate -s $((RANDOM % 3001)) "$f"
    mv "$f" "$t_origin/small/$((i++ % 10))/"
done
for i in {1..500}; do head -c $((RANDOM * 24)) /dev/urandom >"$t_origin/medium/f$i"; done
total=$(find "$t_origin" -type f -printf '%s\n' | awk '{ s += $1 } END { print s }')
while ((total < 256 << 20)); do
    i=$((i + 1))
    head -c 1500000 /dev/urandom >"$t_origin/medium/f$i"
    total=$((total + 1500000))
done
(cd "$t_origin" && find . -type f -print0 | sort -z) >"$t_dir/names"
sum_tree "$t_origin" >"$t_dir/sums.origin"
say "$(wc -l <"$t_dir/sums.origin") files, $((total >> 20)) MiB, segment $t_size"

# read_shuffled LETTER PASS: every file in an order of its own, as list sums.LETTER
read_shuffled() {
    shuf -z --random-source=<(yes "$t_seed $1 $2") <"$t_dir/names" >"$t_dir/order.$1"
    (cd "$t_dir/$1" && within 200 xargs -0 sha256sum <"$t_dir/order.$1" | sort -k2 >"$t_dir/sums.$1") || return 1
    (cd "$t_dir/$1" && within 60 "$drop" <"$t_dir/names")
}
sort -k2 -o "$t_dir/sums.origin" "$t_dir/sums.origin"

mount_member A
mount_member B
for ((pass = 1; pass <= $(pick 2 10); pass++)); do
    read_shuffled A $pass & a=$!
    read_shuffled B $pass & b=$!
    wait $a || fail "reading on A, pass $pass"
    wait $b || fail "reading on B, pass $pass"
    for m in A B; do same "pass $pass on $m" "$t_dir/sums.origin" "$t_dir/sums.$m"; done
    say "evictions: $(status .counters.evictions), frames: $(status '.segment.frames | tojson')"
done
list_tree "$t_origin" >"$t_dir/list.origin"
list_tree "$t_dir/B" >"$t_dir/list.B"
same "names and attributes" "$t_dir/list.origin" "$t_dir/list.B"
(($(status .counters.evictions) > total / 4096 / 2)) || fail "hardly anything was evicted"

say "writes under the same pressure"
within 100 cp -r "$t_dir/A/medium" "$t_dir/A/copy" || fail "cp -r on A"
within 100 diff -r "$t_dir/B/medium" "$t_dir/B/copy" || fail "B sees another copy than A made"
diff -r "$t_origin/medium" "$t_origin/copy" || fail "the origin has another copy than A made"
check_segment
umount_member A
umount_member B
check_segment
