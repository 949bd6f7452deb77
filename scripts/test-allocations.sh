#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Let every single allocation of a chunk's step fail: the tests of which ctest runs a sample, shared by as many
# processes as there are processors. 80 minutes of processor time.
#
# usage: test-allocations.sh [PROGRAM [SHARES]]    default: build/cpu/bin/flashvsr_unit_pipeline, 28
set -euo pipefail
. "$(dirname "$0")/lib.sh"

program=${1:-$root/build/cpu/bin/flashvsr_unit_pipeline}
shares=${2:-28}
logs=$(mktemp --directory)
trap 'rm -rf "$logs"' EXIT
export OMP_NUM_THREADS=1

# shellcheck disable=SC2016 # the inner shell expands them
seq 0 $((shares - 1)) | xargs --max-procs="$jobs" --replace={} bash -c \
    'FLASHVSR_TEST_EVERY_ALLOCATION={}/$1 "$2" --gtest_filter="Faults.*Alloc*:Faults.*Memory*" >"$3/{}" 2>&1 ||
    echo {} >>"$3/failed"' - "$shares" "$program" "$logs"
if [[ -e $logs/failed ]]; then
    while read -r share; do
        say "share $share:"
        sed -n '/Failure$/,/^$/p' "$logs/$share"
    done <"$logs/failed"
    die "after an allocation that failed not all was as it should be"
fi

# Of each place, in all shares together, most failures have to come out.
cat "$logs"/* | awk '
    /failures came out: / {
        place = substr($0, index($0, ": ") + 2)
        failed[place] += $1
        tried[place] += $3
    }
    END {
        for (place in tried) {
            printf "%d of %d failures came out: %s\n", failed[place], tried[place], place
            if (failed[place] * 10 < tried[place] * 7)
                few = 1
        }
        exit few || !length(tried)
    }' || die "too few failures came out"
say "every allocation failed once, in $shares shares"
