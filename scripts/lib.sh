# SPDX-License-Identifier: LGPL-2.1-or-later
# What the scripts share; to be sourced by bash.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${FLASHVSR_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/flashvsr}
downloads=$cache/downloads
# Processors, whatever OpenMP is told to use of them.
jobs=${FLASHVSR_JOBS:-$(env --unset=OMP_NUM_THREADS --unset=OMP_THREAD_LIMIT nproc)}

# Standard output is kept for results, so that scripts can be used in $(...).
say() { printf -- '-- %s\n' "$*" >&2; }
die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# matches FILE SHA256: the file is there and is that one.
matches() { [[ -f $1 ]] && printf '%s  %s\n' "$2" "$1" | sha256sum --check --status; }

# Print where CUDA's compiler is, if it is: on the path, in CUDA_HOME or in the usual folder.
find_nvcc() {
    command -v nvcc && return
    local nvcc
    for nvcc in "${CUDA_HOME:-}/bin/nvcc" /usr/local/cuda/bin/nvcc; do
        [[ -x $nvcc ]] && echo "$nvcc" && return
    done
    return 1
}

# A folder for a script's working files, removed when the script ends, beside what it will be renamed to.
scratch() {
    mkdir -p "$1"
    work=$(mktemp -d "$1/.work.XXXXXX")
    trap 'rm -rf "$work"' EXIT
}

# Compiler results are kept in the cache folder, where every clone finds them: paths are hashed relative to
# the clone, and the last three settings let ccache work with precompiled headers.
use_ccache() {
    command -v ccache >/dev/null || return 1
    export CCACHE_DIR=${CCACHE_DIR:-$cache/ccache}
    export CCACHE_BASEDIR=$root CCACHE_NOHASHDIR=1
    export CCACHE_MAXSIZE=${CCACHE_MAXSIZE:-5G}
    export CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime
}

# For which Python and machine wheels of PyPI are taken: what is in them does not depend on the local Python.
platforms=(--python-version 3.11 --implementation cp --abi cp311 --abi none --only-binary=:all:
    --platform manylinux2014_x86_64)
for glibc in {28..17}; do
    platforms+=(--platform "manylinux_2_${glibc}_x86_64")
done

# fetch_wheel SHA256 PATTERN REQUIREMENT: print the path of the wheel, downloaded if it is not there yet. To be called
# after scratch.
fetch_wheel() {
    local file
    for file in "$downloads"/$2; do
        matches "$file" "$1" && echo "$file" && return
    done
    say "downloading ${3/==/ }"
    python3 -m pip --disable-pip-version-check download --quiet --no-deps --no-cache-dir "${platforms[@]}" \
        --dest "$work/wheels" "$3" >&2 || die "pip could not download $3"
    mkdir -p "$downloads"
    for file in "$work/wheels"/$2; do
        matches "$file" "$1" || die "the sha256 of ${file##*/} is not the expected one"
        mv "$file" "$downloads/"
        echo "$downloads/${file##*/}"
    done
}
