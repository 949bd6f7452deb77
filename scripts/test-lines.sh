#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Build an ffmpeg of the components that the tests use from each FFmpeg release that the filter is made for, with gcc
# and clang, with static and shared libraries, and test it: the series of patches applies to the release as it was
# published, no file of it compiles with a warning that is not the release's own, FATE's tests of it pass, and 30
# frames are the same from all four. What every run has to keep to (frames and their times, sizes, formats, early
# ends, bad input) is tested with gcc and static libraries, and with clang and shared ones.
#
# usage: test-lines.sh [VERSION...]    default: 9.0.2 8.1.2 7.1.5
#
# The engine is that of the preset cpu. clang has to be installed. What the tests print is in build/cpu/lines.
# What build.sh knows is known here, too.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
. "$root/libavfilter-patch/versions.sh"

versions=("$@")
[[ $# -gt 0 ]] || versions=("${ffmpeg_versions[@]}")
for version in "${versions[@]}"; do
    ffmpeg_sha256 "$version" >/dev/null || die "FFmpeg $version is not known; known are ${ffmpeg_versions[*]}"
done
for compiler in gcc clang; do
    command -v "$compiler" >/dev/null || die "$compiler was not found; on Debian, apt-get install $compiler"
done

contract=(test_frames.py test_sizes.py test_early_stop.py test_size_change.py 'test_bad_input.py OddStreams'
    test_formats.py)
build=$root/build/cpu
tests=$root/tests/filter
logs=$build/lines
export FLASHVSR_FFMPEG_SMALL=1
FLASHVSR_FFMPEG_VERSION=${versions[0]} "$root/scripts/build.sh" cpu
for version in "${versions[@]}"; do
    "$root/libavfilter-patch/fetch.sh" "$version" >/dev/null
done
rm -rf "$logs"
mkdir -p "$logs"

export FLASHVSR_TEST_MODELS=$build/tests/filter/models
export FLASHVSR_TEST_IDENTITY=$build/lib/libflashvsr_identity.so
export FLASHVSR_TEST_BUILD=$build FLASHVSR_TEST_SANITIZE=
# One processor for each run, and as many runs at a time as there are processors.
export OMP_NUM_THREADS=1
python3 -B "$tests/make_models.py" "$build/bin/flashvsr_random_model" "$FLASHVSR_TEST_MODELS" >&2

failed=()

# run_test LOG FILE [CLASS]: a test file; its output is added to the log, its numbers, if it is good, to passed and
# skipped.
run_test() {
    local log=$1 printed status=0 ran left
    shift
    printed=$(timeout 1800 python3 -B "$tests/$1" "${@:2}" 2>&1) || status=$?
    printf '== %s\n%s\n' "$*" "$printed" >>"$log"
    if [[ $status != 0 && $status != 77 ]]; then
        tail -n 40 <<<"$printed" >&2
        failed+=("$name: $*")
        return
    fi
    ran=$(sed -n 's/^Ran \([0-9]*\) tests\? in .*/\1/p' <<<"$printed")
    left=$(sed -n 's/^OK (skipped=\([0-9]*\))$/\1/p' <<<"$printed")
    passed=$((passed + ${ran:-0} - ${left:-0}))
    skipped=$((skipped + ${left:-0}))
}

# 30 frames as ffmpeg makes them.
frames() {
    "$FLASHVSR_TEST_BIN/ffmpeg" -v error -nostdin -f lavfi -i testsrc2=size=32x32:rate=25 -frames:v 30 \
        -vf "format=gbrp,flashvsr=model=$FLASHVSR_TEST_MODELS/mini" -f framecrc -
}

# test_build VERSION COMPILER LINKAGE
test_build() {
    local version=$1 compiler=$2 linkage=$3 name="$1 $2 $3" shared='' begun=$SECONDS built log file
    local passed=0 skipped=0
    [[ $linkage != shared ]] || shared=1
    log=$logs/$version-$compiler-$linkage.log
    : >"$log"
    export FLASHVSR_TEST_OBJECTS=$build/ffmpeg-$version-small${shared:+-shared}-$compiler
    export FLASHVSR_TEST_BIN=$FLASHVSR_TEST_OBJECTS FLASHVSR_FFMPEG_VERSION=$version
    say "FFmpeg $version with $compiler and $linkage libraries"
    if ! CC=$compiler FLASHVSR_FFMPEG_SHARED=$shared "$root/libavfilter-patch/build.sh" "$build" "$version"; then
        failed+=("$name: the build")
        return
    fi
    built=$((SECONDS - begun))

    if ldd "$FLASHVSR_TEST_BIN/ffmpeg" | grep -F 'libav' | grep -qvF "$FLASHVSR_TEST_BIN/"; then
        failed+=("$name: ffmpeg uses libraries that are not its own")
    fi
    if grep -iE 'warning.*flashvsr|flashvsr.*warning' "$FLASHVSR_TEST_OBJECTS/make.log" >&2; then
        failed+=("$name: warnings of the build")
    fi
    run_test "$log" test_patches.py Build
    run_test "$log" test_patches.py Fate
    if ! frames >"$logs/frames" || [[ $(grep -vc '^#' "$logs/frames") != 30 ]]; then
        failed+=("$name: 30 frames")
    elif [[ $compiler-$linkage == gcc-static ]]; then
        mv "$logs/frames" "$logs/$version.frames"
    elif ! cmp "$logs/frames" "$logs/$version.frames" >&2; then
        failed+=("$name: 30 frames differ from those of gcc with static libraries")
    fi
    if [[ $compiler-$linkage == gcc-static || $compiler-$linkage == clang-shared ]]; then
        for file in "${contract[@]}"; do
            # A class stands behind the name of its file.
            run_test "$log" $file
        done
    fi
    printf '%-6s %-6s %-7s built in %3d s, %3d tests passed, %d skipped, in %4d s\n' "$version" "$compiler" \
        "$linkage" "$built" "$passed" "$skipped" "$((SECONDS - begun - built))"
}

name=series passed=0 skipped=0
: >"$logs/series.log"
run_test "$logs/series.log" test_patches.py Series
echo "series of patches: $passed tests passed, $skipped skipped"
for version in "${versions[@]}"; do
    for compiler in gcc clang; do
        for linkage in static shared; do
            test_build "$version" "$compiler" "$linkage"
        done
    done
done
if [[ ${#failed[@]} -gt 0 ]]; then
    printf '%s\n' "${failed[@]}" >&2
    die "${#failed[@]} failed; what they printed is in $logs"
fi
echo "all passed"
