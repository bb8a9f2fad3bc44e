#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Goal:   the file-system stressors of stress-ng run clean on two mounts of one tree at the same time.
# Method: each for a moment, one instance on each mount, with --verify. The same stressors on the origin's own file system tell what fails there, too.
# timeout: 900
T_SIZE=2G # chdir holds 8,192 directories open on each mount: nodes that are open cannot leave the segment
T_LIMIT=800
. "$(dirname "$0")/../fs/lib.sh"
need stress-ng
seconds=$(pick 1 20)
# Not: those that need a block device or a file system of their own, load modules, or stop the machine.
stressors=(access acl chattr chdir chmod chown copy-file dentry dir dirdeep dirmany dup fallocate fcntl fiemap file-ioctl filename flock fpunch fsize fstat
    getdent handle hdd inode-flags inotify io iomix lease link locka lockf lockofd metamix mknod mmap mmapaddr mmapfork mmapmany msync open pidfd readahead rename
    revio seek sendfile splice symlink sync-file tee touch unlink utime verity xattr)

mount_member A
mount_member B
known=$(stress-ng --stressors 2>/dev/null)
failed=() ran=0
for s in "${stressors[@]}"; do
    [[ " $known " == *" $s "* ]] || continue
    pids=()
    for m in A B; do
        within $((seconds * 3 + 60)) stress-ng --temp-path "$t_dir/$m" --"$s" 1 -t "$seconds" --verify --no-rand-seed -q >"$t_dir/$s.$m" 2>&1 &
        pids+=($!)
    done
    bad=0
    for pid in "${pids[@]}"; do wait "$pid" || { rc=$?; ((rc == 3 || rc == 4)) || bad=$rc; }; done # 3, 4: no resources, not implemented here
    ran=$((ran + 1))
    ((bad)) || continue
    mkdir -p "$t_dir/plain"
    if stress-ng --temp-path "$t_dir/plain" --"$s" 2 -t "$seconds" --verify --no-rand-seed -q >/dev/null 2>&1; then
        failed+=("$s")
        tail -n 5 "$t_dir/$s.A" "$t_dir/$s.B" >&2
    else
        say "$s fails on the plain file system as well"
    fi
done
say "$ran stressors"
((ran > 30)) || fail "stress-ng here knows only $ran of them"
((${#failed[@]} == 0)) || fail "failed: ${failed[*]}"
check_segment
umount_member A
umount_member B
