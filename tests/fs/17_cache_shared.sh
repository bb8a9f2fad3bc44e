#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Goal:   members with cache=shared agree with each other and with cache=kernel ones as those agree among themselves, and
#         their kernels keep no file data.
# Method: helpers/coherence.c, append.c, mmap_dirty.c and direct_map.c with B shared and A kernel, both ways round, then both
#         shared; set-id bits; cachestat(2) and Cached of /proc/meminfo after a big file was read.
T_SIZE=256M
T_LIMIT=500
. "$(dirname "$0")/lib.sh"
coherence=$(helper coherence) || exit
append=$(helper append) || exit
mmap_dirty=$(helper mmap_dirty) || exit
direct_map=$(helper direct_map) || exit
rounds=$(pick 2000 40000)

maps=1
hammer() { # WHAT X Y
    local mode rc
    mkdir -p "$t_dir/$2/d"
    for mode in data mmap size attr names; do
        if [[ $mode == mmap ]] && ((!maps)); then continue; fi
        within 1200 "$coherence" $mode "$t_dir/$2/d" "$t_dir/$3/d" "$t_seed" "$rounds" || fail "$1: $mode, seed $t_seed"
    done
    within 600 "$append" "$t_dir/$2/d" "$t_dir/$3/d" "$t_seed" $((rounds / 2)) || fail "$1: append, seed $t_seed"
    if ((maps)); then
        within 900 "$direct_map" "$t_dir/$2/d" "$t_dir/$3/d" "$t_seed" "$rounds" || fail "$1: direct_map, seed $t_seed"
        within 900 "$mmap_dirty" "$t_dir/$2" "$t_dir/$3" "$t_seed" "$rounds" || fail "$1: mmap_dirty, seed $t_seed"
    fi
    same_tree "$1, afterwards" "$t_dir/$2" "$t_dir/$3"
    same_tree "$1, the origin afterwards" "$t_origin" "$t_dir/$3" nodirtime
    within 60 rm -rf "$t_dir/$2/d"
}

if mkdir "$t_dir/none" && "$HEARTHFS" mount "$t_origin" "$t_dir/none" -o "name=$t_seg,cache=shared,locks=none" 2>"$t_dir/err"; then
    fail "cache=shared and locks=none were taken together"
fi
grep -q locks=none "$t_dir/err" || fail "the refusal does not say why: $(cat "$t_dir/err")"

mount_member A cache=kernel
mount_member B cache=shared
mkdir "$t_dir/A/d"
within 60 "$direct_map" "$t_dir/B/d" "$t_dir/B/d" 1 1 >"$t_dir/probe.out"
if (($? == 77)); then
    maps=0
    say "$(cat "$t_dir/probe.out"): without mappings"
fi
if ((maps)); then
    within 300 "$direct_map" "$t_dir/B/d" "$t_dir/B/d" "$t_seed" "$rounds" || fail "direct_map on B alone, seed $t_seed"
fi
hammer "A kernel, B shared" A B
hammer "B shared, A kernel" B A

# set-id bits go with the first write of somebody without privilege, for stat() and execve()
for m in A B; do
    cp /bin/id "$t_dir/$m/setid" && chmod 6777 "$t_dir/$m/setid"
    [[ $(stat -c %a "$t_dir/$m/setid") == 6777 ]] || fail "$m: chmod 6777 gave $(stat -c %a "$t_dir/$m/setid")"
    within 20 setpriv --reuid 65534 --regid 65534 --clear-groups dd if=/dev/zero of="$t_dir/$m/setid" bs=1 count=1 seek=1M \
        conv=notrunc status=none || fail "$m: cannot write as nobody"
    for at in "$t_origin" "$t_dir/A" "$t_dir/B"; do
        [[ $(stat -c %a "$at/setid") == 777 ]] || fail "written on $m: mode at $at is $(stat -c %a "$at/setid"), should be 777"
    done
    [[ $(within 20 setpriv --reuid 65534 --regid 65534 --clear-groups "$t_dir/$m/setid" -u) == 65534 ]] ||
        fail "$m: execve() still knows the set-id bit"
    rm "$t_dir/$m/setid"
done

# one copy per host
big_mib=96
dd if=/dev/urandom of="$t_origin/big" bs=1M count=$big_mib status=none
sum=$(sha256sum <"$t_origin/big")
cached_kib() { awk '/^Cached:/ { print $2 }' /proc/meminfo; }
[[ $(within 120 sha256sum <"$t_dir/B/big") == "$sum" ]] || fail "B reads something else" # the segment has it now
before=$(cached_kib)
for i in 1 2; do [[ $(within 120 sha256sum <"$t_dir/B/big") == "$sum" ]] || fail "B reads something else"; done
grown=$(($(cached_kib) - before))
on_a=0 on_b=$(within 20 "$direct_map" cached "$t_dir/B/big") || fail "cachestat"
within 120 sha256sum "$t_dir/A/big" >/dev/null
on_a=$(within 20 "$direct_map" cached "$t_dir/A/big")
say "big file of $big_mib MiB: pages cached by the kernel on B (shared) $on_b, on A (kernel) $on_a; Cached grew by $grown KiB over B's reads"
if ((on_b > 0)); then fail "the kernel of B keeps $on_b pages of a file that was only read"; fi
if ((on_b == 0 && on_a < big_mib * 200)); then fail "the figure of A is no witness"; fi
if ((on_b < 0 && grown > big_mib * 1024 / 2)); then fail "Cached grew by $grown KiB"; fi
reads=$(origin_read_bytes)
within 120 sha256sum "$t_dir/B/big" >/dev/null
[[ $(origin_read_bytes) == "$reads" ]] || fail "B read from the origin again"
rm "$t_dir/A/big"

umount_member A
mount_member A cache=shared
hammer "both shared" A B
check_segment
umount_member A
umount_member B
