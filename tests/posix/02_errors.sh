#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 300
# Goal:   errors of the origin (ENOSPC, EDQUOT, and what comes only when pages are written back) reach the program that caused them, as they do there.
# Method: a small ext4 in a file, on a tmpfs that can be made full behind its back; the cases of area errors, in it plainly, then through mounts.
T_SIZE=64M
T_LIMIT=280
. "$(dirname "$0")/../fs/lib.sh"
. "$(dirname "$0")/lib_posix.sh"
need mkfs.ext4 losetup python3

t_cleanup() {
    umount "$t_dir/small" 2>/dev/null || umount -l "$t_dir/small" 2>/dev/null
    [[ -n ${loop-} ]] && losetup -d "$loop" 2>/dev/null
    umount "$t_dir/store" 2>/dev/null || umount -l "$t_dir/store" 2>/dev/null
}

# fresh STORE_SIZE: an ext4 of 32 MiB, with quotas where the kernel has them, on a store that may be smaller.
fresh() {
    t_cleanup
    quotas=(-O "^has_journal,quota" -E quotatype=usrquota,nodiscard)
    mkdir -p "$t_dir/store" "$t_dir/small"
    mount -t tmpfs -o "size=$1" none "$t_dir/store" || skip "no tmpfs can be mounted here"
    truncate -s 32M "$t_dir/store/image"
    for kind in quotas plain; do
        [[ $kind == quotas ]] || quotas=(-O ^has_journal -E nodiscard)
        mkfs.ext4 -q -F -N 2048 -m 0 "${quotas[@]}" "$t_dir/store/image" || skip "no mkfs.ext4 that can do this"
        loop=$(losetup --show -f "$t_dir/store/image") || skip "no loop device here"
        mount "$loop" "$t_dir/small" 2>/dev/null && break
        losetup -d "$loop"
    done
    mountpoint -q "$t_dir/small" || skip "this kernel cannot mount the small ext4"
    mkdir "$t_dir/small/tree"
    t_origin=$t_dir/small/tree
}

# ALICE of posix.h may have 1 MiB.
set_quota() {
    python3 - "$1" <<'END'
import ctypes, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
QCMD = (0x800008 << 8) | 0          # Q_SETQUOTA, USRQUOTA
QIF_BLIMITS = 1
quota = struct.pack("QQQQQQQQIxxxx", 1024, 1024, 0, 0, 0, 0, 0, 0, QIF_BLIMITS)
if libc.quotactl(ctypes.c_int(QCMD), sys.argv[1].encode(), 41001, quota) != 0:
    sys.exit(1)
END
}

export POSIX_STORE=$t_dir/store/fill
for part in full quota lost; do
    fresh 40M
    if [[ $part == quota ]] && ! set_quota "$loop"; then
        say "quota: skipped, this kernel has no quotas for ext4"
        continue
    fi
    measure "plain-$part" "$t_origin" "$t_origin" "errors.$part"
    for members in one across; do
        fresh 40M
        [[ $part != quota ]] || set_quota "$loop"
        mount_member A
        [[ $members == one ]] || mount_member B
        run_posix "$members-$part" "$t_dir/A" "$t_dir/$([[ $members == one ]] && echo A || echo B)" "errors.$part"
        compare "$members-$part" "plain-$part"
        check_segment
        umount_member A
        [[ $members == one ]] || umount_member B
        "$HEARTHFS" destroy "$t_seg" >/dev/null || fail "cannot destroy $t_seg"
    done
done
