# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2154,SC2015
#
# tests.sh - sourced by ./check: which tests there are, what must be built for them, how each kind is run and counted.
#
#   tidy/run         tests/tidy/run: rules of the house which a script can check
#   unit/NAME        tests/unit/NAME.c, a Criterion program, built with ASan and UBSan; each of its cases counts
#   tsan/NAME        the same under ThreadSanitizer, for those that tests/unit/tsan.list names
#   clang/build      everything compiles without a warning with clang as well; skipped where there is no clang
#   model/run        tests/model/run: the Promela models
#   fs|posix|coherence|apps|crash|vm/NAME the executable tests/FOLDER/NAME.sh (not lib*.sh); exit code 0 passed, 77 skipped, all else failed
#
# A line "# timeout: SECONDS" in a script changes its time limit.

TESTS_MOUNT_FOLDERS=(fs posix coherence apps crash vm)
TIMEOUT_UNIT_S=300 TIMEOUT_SCRIPT_S=600 TIMEOUT_SOAK_S=14400
passed=0 failed=0 skipped=0
declare -A build_failed=()

# Aslr wider than the sanitizers of older compilers expect makes them fail at start; where it can be had, do without it.
no_aslr=()
setarch -R true 2>/dev/null && no_aslr=(setarch -R)

export ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1:check_initialization_order=1
export UBSAN_OPTIONS=print_stacktrace=1
export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1:handle_segv=0:handle_sigbus=0:die_after_fork=0

tests_all() {
    local file name pattern folder
    cd "$root/tests" || return
    [[ -x tidy/run ]] && echo tidy/run
    for file in unit/test_*.c; do
        [[ -e $file ]] && echo "${file%.c}"
    done
    for file in unit/test_*.c; do
        name=$(basename "$file" .c)
        while read -r pattern; do
            # shellcheck disable=SC2053
            if [[ -n $pattern && $pattern != \#* && $name == $pattern ]]; then
                [[ -e $file ]] && echo "tsan/$name"
                break
            fi
        done <unit/tsan.list
    done
    echo clang/build
    [[ -x model/run ]] && echo model/run
    for folder in "${TESTS_MOUNT_FOLDERS[@]}"; do
        for file in "$folder"/*.sh; do
            [[ -x $file && $file != */lib*.sh ]] && echo "${file%.sh}"
        done
    done
}

# Prints the tests that match any of the patterns given; all, if none is.
tests_select() {
    local test pattern
    while read -r test; do
        (($# == 0)) && echo "$test"
        for pattern in "$@"; do
            # shellcheck disable=SC2053
            if [[ $pattern == *[*?]* && $test == $pattern ]] || [[ $test == *"$pattern"* ]]; then
                echo "$test"
                break
            fi
        done
    done < <(tests_all)
}

# test_end RESULT TEST SECONDS [NOTE]: one line; RESULT is pass, FAIL or skip.
test_end() {
    printf '%s %8s s  %s%s\n' "$1" "$3" "$2" "${4:+  ($4)}"
}

log_tail() {
    printf '    the end of %s:\n' "${1#"$root"/}"
    tail -n "${UI_TAIL:-40}" "$1" | cut -c 1-240 | sed 's/^/    | /'
}

_tests_build_one() {
    local preset=$1
    build_preset "$@" && return 0
    build_failed[$preset]=1
    failed=$((failed + 1))
    test_end FAIL "build/$preset" -
}

# Builds what the chosen tests need. A build that fails is one failed test, and its tests are not run.
tests_build() {
    local chosen=" ${tests[*]}"
    if [[ $chosen == *" fs/"* || $chosen == *" posix/"* || $chosen == *" coherence/"* || $chosen == *" apps/"* || $chosen == *" crash/"* || $chosen == *" vm/"* ]]; then
        _tests_build_one "$mount_preset" hearthfs test_helpers
    fi
    [[ $chosen == *" coherence/"* ]] && _tests_build_one faulty hearthfs
    [[ $chosen == *" unit/"* ]] && _tests_build_one dev all
    [[ $chosen == *" tsan/"* ]] && _tests_build_one tsan all
    return 0
}

# unit_count TEST TAP LOG RC SECONDS: counts the cases of one Criterion program.
unit_count() {
    local test=$1 tap=$2 log=$3 rc=$4 seconds=$5 ok=0 bad=0 skip=0 note line
    ok=$(grep -c '^ok ' "$tap")
    skip=$(grep -c '^ok .*# SKIP' "$tap")
    bad=$(grep -c '^not ok ' "$tap")
    ok=$((ok - skip))
    note="$ok passed"
    ((bad)) && note+=", $bad failed"
    ((skip)) && note+=", $skip skipped"
    # Criterion does not notice a leak or a race that is reported when a test's process ends, nor its own death.
    if ((bad == 0)); then
        if grep -qE 'ERROR: (Address|Leak)Sanitizer|WARNING: ThreadSanitizer|: runtime error: ' "$log"; then
            bad=1 note+=", and a sanitizer's report in the log"
        elif ((rc == 124 || rc == 137)); then
            bad=1 note+=", and it did not end in time"
        elif ((rc != 0)); then
            bad=1 note+=", and it ended with exit code $rc"
        elif ((ok + skip == 0)); then
            bad=1 note+=", it has no tests"
        fi
    fi
    passed=$((passed + ok)) failed=$((failed + bad)) skipped=$((skipped + skip))
    if ((bad)); then
        test_end FAIL "$test" "$seconds" "$note"
        while read -r line; do printf '    %s\n' "$line"; done < <(grep '^not ok ' "$tap")
        log_tail "$log"
    else
        test_end pass "$test" "$seconds" "$note"
    fi
}

# run_limited LIMIT_S LOG COMMAND...: runs COMMAND with a time limit, its output in LOG, in a process group of its own that dies when ./check is
# interrupted. In the background, because bash runs a trap at once only while it waits; hence signals that are reset, which
# bash makes a command in the background ignore.
run_limited() {
    local limit=$1 log=$2 rc=0
    shift 2
    (
        exec {check_lock}>&- # a daemon that a test leaves behind must not hold it
        exec env --default-signal=INT,QUIT timeout --kill-after=20 "$limit" "$@" >"$log" 2>&1
    ) &
    running=$!
    wait "$running" || rc=$?
    running=''
    return "$rc"
}

running='' scratch=''
interrupted() {
    if [[ -n $running ]]; then
        kill "$running" 2>/dev/null
        wait "$running"
    fi
    [[ -z $scratch ]] || scratch_unmount "$scratch" >/dev/null
    printf '%d passed, %d failed, %d skipped, then interrupted\n' "$passed" "$failed" "$skipped"
    exit 130
}
trap interrupted INT TERM

# What tests that crashed have left behind: the first number in the name is the process that made it.
unit_leftovers_remove() {
    local file
    for file in /dev/shm/hearthfs-test-* /dev/shm/hearthfs/hearthfs-test-* "${TMPDIR:-/tmp}"/hearthfs-test-*; do
        if [[ -e $file && ${file##*/} =~ ^[^0-9]*([0-9]+) && ! -e /proc/${BASH_REMATCH[1]} ]]; then
            rm -rf --one-file-system "$file"
        fi
    done
}

unit_run() {
    local test=$1 preset=$2 log=$3 began=$EPOCHREALTIME rc=0 limit=$TIMEOUT_UNIT_S tap=$3.tap
    local program=$root/build/$preset/tests/unit/${test#*/}
    [[ -z ${HEARTHFS_SOAK:-} ]] || limit=$TIMEOUT_SOAK_S
    : >"$tap"
    run_limited "$limit" "$log" "${no_aslr[@]}" env LSAN_OPTIONS="suppressions=$root/tests/unit/lsan.supp:print_suppressions=0" \
        "$program" --tap="$tap" || rc=$?
    unit_count "$test" "$tap" "$log" "$rc" "$(ui_seconds_since "$began")"
    unit_leftovers_remove
}

# Unmounts what a test left mounted in its scratch folder; prints how many mounts that were.
scratch_unmount() {
    local count=0 point
    while read -r point; do
        umount -l "$point" 2>/dev/null && count=$((count + 1))
    done < <(awk '{ print $5 }' /proc/self/mountinfo | grep -F "$1/" | sort -r)
    echo "$count"
}

# script_run TEST PROGRAM LOG: runs PROGRAM in a scratch folder of its own, which is its TMPDIR.
script_run() {
    local test=$1 program=$2 log=$3 began=$EPOCHREALTIME rc=0 limit left note='' seconds
    scratch=$root/build/tmp/${test//\//-}
    limit=$(sed -n 's/^# timeout: *\([0-9][0-9]*\)$/\1/p' "$program" | head -n 1)
    limit=${limit:-$TIMEOUT_SCRIPT_S}
    [[ -z ${HEARTHFS_SOAK:-} ]] || limit=$TIMEOUT_SOAK_S
    scratch_unmount "$scratch" >/dev/null
    rm -rf --one-file-system "$scratch"
    mkdir -p "$scratch"
    cd "$scratch" || return
    run_limited "$limit" "$log" env \
        HEARTHFS="$root/build/$mount_preset/cli/hearthfs" \
        HEARTHFS_TEST_BUILD="$root/build/$mount_preset/tests/${test%%/*}" \
        HEARTHFS_KEEP="$keep" HEARTHFS_ROOT="$root" HEARTHFS_TMP="$scratch" TMPDIR="$scratch" \
        ASAN_OPTIONS="$ASAN_OPTIONS:log_path=$scratch/sanitizer" \
        UBSAN_OPTIONS="$UBSAN_OPTIONS:log_path=$scratch/sanitizer" \
        TSAN_OPTIONS="$TSAN_OPTIONS:log_path=$scratch/sanitizer" \
        "$program" || rc=$?
    cd "$root" || return
    seconds=$(ui_seconds_since "$began")

    left=$(scratch_unmount "$scratch")
    if compgen -G "$scratch/sanitizer.*" >/dev/null; then
        cat "$scratch"/sanitizer.* >>"$log"
        rc=1 note="a sanitizer's report in the log"
    elif ((rc == 124 || rc == 137)); then
        note="did not end within $limit s"
    elif ((rc == 0 && left > 0)); then
        rc=1 note="left $left mounts behind"
    elif ((rc != 0 && rc != 77)); then
        note="exit code $rc"
    fi
    ((keep)) || rm -rf --one-file-system "$scratch"
    case $rc in
    0) passed=$((passed + 1)) && test_end pass "$test" "$seconds" ;;
    77) skipped=$((skipped + 1)) && test_end skip "$test" "$seconds" "$(tail -n 1 "$log" | cut -c 1-120)" ;;
    *) failed=$((failed + 1)) && test_end FAIL "$test" "$seconds" "$note" && log_tail "$log" ;;
    esac
}

clang_run() {
    local test=$1 log=$2 began=$EPOCHREALTIME
    if ! command -v clang >/dev/null; then
        skipped=$((skipped + 1))
        test_end skip "$test" 0.0 "no clang here"
        return
    fi
    build_lock
    if build_preset clang all test_helpers 2>/dev/null; then
        passed=$((passed + 1)) && test_end pass "$test" "$(ui_seconds_since "$began")"
    else
        failed=$((failed + 1)) && test_end FAIL "$test" "$(ui_seconds_since "$began")"
        log_tail "$ui_log_dir/build-clang.log"
    fi
    build_unlock
}

test_run() {
    local test=$1 log=$ui_log_dir/${1//\//-}.log
    case $test in
    unit/*) [[ -n ${build_failed[dev]:-} ]] || unit_run "$test" dev "$log" ;;
    tsan/*) [[ -n ${build_failed[tsan]:-} ]] || unit_run "$test" tsan "$log" ;;
    clang/*) clang_run "$test" "$log" ;;
    tidy/* | model/*) script_run "$test" "$root/tests/$test" "$log" ;;
    *) [[ -n ${build_failed[$mount_preset]:-} ]] || script_run "$test" "$root/tests/$test.sh" "$log" ;;
    esac
}
