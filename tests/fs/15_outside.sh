#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Goal:   what is changed in the origin's directory itself is seen at the next open, on both mounts, kernels included; changes
#         through the mounts are never taken for such; revalidate=never and =SECONDS do what they say.
# Method: A and B read and list everything first, so that both kernels hold it; then each kind of change is made in the origin, and
#         read through both mounts by open(2). helpers/coherence.c with revalidation on must leave outside_changes at 0.
T_SIZE=256M
T_LIMIT=300
. "$(dirname "$0")/lib.sh"
coherence=$(helper coherence) || exit
append=$(helper append) || exit
rounds=$(pick 40 1000)

# Both kernels hold all of it: data, attributes, names, the listings.
warm() {
    local m
    for m in A B; do
        within 60 find "$t_dir/$m" -type f -exec cat {} + >/dev/null
        within 60 ls -lR "$t_dir/$m" >/dev/null
    done
}
# the content seen by the next open of FILE on both mounts
expect() { # WHAT FILE CONTENT
    local m got
    for m in A B; do
        got=$(within 20 cat "$t_dir/$m/$2" 2>&1)
        [[ $got == "$3" ]] || fail "$1: $m reads $2 as '${got:0:60}', should be '${3:0:60}'"
    done
}
changes() { status .counters.outside_changes; }

o=$t_origin
mkdir -p "$o/d/deep/er" "$o/x"
for f in write trunc grow replace links mode times same nested; do echo "old $f" >"$o/d/$f"; done
echo deep >"$o/d/deep/er/f"
head -c 3000000 /dev/urandom >"$o/d/big"
ln "$o/d/links" "$o/d/links2"
mount_member A
mount_member B
warm
before=$(changes)
if ((before != 0)); then fail "$before outside changes before there was one"; fi

for ((i = 1; i <= rounds; i++)); do
    echo "new $i" >"$o/d/write";                                 expect "written over" d/write "new $i"
    : >"$o/d/trunc";                                             expect "truncated to nothing" d/trunc ""
    echo "again $i" >>"$o/d/trunc";                              expect "written after truncation" d/trunc "again $i"
    echo "more $i" >>"$o/d/grow"
    expect "appended" d/grow "$(cat "$o/d/grow")"
    echo "replaced $i" >"$o/x/tmp"; mv "$o/x/tmp" "$o/d/replace"; expect "replaced by rename" d/replace "replaced $i"
    echo "one name of two $i" >"$o/x/tmp"; mv "$o/x/tmp" "$o/d/links"
    expect "replaced, the old file has another name" d/links "one name of two $i"
    expect "the other name" d/links2 "old links"
    # the same size, in place: only the times tell
    printf 'same %04d\n' $i | dd of="$o/d/same" conv=notrunc status=none
    expect "same size" d/same "$(cat "$o/d/same")"
done
say "$rounds rounds: write, truncate, append, replace by rename: seen at the next open"

# a page in the middle of a big file
printf 'in the middle' | dd of="$o/d/big" bs=1 seek=1500000 conv=notrunc status=none
for m in A B; do within 20 cmp "$o/d/big" "$t_dir/$m/d/big" || fail "$m: the big file differs"; done

# attributes, seen after the next open
chmod 600 "$o/d/mode"; touch -d '2001-02-03 04:05:06' "$o/d/times"
expect "chmod" d/mode "old mode"; expect "touch" d/times "old times"
for m in A B; do
    [[ $(stat -c %a "$t_dir/$m/d/mode") == 600 ]] || fail "$m: mode is $(stat -c %a "$t_dir/$m/d/mode")"
    [[ $(stat -c %Y "$t_dir/$m/d/times") == $(stat -c %Y "$o/d/times") ]] || fail "$m: times differ"
done

# names
rm "$o/d/mode"
for m in A B; do
    if within 20 cat "$t_dir/$m/d/mode" 2>/dev/null; then fail "$m: a removed file can still be opened by name"; fi
    [[ ! -e $t_dir/$m/d/mode ]] || fail "$m: a removed file still has a name"
    if ls "$t_dir/$m/d" | grep -qx mode; then fail "$m: a removed file is still listed"; fi
done
for m in A B; do [[ ! -e $t_dir/$m/d/made ]] || fail "$m: a file before it was made"; done # now known to be missing
echo made >"$o/d/made"
within 20 cat "$t_dir/A/d/write" "$t_dir/B/d/write" >/dev/null # any open below that directory looks at it
expect "made, after it was known to be missing" d/made made
for m in A B; do ls "$t_dir/$m/d" | grep -qx made || fail "$m: a new file is not listed"; done

# directories: renamed away, and another put in its place
mkdir -p "$o/d/new/er"; echo "other deep" >"$o/d/new/er/f"
warm
mv "$o/d/deep" "$o/d/away"; mv "$o/d/new" "$o/d/deep"
expect "below a directory that was replaced" d/deep/er/f "other deep"
expect "below the one renamed" d/away/er/f deep
rm -r "$o/d/away"
for m in A B; do
    if within 20 cat "$t_dir/$m/d/away/er/f" 2>/dev/null; then fail "$m: a file of a removed directory can be opened by name"; fi
done

# an open file that was removed stays what it is, and can be opened anew through /proc
exec 7<"$t_dir/A/d/nested"
rm "$o/d/nested"
[[ $(within 20 cat <&7) == "old nested" ]] || fail "a removed file that was open cannot be read"
[[ $(within 20 cat /proc/self/fd/7 7<&7) == "old nested" ]] || fail "a removed file cannot be opened through /proc/self/fd"
exec 7<&-
seen=$(changes)
if ((seen <= before)); then fail "outside_changes did not move"; fi
say "$seen changes from outside were noticed"

# replaced all the time: each open finds one whole file or another, and none fails
for i in 1 2; do printf 'version %064d\n' $i >"$o/x/v$i"; done
cp "$o/x/v1" "$o/d/flips"
within 120 bash -c 'while [[ ! -e $1/stop ]]; do for i in 1 2; do cp "$1/x/v$i" "$1/x/next" && mv "$1/x/next" "$1/d/flips"; done; done' - "$o" & flipper=$!
for m in A B A B; do
    within 60 bash -c 'for ((i = 0; i < $2; i++)); do read -r line <"$1/d/flips" && [[ $line == "version "* && ${#line} == 72 ]] || { echo "open $i: ${line-}"; exit 1; }; done' - \
        "$t_dir/$m" "$(pick 1500 20000)" >"$t_dir/flips.out" 2>&1 || fail "$m: a file that is replaced all the time: $(cat "$t_dir/flips.out")"
done
touch "$o/stop"; wait $flipper; rm -f "$o/stop" "$o"/x/*

# what a member changes must not hide what was changed before it, here without an open between
exec 7<>"$t_dir/A/d/big"
within 20 cat "$t_dir/A/d/big" "$t_dir/B/d/big" >/dev/null
printf 'near the end' | dd of="$o/d/big" bs=1 seek=2900000 conv=notrunc status=none
printf 'at the start' >&7
exec 7<&-
for m in A B; do within 20 cmp "$o/d/big" "$t_dir/$m/d/big" || fail "$m: a change from outside was hidden by a write"; done
echo hidden >"$o/d/hidden"; echo own >"$t_dir/A/d/own"
expect "made from outside, then a name was made through A" d/hidden hidden
echo one >"$t_dir/A/d/seen"; warm
rm "$o/d/seen"; echo two >"$o/d/seen"; mv "$t_dir/A/d/own" "$t_dir/A/d/own2"
expect "replaced from outside, then a rename through A" d/seen two

# own changes are none from outside
before=$(changes)
mkdir "$t_dir/A/own"
for mode in data size attr names; do
    within 300 "$coherence" $mode "$t_dir/A/own" "$t_dir/B/own" "$t_seed" "$(pick 1000 20000)" || fail "$mode, seed $t_seed"
done
within 300 "$append" "$t_dir/A/own" "$t_dir/B/own" "$t_seed" 500 || fail "append, seed $t_seed"
[[ $(changes) == "$before" ]] || fail "$(($(changes) - before)) changes of members were taken for changes from outside"
same_tree "A and B" "$t_dir/A" "$t_dir/B"
same_tree "the origin and B" "$o" "$t_dir/B" nodirtime

# the choices
umount_member B
mount_member B revalidate=never
umount_member A
within 20 cat "$t_dir/B/d/write" >/dev/null
echo unseen >"$o/d/write"
[[ $(within 20 cat "$t_dir/B/d/write") == "new $rounds" ]] || fail "revalidate=never looked"
mount_member A revalidate=3600
within 20 cat "$t_dir/A/d/grow" >/dev/null
echo unseen >"$o/d/grow"
if [[ $(within 20 cat "$t_dir/A/d/grow") == unseen ]]; then fail "revalidate=3600 looked again at once"; fi
umount_member A
mount_member A revalidate=1
within 20 cat "$t_dir/A/d/grow" >/dev/null
echo "seen later" >"$o/d/grow"
seen_later() { [[ $(within 20 cat "$t_dir/A/d/grow") == "seen later" ]]; }
until_true 10 seen_later || fail "revalidate=1 does not see it after 10 s"
[[ $(within 20 cat "$t_dir/B/d/grow") == "seen later" ]] || fail "B was not recalled when A saw it"
check_segment
umount_member A
umount_member B
