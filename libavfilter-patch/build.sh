#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Build ffmpeg and ffprobe with the filter against the libflashvsr that is installed in a build folder, in a folder
# of it for each version, and put those of FLASHVSR_FFMPEG_VERSION, by default of the newest, into its bin/. A build
# with sanitizers has only the components that the tests use.
#
# usage: build.sh BUILD_FOLDER [VERSION]
#
# CC                     the compiler (default gcc)
# FLASHVSR_FFMPEG_SMALL  not empty: only the components that the tests use
# FLASHVSR_FFMPEG_SHARED not empty: shared libraries of FFmpeg instead of static ones
# With one of the last two the folder is named after them and the compiler, and bin/ is left as it is.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../scripts/lib.sh"
. "$here/versions.sh"

[[ $# -ge 1 ]] || die "usage: build.sh BUILD_FOLDER [VERSION]"
build=$(cd "$1" && pwd)
version=${2:-$ffmpeg_version}
prefix=$build/install
package=$(find "$prefix" -name flashvsr.pc -print -quit 2>/dev/null || true)
[[ -n $package ]] || die "libflashvsr is not installed in $prefix"
cuda=$(sed -n 's/^FLASHVSR_CUDA:[A-Z]*=//p' "$build/CMakeCache.txt")
sanitizers=$(sed -n 's/^FLASHVSR_SANITIZE:[A-Z]*=//p' "$build/CMakeCache.txt")
small=${FLASHVSR_FFMPEG_SMALL:-}
shared=${FLASHVSR_FFMPEG_SHARED:-}
compiler=${CC:-gcc}
variant=${small:+-small}${shared:+-shared}
variant+=${variant:+-${compiler##*/}}

linkage=(--enable-static --disable-shared)
[[ -z $shared ]] || linkage=(--enable-shared --disable-static)

# Codecs, formats, protocols and filters are FFmpeg's own, all of them. Libraries are named, not found, so that
# every machine builds the same.
arguments=(
    --enable-gpl --disable-autodetect --enable-zlib --enable-libx264 --enable-libflashvsr
    "${linkage[@]}" --disable-doc --disable-debug --disable-ffplay
    --extra-version=flashvsr
)
# Decoders and encoders of NVIDIA's GPUs, and frames in their memory. NVIDIA's own files are found at run time.
if [[ $cuda == ON ]]; then
    arguments+=(--enable-ffnvcodec --enable-cuda --enable-cuvid --enable-nvdec --enable-nvenc)
    ffnvcodec=$("$here/fetch-ffnvcodec.sh")
fi
list() { tr -s ' \n' ',' <<<"$2" | sed -e 's/^,//' -e 's/,$//' -e "s/[^,]*/--enable-$1=&/g" -e 's/,/ /g'; }
if [[ -n $sanitizers ]]; then
    flags="-fsanitize=$sanitizers -fno-omit-frame-pointer"
    arguments+=(--disable-stripping --optflags=-O1 --extra-cflags="$flags -g" --extra-ldflags="$flags")
fi
if [[ -n $sanitizers || -n $small ]]; then
    arguments+=(--disable-everything)
    arguments+=($(list decoder 'aac ffv1 h264 mjpeg mpeg4 pcm_f32le pcm_s16le png rawvideo wrapped_avframe'))
    arguments+=($(list encoder 'aac ffv1 libx264 mjpeg mpeg4 pcm_f32le pcm_s16le png rawvideo wrapped_avframe'))
    arguments+=($(list demuxer 'avi concat h264 image2 image_png_pipe matroska mov mpegts nut rawvideo wav'))
    arguments+=($(list muxer 'avi crc framecrc framehash framemd5 h264 hash image2 matroska md5 mov mp4 mpegts
        null nut rawvideo streamhash tee wav'))
    arguments+=($(list parser 'aac h264 mjpeg mpeg4video png'))
    arguments+=($(list bsf 'aac_adtstoasc extract_extradata h264_mp4toannexb null setts'))
    arguments+=($(list protocol 'concat file pipe'))
    arguments+=(--enable-indev=lavfi)
    arguments+=($(list filter 'aevalsrc aformat anull anullsink anullsrc aresample asetpts asettb asplit atrim
        blend color concat copy crop drawbox flashvsr format fps framestep geq hflip hstack loop lutyuv mandelbrot
        metadata noise null nullsink nullsrc pad psnr realtime reverse scale select sendcmd setdar setfield
        setparams setpts setsar settb showinfo sidedata signalstats sine smptebars split ssim testsrc testsrc2
        tpad trim vflip vstack xstack yuvtestsrc'))
fi

source=$root/build/ffmpeg-$version
objects=$build/ffmpeg-$version$variant
"$here/apply.sh" "$source" "$version"
mkdir -p "$objects" "$build/bin"
cd "$objects"
# Through this link every path that the compiler sees is the same in every clone.
ln -sfn "$(realpath --relative-to=. "$source")" src

# The programs run where they are, and in an installation beside lib/. The linker reads this from a file because
# a dollar sign on its command line would have to survive configure, make and the shell.
rpath='$ORIGIN/../install/lib:$ORIGIN/../lib'
if [[ -n $shared ]]; then
    # FFmpeg's libraries are found where they are built. What they need themselves is found by the program's path,
    # too, which is so for the older kind of path only.
    rpath+=$(printf ':$ORIGIN/lib%s' avcodec avdevice avfilter avformat avutil postproc swresample swscale)
    rpath="$rpath --disable-new-dtags -rpath-link $prefix/lib"
fi
echo "-rpath $rpath" >rpath
arguments+=(--extra-ldexeflags=-Wl,@rpath)
if use_ccache; then
    arguments+=(--cc="ccache $compiler")
else
    arguments+=(--cc="$compiler")
fi
export PKG_CONFIG_PATH=$(dirname "$package")${ffnvcodec:+:$ffnvcodec}${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}

stamp=$(printf '%s\n' "${arguments[@]}" "$package" | cat - src/.patched src/configure "$package" | sha256sum)
if [[ ! -f .configured || $(<.configured) != "$stamp" ]]; then
    say "configuring FFmpeg $version"
    rm -f .configured
    src/configure "${arguments[@]}" >configure.log 2>&1 || {
        tail -n 20 configure.log >&2
        die "FFmpeg's configure failed; the whole log is $objects/ffbuild/config.log"
    }
    echo "$stamp" >.configured
fi

say "building FFmpeg $version"
make -j "$jobs" ffmpeg ffprobe >make.log 2>&1 || {
    grep -B 2 -A 6 -m 5 -E 'error|Error' make.log >&2 || tail -n 20 make.log >&2
    die "building FFmpeg failed; the whole log is $objects/make.log"
}
if [[ -n $variant || $version != "$ffmpeg_version" ]]; then
    say "ffmpeg and ffprobe $version are in $objects"
    exit
fi
for program in ffmpeg ffprobe; do
    cmp --silent "$program" "$build/bin/$program" || install "$program" "$build/bin/$program"
done
