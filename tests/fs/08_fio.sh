#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Goal:   fio finds every block that it wrote, on the mount that wrote it and on the other one.
# Method: verify=crc32c; random and sequential; buffered, direct=1 and mmap; A and B at once on files of their own,
#         then each verifies what the other has written.
T_SIZE=512M
T_LIMIT=400
. "$(dirname "$0")/lib.sh"
need fio
cd "$t_dir" || exit
size=$(pick 24M 512M)

mount_member A
mount_member B

# job DIR FILE OPTION...: one fio run, which must find all as it was written
try_job() {
    local dir=$1 file=$2
    shift 2
    within 600 fio --name=j --directory="$dir" --filename="$file" --size="$size" --verify=crc32c --verify_fatal=1 --verify_dump=0 \
        --randseed="$t_seed" --thread "$@" 2>&1
}
job() {
    local out
    out=$(try_job "$@") && return
    tail -n 12 <<<"$out" >&2
    fail "fio $*"
}

modes=(buffered "--ioengine=psync --direct=0" direct "--ioengine=psync --direct=1" mmap "--ioengine=mmap")
for ((i = 0; i < ${#modes[@]}; i += 2)); do
    how=${modes[i]}
    read -ra engine <<<"${modes[i + 1]}"
    for pattern in "randwrite 4k" "write 128k" "randwrite 64k" "write 1M"; do
        read -r rw bs <<<"$pattern"
        pids=()
        for m in A B; do
            job "$t_dir/$m" "$how-$rw-$bs-$m" "${engine[@]}" --rw="$rw" --bs="$bs" --end_fsync=1 & pids+=($!)
        done
        for p in "${pids[@]}"; do wait "$p" || exit 1; done
        job "$t_dir/B" "$how-$rw-$bs-A" "${engine[@]}" --rw="$rw" --bs="$bs" --verify_only
        job "$t_dir/A" "$how-$rw-$bs-B" "${engine[@]}" --rw="$rw" --bs="$bs" --verify_only
        say "$how $rw $bs: written and verified on A and B, and crosswise"
    done
done
# Mixed reading and writing, while the other member does the same next to it.
pids=()
for m in A B; do
    job "$t_dir/$m" "mixed-$m" --ioengine=psync --rw=randrw --bs=4k --verify_backlog=64 & pids+=($!)
done
for p in "${pids[@]}"; do wait "$p" || exit 1; done
say "randrw with verify_backlog: verified"

# A block with a flipped byte must be found: otherwise all of this proves nothing.
name=buffered-randwrite-4k-A
printf '\xff\x00\xaa' | dd of="$t_dir/A/$name" bs=1 seek=8500 conv=notrunc status=none
if try_job "$t_dir/B" "$name" --ioengine=psync --rw=randwrite --bs=4k --verify_only >/dev/null; then
    fail "fio on B does not find the byte that was flipped on A"
fi
say "a byte flipped on A: found by fio on B"
within 60 rm "$t_dir/A/$name" || fail "rm"
sum_tree "$t_origin" >"$t_dir/sums.origin"
for m in A B; do
    sum_tree "$t_dir/$m" >"$t_dir/sums.$m"
    same "files at the origin and on $m" "$t_dir/sums.origin" "$t_dir/sums.$m"
done
check_segment
umount_member A
umount_member B
