#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Goal:   SQLite, with its rollback journal, is right when two members write to one database at once.
# Method: two writers on each mount increment one counter and one of their own, in one transaction each, for a while; the sums are exact and integrity_check is ok on both mounts
#         and at the origin. The database locks bytes of its file by fcntl(2).
# timeout: 900
T_LIMIT=600
. "$(dirname "$0")/../fs/lib.sh"
need sqlite3
seconds=$(pick 60 600)

mount_member A
mount_member B
within 20 sqlite3 "$t_dir/A/db" 'PRAGMA journal_mode=DELETE; CREATE TABLE total(n); INSERT INTO total VALUES(0);
    CREATE TABLE own(id PRIMARY KEY, n); INSERT INTO own VALUES(1,0),(2,0),(3,0),(4,0);' >/dev/null || fail "cannot make the database"

# Each feeds one sqlite3, waits for the word of each transaction, and leaves their number in count.ID.
writers=()
for id in 1 2 3 4; do
    at=$t_dir/$([[ $((id % 2)) == 0 ]] && echo A || echo B)
    (
        coproc reply { exec sqlite3 -batch "$at/db" 2>"$t_dir/err.$id"; }
        printf '.bail on\n.timeout 120000\n' >&"${reply[1]}"
        end=$((SECONDS + seconds)) n=0
        while ((SECONDS < end)); do
            echo "BEGIN IMMEDIATE; UPDATE total SET n = n + 1; UPDATE own SET n = n + 1 WHERE id = $id; COMMIT; SELECT 'done';" >&"${reply[1]}"
            IFS= read -r -t 150 answer <&"${reply[0]}" || break
            [[ $answer == 'done' ]] || break
            n=$((n + 1))
        done
        echo "$n" >"$t_dir/count.$id"
    ) &
    writers+=($!)
done
for pid in "${writers[@]}"; do wait "$pid"; done
sum=0
for id in 1 2 3 4; do
    [[ ! -s $t_dir/err.$id ]] || fail "writer $id: $(<"$t_dir/err.$id")"
    sum=$((sum + $(<"$t_dir/count.$id")))
    for at in "$t_dir/A" "$t_dir/B" "$t_origin"; do
        got=$(within 30 sqlite3 "$at/db" "SELECT n FROM own WHERE id = $id")
        [[ $got == "$(<"$t_dir/count.$id")" ]] || fail "counter $id is $got at $at, $(<"$t_dir/count.$id") transactions were committed"
    done
done
for at in "$t_dir/A" "$t_dir/B" "$t_origin"; do
    got=$(within 30 sqlite3 "$at/db" 'SELECT n FROM total; PRAGMA integrity_check;' | tr '\n' ' ')
    [[ $got == "$sum ok " ]] || fail "$at: $got, want $sum ok"
done
((sum > 100)) || fail "only $sum transactions"
say "$sum transactions in $seconds s: $(cat "$t_dir"/count.* | tr '\n' ' ')"
check_segment
umount_member A
umount_member B
