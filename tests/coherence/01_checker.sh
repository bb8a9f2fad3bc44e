#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Goal:   the checker of histories refuses what has no legal order, and nothing else.
# Method: history self: histories by hand with their verdicts; random ones judged by trying all orders as well; violations
#         planted among thousands of operations are found and shrunk.
T_LIMIT=200
. "$(dirname "$0")/../fs/lib.sh"
history=$(helper history) || exit

within 180 "$history" self "$t_seed" "$(pick 100000 2000000)" || fail "seed $t_seed"
