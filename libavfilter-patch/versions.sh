# SPDX-License-Identifier: LGPL-2.1-or-later
# FFmpeg releases that the filter is made for; to be sourced by bash.

ffmpeg_versions=(9.0.2 8.1.2 7.1.5)
ffmpeg_version=${FLASHVSR_FFMPEG_VERSION:-${ffmpeg_versions[0]}}

# sha256 of the release tarball ffmpeg-<version>.tar.xz.
ffmpeg_sha256() {
    case $1 in
    9.0.2) echo 8c3850283eb25fa026482078a04051e0be17347b09ef81a0849bec15a96e002e ;;
    8.1.2) echo 464beb5e7bf0c311e68b45ae2f04e9cc2af88851abb4082231742a74d97b524c ;;
    7.1.5) echo de668509caf9e35e3cd162473441fdb29538c6d96ed080292b3cf9e6fc5d558f ;;
    *) return 1 ;;
    esac
}

# The line that a version belongs to, as patches/ names it: 9.0.2 -> 9.0.
ffmpeg_line() { echo "${1%.*}"; }
