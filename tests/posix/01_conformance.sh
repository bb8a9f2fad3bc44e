#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 600
# Goal:   every operation that a program meets on the origin's file system does the same on a mount, and is seen the same on another.
# Method: the program of posix*.c acts and observes in a plain directory next to the origin, on one mount, and across two (acts on A, observes on B); the
#         transcripts are compared line by line, but for what deliberate.txt names; read-only trees likewise.
T_SIZE=256M
T_LIMIT=500
. "$(dirname "$0")/../fs/lib.sh"
. "$(dirname "$0")/lib_posix.sh"

mount_member A relatime
mount_member B relatime
measure plain "$t_dir/plain" "$t_dir/plain"
run_posix one "$t_dir/A/one" "$t_dir/A/one"
compare one plain
run_posix across "$t_dir/A/across" "$t_dir/B/across"
compare across plain
check_segment

# Read-only: a bind mount of the plain tree against members with -o ro, one that had the tree cached before, and one that is new.
run_posix prepare-plain "$t_dir/plain/ro" "$t_dir/plain/ro" readonly.prepare
run_posix prepare "$t_dir/A/ro" "$t_dir/B/ro" readonly.prepare
mkdir "$t_dir/plain/ro/readonly.calls" "$t_dir/A/ro/readonly.calls" "$t_dir/bound"
mount --bind "$t_dir/plain/ro" "$t_dir/bound" && mount -o remount,bind,ro "$t_dir/bound" || fail "no read-only bind mount"
umount_member B
mount_member B ro
measure plain-ro "$t_dir/bound" "$t_dir/bound" readonly.calls
run_posix one-ro "$t_dir/B/ro" "$t_dir/B/ro" readonly.calls
compare one-ro plain-ro
umount_member B

# Access times as the options say: none with noatime, not of directories with nodiratime.
atime() { stat -c %X "$1"; }
stale() { touch -h -a -d @100 "$1"; }
[[ -n ${POSIX_NOATIME-} ]] || for option in noatime nodiratime relatime strictatime; do
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
