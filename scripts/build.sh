#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Build libflashvsr, its programs, and ffmpeg and ffprobe with the filter; all programs are left in
# build/<preset>/bin.
#
# usage: build.sh [PRESET]    cpu (default), cuda, asan or tsan
#
# CMAKE_PREFIX_PATH        a LibTorch to use instead of fetching one
# FLASHVSR_FFMPEG_TARBALL  an FFmpeg tarball to use instead of fetching one
# FLASHVSR_FFMPEG_VERSION  FFmpeg release (default 9.0.2)
# FLASHVSR_CACHE           folder for downloads and compiler results (default ~/.cache/flashvsr)
# FLASHVSR_CUTLASS         a CUTLASS to use instead of fetching one, for the preset cuda
# CUDA_HOME                the CUDA toolkit, for the preset cuda, where nvcc is not on the path
# FLASHVSR_JOBS            compilers at a time (default: as many as there are processors)
set -euo pipefail
. "$(dirname "$0")/lib.sh"

preset=${1:-cpu}
case $preset in
cuda) flavour=cuda ;;
cpu | asan | tsan) flavour=cpu ;;
*) die "the preset is '$preset', it must be cpu, cuda, asan or tsan" ;;
esac
build=$root/build/$preset

"$root/scripts/setup.sh"
# Two builds at a time would write the same files.
mkdir -p "$root/build"
exec 9>"$root/build/.lock"
flock --nonblock 9 || { say "waiting for another build" && flock 9; }
libtorch=$("$root/scripts/fetch-libtorch.sh" "$flavour")

cd "$root"
arguments=(-DFLASHVSR_LIBTORCH="$libtorch" -DCMAKE_INSTALL_PREFIX="$build/install")
if use_ccache; then
    arguments+=(-DCMAKE_C_COMPILER_LAUNCHER=ccache -DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
    # gcc keeps the use of a precompiled header visible to ccache only with this.
    if "${CXX:-c++}" --version | grep -q 'Free Software Foundation'; then
        arguments+=(-DCMAKE_CXX_FLAGS="${CXXFLAGS:-} -fpch-preprocess")
    fi
fi
if [[ $preset == cuda ]]; then
    nvcc=$(find_nvcc) || die "the cuda preset needs the CUDA toolkit, 12.9 or later; nvcc was not found"
    cutlass=$("$root/scripts/fetch-cutlass.sh")
    arguments+=(-DCMAKE_CUDA_COMPILER="$nvcc" -DFLASHVSR_CUTLASS="$cutlass")
fi
stamp=$(printf '%s\n' "$preset" "${arguments[@]}" "${CC:-}" "${CXX:-}" | cat - CMakePresets.json | sha256sum)
if [[ ! -f $build/build.ninja || ! -f $build/.configured || $(<"$build/.configured") != "$stamp" ]]; then
    say "configuring preset $preset"
    cmake --preset "$preset" "${arguments[@]}" >&2
    echo "$stamp" >"$build/.configured"
fi
say "building libflashvsr and its programs"
cmake --build "$build" --parallel "$jobs" >&2
DESTDIR='' cmake --install "$build" >"$build/install.log" || die "cmake --install failed; see $build/install.log"

"$root/libavfilter-patch/build.sh" "$build"
say "the programs are in build/$preset/bin"
