#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Install the Debian packages that the build needs and that are missing.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

packages=(
    build-essential ca-certificates ccache cmake curl git nasm ninja-build patch pkg-config python3 python3-pip unzip
    xz-utils libbenchmark-dev libgtest-dev libx264-dev nlohmann-json3-dev zlib1g-dev
)

# A program that is there by another way than its package is good too.
declare -A program_of=(
    [ccache]=ccache [cmake]=cmake [curl]=curl [git]=git [nasm]=nasm [ninja-build]=ninja [patch]=patch
    [pkg-config]=pkg-config [python3]=python3 [unzip]=unzip [xz-utils]=xz
)

missing=()
for package in "${packages[@]}"; do
    program=${program_of[$package]:-}
    [[ -n $program ]] && command -v "$program" >/dev/null && continue
    [[ $package == python3-pip ]] && python3 -m pip --version >/dev/null 2>&1 && continue
    [[ $(dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] && continue
    missing+=("$package")
done
[[ ${#missing[@]} -gt 0 ]] || exit 0

command -v apt-get >/dev/null || die "these Debian packages, or their like, are needed: ${missing[*]}"
as_root=()
if [[ $(id -u) != 0 ]]; then
    command -v sudo >/dev/null || die "run as root: apt-get install ${missing[*]}"
    as_root=(sudo)
fi
say "installing ${missing[*]}"
"${as_root[@]}" apt-get update -qq >&2
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -qq --yes --no-install-recommends "${missing[@]}" >&2
