#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Put LibTorch into the cache, checked, and print the folder that holds its include/ and lib/.
#
# usage: fetch-libtorch.sh [cpu|cuda]
#
# CMAKE_PREFIX_PATH  a LibTorch that it names is used instead of fetching one
set -euo pipefail
. "$(dirname "$0")/lib.sh"

version=2.11.0
flavour=${1:-cpu}

IFS=:';' read -ra prefixes <<<"${CMAKE_PREFIX_PATH:-}"
for prefix in "${prefixes[@]}"; do
    for folder in "$prefix" "$prefix/torch"; do
        if [[ -f $folder/include/ATen/ATen.h && -f $folder/lib/libtorch_cpu.so ]]; then
            realpath "$folder"
            exit
        fi
    done
done

folder=$cache/libtorch-$version-$flavour
if [[ -d $folder/torch/include ]]; then
    echo "$folder/torch"
    exit
fi
[[ $(uname -sm) == 'Linux x86_64' ]] ||
    die "LibTorch is fetched for Linux on x86-64 only; install it and name it in CMAKE_PREFIX_PATH"

# Wheels of PyPI as sha256, file pattern and requirement. The libraries do not depend on the local Python.
wheels=(
    "7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a torch-$version-cp311-*.whl torch==$version"
    '4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8 nvidia_cuda_cupti-13.0.85-*.whl nvidia-cuda-cupti==13.0.85'
    '7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548 nvidia_cuda_runtime-13.0.96-*.whl nvidia-cuda-runtime==13.0.96'
)

[[ $flavour == cpu || $flavour == cuda ]] || die "the flavour is '$flavour', it must be cpu or cuda"
scratch "$cache"
mkdir "$work/libtorch"
files=()
for wheel in "${wheels[@]}"; do
    read -r sha256 pattern requirement <<<"$wheel"
    file=$(fetch_wheel "$sha256" "$pattern" "$requirement")
    files+=("$file")
done

say "unpacking LibTorch $version"
if [[ $flavour == cpu ]]; then
    parts=('torch/include/*' 'torch/version.py' 'torch/lib/libtorch.so' 'torch/lib/libtorch_cpu.so'
        'torch/lib/libc10.so' 'torch/lib/libgomp*' 'torch/lib/libshm*' 'nvidia/*' '*.dist-info/*')
    for file in "${files[@]}"; do
        # A wheel need not hold every part; unzip's status 11 says only that.
        unzip -q -o "$file" "${parts[@]}" -d "$work/libtorch" 2>/dev/null || [[ $? == 11 ]] ||
            die "$file could not be unpacked"
    done
else
    # With the CUDA libraries that torch asks for, in the versions that it names: cuBLAS, cuDNN, NCCL and so on.
    python3 -m pip --disable-pip-version-check install --quiet --no-cache-dir --no-compile \
        --root-user-action ignore "${platforms[@]}" --target "$work/all" "${files[@]}" >&2 ||
        die "pip could not install torch $version with its CUDA libraries"
    mv "$work/all/torch" "$work/all/nvidia" "$work/libtorch/"
fi
mv --no-target-directory "$work/libtorch" "$folder"
echo "$folder/torch"
