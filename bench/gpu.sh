#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The figures of docs/performance.md once more: published sizes, random weights, pictures that ffmpeg makes up.
#
# usage: gpu.sh BIN MODEL [PART...]
#   BIN    folder of the programs, such as build/cuda/bin
#   MODEL  model directory; where there is none, random weights of the published sizes are written there, 6.6 GB,
#          best in memory: /dev/shm/official
#   PART   whole       flashvsr_bench at three sizes, in bf16 and fp8 (4 minutes)
#          ffmpeg      the same picture through ffmpeg, and the memory of 2000 frames (1 minute)
#          kernels     those of a steady chunk, and attention and decoder beside their rivals (1 minute)
#          tiles       small tiles alone and in batches (6 minutes)
#          memory      with little of it, and 1080p to 4K (2 minutes)
#          shared      two workers on one GPU against one (1 minute)
#          pair        two GPUs against one (4 minutes)
#          sanitizers  compute-sanitizer's tools over a miniature model (10 minutes)
#          default: all that one GPU can show but the last
set -uo pipefail

if (($# < 2)); then
    sed -n '/^# usage/,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2
    exit 2
fi
bin=$1 model=$2
shift 2
(($#)) || set -- whole ffmpeg kernels tiles memory shared
logs=$(mktemp --directory)
trap 'rm -rf "$logs"' EXIT
failed=0
ffmpeg=("$bin/ffmpeg" -hide_banner -nostats -nostdin -benchmark -v verbose -f lavfi)

# run NAME PATTERN COMMAND...: print the lines that match, or how the command failed.
run() {
    local name=$1 pattern=$2 log=$logs/log
    shift 2
    printf '\n%s\n' "$name"
    if "$@" >"$log" 2>&1; then
        # What comes before the text of ffmpeg's lines is left out.
        grep --extended-regexp "$pattern" "$log" | sed 's/^\[[^]]* @ [^]]*\] //; s/^/  /'
    else
        printf '  failed with status %s\n' $?
        tail -n 20 "$log" | sed 's/^/  | /'
        failed=1
        return 1
    fi
}

bench() { # NAME OPTION...
    run "$1" '^run |^steady|^peak|^ +cuda:|^device' "$bin/flashvsr_bench" --model "$model" "${@:2}"
}

# through NAME SIZE SECONDS OPTIONS: pictures of 25 frames/s through the filter.
through() {
    run "$1" ' frames in | at work|usable|wait in host memory|^bench: ' \
        "${ffmpeg[@]}" -i "testsrc2=size=$2:rate=25:duration=$3" -vf "flashvsr=model=$model:$4" -f null -
}

# watch NAME SIZE SECONDS OPTIONS: the same, and once a second the memory of the first GPU and of ffmpeg.
watch() {
    through "$@" &
    local through=$! process
    while kill -0 "$through" 2>/dev/null; do
        process=$(pgrep --newest --full "duration=$3 -vf flashvsr=model=$model:$4") &&
            printf '%s %s\n' "$(nvidia-smi --id=0 --query-gpu=memory.used --format=csv,noheader,nounits)" \
                "$(awk '/RssAnon|RssShmem/ { kib += $2 } END { print int(kib / 1024) }' "/proc/$process/status" 2>/dev/null)"
        sleep 1
    done >"$logs/samples"
    wait "$through" || failed=1
    # Weights are mapped until they are on the GPU, which is the time before it has most of what it will have.
    sort --numeric-sort "$logs/samples" | awk '
        NF == 2 { gpu[NR] = $1; most = $1; own[NR] = $2 }
        END {
            for (i in gpu) if (gpu[i] > 0.9 * most) {
                if (!n++ || gpu[i] < least_gpu) least_gpu = gpu[i]
                if (n == 1 || own[i] < least) least = own[i]
                if (own[i] > greatest) greatest = own[i]
            }
            printf "  under way, %d samples: %d to %d MiB of the GPU, %d to %d MiB of ffmpeg, mapped files left out\n",
                n, least_gpu, most, least, greatest
        }'
}

# sums NAME FILTERS OPTIONS [SOURCE]: MD5 sums of the frames that the filters leave, of 120 unless SOURCE says otherwise.
sums() {
    run "$1" ' frames in | at work|maxrss' \
        "${ffmpeg[@]}" -i "testsrc2=size=${4:-480x270:rate=25:duration=4.8}" \
        -vf "$2format=gbrp,flashvsr=model=$model:tiled=1:$3" -f framemd5 -y "$logs/$1.md5"
}

# The sums of a run, the last frame's first.
sums_of() { awk '!/^#/ { print $NF }' "$logs/$1.md5" | tac; }

# equal FIRST SECOND: how many are the same of the frames that both have; both end with the same one.
equal() {
    paste <(sums_of "$1") <(sums_of "$2") | awk -v names="$1 and $2" '
        NF == 2 { both++; if ($1 == $2) { same++; if (!differ) last++ } else differ = 1 }
        END { printf "  %s: %d of %d frames equal, the last %d\n", names, same, both, last }'
}

measure_whole() {
    local frames precision
    for _ in 1 2; do bench "1408x768, bf16, 89 frames" --output 1408x768 --frames 89; done
    for frames in 449 1200; do bench "1408x768, bf16, $frames frames" --output 1408x768 --frames "$frames"; done
    bench "1408x768, fp8, 449 frames" --output 1408x768 --frames 449 --precision fp8
    for precision in bf16 fp8; do
        bench "1280x768, $precision, 449 frames" --output 1280x768 --frames 449 --precision "$precision"
        bench "2560x1536, $precision, 89 frames" --output 2560x1536 --frames 89 --precision "$precision"
    done
}

measure_ffmpeg() {
    through "ffmpeg, 1408x768, 1200 frames" 352x192 48 device=cuda
    bench "flashvsr_bench beside it" --output 1408x768 --frames 1200 --runs 1
    watch "ffmpeg, 2000 frames" 352x192 80 device=cuda
}

measure_kernels() {
    run "kernels of a steady chunk" 'busy|[0-9] %' "$bin/flashvsr_bench" --model "$model" --output 1408x768 --trace "$logs/trace"
    run "attention" . "$bin/flashvsr_attention_bench"
    run "decoder" . "$bin/flashvsr_decoder_bench"
}

measure_tiles() {
    local tile adaptive
    for tile in 64 128 256; do
        bench "tiles of $tile, one by one" --output 2048x1152 --frames 61 --tile "$tile" --tile-batch 1
        bench "tiles of $tile, adaptive" --output 2048x1152 --frames 61 --tile "$tile" --tile-batch 0
    done
    for adaptive in 0 1; do
        through "ffmpeg, tiles of 64, adaptive_batch=$adaptive, 801 frames" 512x288 32.04 \
            "device=cuda:tiled=1:tile_size=64:adaptive_batch=$adaptive"
    done
}

measure_memory() {
    local percent
    through "1080p to 4K" 1920x1080 2.44 device=cuda:scale=2
    for percent in 100 75 50 30; do # of 11075 MiB, the peak at 1408x768
        through "vram_limit at $percent % of the peak" 352x192 1.48 \
            "device=cuda:adaptive_batch=1:vram_limit=$((11075 * percent * 1048576 / 100))"
    done
}

measure_shared() {
    local tiles=tile_size=128:tile_batch=2
    sums one "" "$tiles:device=0"
    sums tiles "" "$tiles:device=0\\|0:multi_gpu=tiles"
    sums segments "" "$tiles:device=0\\|0:multi_gpu=frames"
    sums from_56 "trim=start_frame=56,setpts=PTS-STARTPTS," "$tiles:device=0:first_frame=56"
    echo
    equal one tiles
    equal one segments
    equal from_56 segments
}

measure_pair() {
    local batch side=640x384:rate=25:duration=2.44
    # The first on a machine fills the cache of files.
    through "ffmpeg, one GPU, 1200 frames, the first time" 352x192 48 device=0
    through "ffmpeg, one GPU, 1200 frames" 352x192 48 device=0
    watch "ffmpeg, two GPUs, 4800 frames" 352x192 192 multi_gpu=1
    bench "one GPU, 1200 frames" --device cuda:0 --output 1408x768 --frames 1200 --runs 1
    bench "two GPUs, 2400 frames" --device 'cuda:0|cuda:1' --multi-gpu frames --output 1408x768 --frames 2400 --runs 1
    bench "two GPUs, one fails at its step 20, 600 frames" --device 'cuda:0|cuda:1' --multi-gpu frames \
        --output 1408x768 --frames 600 --runs 1 --break-at 20
    bench "tiles on one GPU" --device cuda:0 --output 2560x1536 --tile 256 --frames 157 --runs 1
    bench "tiles on two GPUs" --device 'cuda:0|cuda:1' --multi-gpu tiles --output 2560x1536 --tile 256 --frames 157 --runs 1
    for batch in 1 2; do
        sums one "" "tile_size=256:tile_batch=$batch:device=0" "$side"
        sums two "" "tile_size=256:tile_batch=$batch:device=0\\|1:multi_gpu=tiles" "$side"
        equal one two
    done
}

run_sanitizers() {
    local miniature=$logs/miniature tool precision
    "$bin/flashvsr_random_model" "$miniature" --size mini >"$logs/log" || failed=1
    for precision in fp32 bf16 fp8; do
        for tool in memcheck synccheck racecheck initcheck; do
            run "$tool, $precision" SUMMARY compute-sanitizer --tool "$tool" --error-exitcode 9 "$bin/ffmpeg" -v error -f lavfi \
                -i testsrc2=size=32x32:rate=25:duration=1.08 -vf "flashvsr=model=$miniature:device=cuda:precision=$precision" \
                -f null -
        done
    done
}

nvidia-smi --query-gpu=name,power.limit,temperature.gpu,driver_version --format=csv,noheader || exit
if [[ ! -d $model ]]; then
    "$bin/flashvsr_random_model" "$model" --size official || exit
fi
for part in "$@"; do
    case $part in
    whole) measure_whole ;;
    ffmpeg) measure_ffmpeg ;;
    kernels) measure_kernels ;;
    tiles) measure_tiles ;;
    memory) measure_memory ;;
    shared) measure_shared ;;
    pair) measure_pair ;;
    sanitizers) run_sanitizers ;;
    *)
        printf '%s: there is no part %s\n' "${0##*/}" "$part" >&2
        exit 2
        ;;
    esac
done
exit $failed
