#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Build and run the tests: all of them on the cpu preset, those labelled "leak" with the sanitizers, those
# labelled "gpu" or "cuda" on the cuda preset. Tests that need a GPU are skipped, and said to be, where there is none.
#
# usage: test.sh [PRESET...]    default: cpu asan, and cuda where the CUDA toolkit is installed
#
# FLASHVSR_GOLDEN_DIR  folder with a golden manifest to run as well
# and what build.sh knows
set -euo pipefail
. "$(dirname "$0")/lib.sh"

presets=("$@")
if [[ ${#presets[@]} -eq 0 ]]; then
    presets=(cpu asan)
    if find_nvcc >/dev/null; then
        presets+=(cuda)
    else
        say "without the preset cuda: the CUDA toolkit was not found"
    fi
fi

for preset in "${presets[@]}"; do
    "$root/scripts/build.sh" "$preset"
done

# One processor for each test, and as many tests at a time as there are processors: threads of small operations
# that wait for each other are slow where others want the processors.
export OMP_NUM_THREADS=1

failed=()
for preset in "${presets[@]}"; do
    select=()
    case $preset in
    asan) select=(--label-regex '^leak$') ;;
    tsan) select=(--label-regex '^thread$') ;;
    cuda) select=(--label-regex '^(gpu|cuda)$') ;;
    esac
    say "testing preset $preset"
    # ctest lists what it skipped and what failed at its end.
    ctest --test-dir "$root/build/$preset" --parallel "$jobs" --output-on-failure --no-tests=error "${select[@]}" || failed+=("$preset")
done
[[ ${#failed[@]} -eq 0 ]] || die "tests failed on: ${failed[*]}"
