# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2154,SC2015
#
# ui.sh - sourced by ./run and ./check: progress on standard error, one line per step, and errors that say what to do.
# On a terminal the line of the running step is live; elsewhere a step is one plain line when it begins and one when it
# has ended. What a step prints goes to a log, and the log's tail is shown when it fails.

ui_name=${0##*/}
ui_log_dir=$root/build/logs

# Whole seconds and tenths since $1 (taken from EPOCHREALTIME).
ui_seconds_since() {
    local tenths=$(((${EPOCHREALTIME/[^0-9]/} - ${1/[^0-9]/}) / 100000))
    printf '%d.%d' $((tenths / 10)) $((tenths % 10))
}

ui_note() { printf '%s\n' "$*" >&2; }

# One line, then the end.
die() {
    printf './%s: %s\n' "$ui_name" "$*" >&2
    exit 1
}

# The live line of a step, until it is killed or the script is gone. In the background, so that an interrupt reaches the
# step itself.
_ui_live() {
    local text=$1 log=$2 began=$3 script=$4 last
    while kill -0 "$script" 2>/dev/null; do
        last=$(tail -c 300 "$log" 2>/dev/null | tr '\r' '\n' | tr -cd '\n[:print:]' | grep -v '^ *$' | tail -n 1)
        printf '\r\033[K%.100s ... %s s  \033[2m%.60s\033[0m' "$text" "$(ui_seconds_since "$began")" "$last" >&2
        sleep 0.2
    done
}

# ui_step TEXT LOG COMMAND...: runs COMMAND with its output in LOG. Returns COMMAND's status; prints the end of the log if
# that is not 0. An interrupt of the command is one of the script.
ui_step() {
    local text=$1 log=$ui_log_dir/$2 began=$EPOCHREALTIME rc=0 live=
    shift 2
    mkdir -p "$ui_log_dir" && : >"$log" || die "cannot write $log"
    if [[ -t 2 ]]; then
        _ui_live "$text" "$log" "$began" $$ &
        live=$!
    else
        printf '%s ...\n' "$text" >&2
    fi
    "$@" >"$log" 2>&1 </dev/null || rc=$?
    if [[ -n $live ]]; then
        kill "$live" 2>/dev/null
        wait "$live" 2>/dev/null
        printf '\r\033[K' >&2
    fi
    if ((rc == 130)); then
        printf '%s: interrupted\n' "$text" >&2
        exit 130
    elif ((rc == 0)); then
        printf '%s: done in %s s\n' "$text" "$(ui_seconds_since "$began")" >&2
    else
        printf '%s: failed after %s s; the end of %s:\n' "$text" "$(ui_seconds_since "$began")" "${log#"$root"/}" >&2
        tail -n "${UI_TAIL:-15}" "$log" | sed 's/^/    /' >&2
    fi
    return "$rc"
}
