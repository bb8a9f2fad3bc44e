#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 600
# Goal:   every operation that a program meets on the origin's file system does the same on a mount, and is seen the same on another.
# Method: the program of posix*.c acts and observes in a plain directory next to the origin, on one mount, and across two (acts on A, observes on B); the
#         transcripts are compared line by line, but for what deliberate.txt names; read-only trees likewise.
T_SIZE=256M
T_LIMIT=500
. "$(dirname "$0")/../fs/lib.sh"
here=$(cd "$(dirname "$0")" && pwd)
list=$here/deliberate.txt
man=$t_root/docs/man/hearthfs-coherence.7.scd

program=${HEARTHFS_TEST_BUILD:-$t_dir/bin}/posix
if [[ ! -x $program || -n $(find "$here" "$t_root/tests/fs/helpers" -name '*.[ch]' -newer "$program") ]]; then
    mkdir -p "${program%/*}"
    "${CC:-cc}" -std=gnu17 -D_GNU_SOURCE -O1 -g -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -I"$t_root/tests/fs/helpers" \
        -pthread -o "$program.$$" "$here"/*.c || fail "cannot build the program"
    mv "$program.$$" "$program"
fi

# run VIEW ACT OBSERVE [AREA...]: the transcript is $t_dir/VIEW.out
run() {
    local view=$1 act=$2 observe=$3
    shift 3
    mkdir -p "$act" 2>/dev/null
    within 240 "$program" "$act" "$observe" "$@" >"$t_dir/$view.out" 2>"$t_dir/$view.err"
    say "$view: $(tail -n 1 "$t_dir/$view.err")"
}
# The plain directory is the measure: what POSIX leaves no choice about must hold there.
measure() {
    run "$@"
    ! grep -E ': NO|NO, | ended ' "$t_dir/$1.out" || fail "a plain directory is not as it must be: this machine is no measure"
    [[ $(wc -l <"$t_dir/$1.out") -gt 30 ]] || fail "a plain directory: no transcript"
}

# compare VIEW MEASURE: fails on a difference that is not deliberate, and on a deliberate one that is none.
compare() {
    local view=$1 plain=$2 views start name left=$t_dir/left right=$t_dir/right
    cp "$t_dir/$plain.out" "$left"
    cp "$t_dir/$view.out" "$right"
    while IFS='|' read -r views start name; do
        [[ $views == \#* || ",${views// /}," != *",${view%%-*},"* ]] && continue
        start=${start# } start=${start% } name=${name# }
        grep -qF "_$name._" "$man" || fail "deliberate.txt: no paragraph _$name._ in ${man##*/}"
        grep -q "^${start%% *}" "$left" || continue # not among the areas of this run
        awk -v s="$start" 'index($0, s) == 1' "$left" >"$left.some"
        awk -v s="$start" 'index($0, s) == 1' "$right" >"$right.some"
        [[ -s $left.some ]] || fail "deliberate.txt: no line begins with \"$start\""
        ! cmp -s "$left.some" "$right.some" || fail "deliberate.txt: \"$start\" does not differ ($view): take it out, and out of ${man##*/}"
        awk -v s="$start" 'index($0, s) != 1' "$left" >"$left.rest" && mv "$left.rest" "$left"
        awk -v s="$start" 'index($0, s) != 1' "$right" >"$right.rest" && mv "$right.rest" "$right"
    done <"$list"
    if ! cmp -s "$left" "$right"; then
        diff "$left" "$right" | cut -c 1-220 | head -n 40 >&2
        cat "$t_dir/$view.err" >&2
        fail "$view differs from $plain in $(diff "$left" "$right" | grep -c '^>') lines"
    fi
    say "$view: as $plain, $(wc -l <"$left") lines"
}

mount_member A
mount_member B
measure plain "$t_dir/plain" "$t_dir/plain"
run one "$t_dir/A/one" "$t_dir/A/one"
compare one plain
run across "$t_dir/A/across" "$t_dir/B/across"
compare across plain
check_segment

# Read-only: a bind mount of the plain tree against members with -o ro, one that had the tree cached before, and one that is new.
run prepare-plain "$t_dir/plain/ro" "$t_dir/plain/ro" readonly.prepare
run prepare "$t_dir/A/ro" "$t_dir/B/ro" readonly.prepare
mkdir "$t_dir/plain/ro/readonly.calls" "$t_dir/A/ro/readonly.calls" "$t_dir/bound"
mount --bind "$t_dir/plain/ro" "$t_dir/bound" && mount -o remount,bind,ro "$t_dir/bound" || fail "no read-only bind mount"
umount_member B
mount_member B ro
measure plain-ro "$t_dir/bound" "$t_dir/bound" readonly.calls
run one-ro "$t_dir/B/ro" "$t_dir/B/ro" readonly.calls
compare one-ro plain-ro
umount_member B

# Access times as the options say: none with noatime, not of directories with nodiratime.
atime() { stat -c %X "$1"; }
stale() { touch -h -a -d @100 "$1"; }
for option in noatime nodiratime relatime strictatime; do
    mount_member B "$option"
    mkdir -p "$t_dir/A/at.$option"
    echo text >"$t_dir/A/at.$option/f"
    stale "$t_dir/A/at.$option/f"; stale "$t_dir/A/at.$option"
    cat "$t_dir/B/at.$option/f" >/dev/null
    ls "$t_dir/B/at.$option" >/dev/null
    moved_file() { (($(atime "$t_dir/A/at.$option/f") != 100)); }
    moved_dir() { (($(atime "$t_dir/A/at.$option") != 100)); }
    case $option in
    noatime) sleep 0.3; ! moved_file && ! moved_dir || fail "noatime: an access time has moved" ;;
    nodiratime) until_true 10 moved_file && ! moved_dir || fail "nodiratime: file $(atime "$t_dir/A/at.$option/f"), directory $(atime "$t_dir/A/at.$option")" ;;
    *) until_true 10 moved_file && until_true 10 moved_dir || fail "$option: file $(atime "$t_dir/A/at.$option/f"), directory $(atime "$t_dir/A/at.$option")" ;;
    esac
    umount_member B
done
say "access times: as the options say"
within 120 rm -rf "$t_dir"/A/* || fail "rm -rf of it all"
check_segment
umount_member A
umount "$t_dir/bound"
