# SPDX-License-Identifier: LGPL-2.1-or-later
# Tarballs out of Debian's archive; to be sourced by bash after scripts/lib.sh.

# URI of the Debian archive that this machine uses, whatever form its entry in /etc/apt has.
debian_archive() {
    local codename
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    apt-get update --print-uris "${apt[@]}" |
        sed -n "s|^'\(.*\)/dists/$codename/InRelease' .*|\1|p" | head -n 1
}

# Keyring that the machine's entry for an archive names, in either form; nothing where it names none.
debian_keyring() {
    local file
    grep -lrsF -- "$1" /etc/apt/sources.list.d /etc/apt/sources.list | grep -E '\.(list|sources)$' |
        while read -r file; do
            sed -n -e 's/^Signed-By: *\(\/[^ ]*\).*/\1/Ip' -e 's/^deb .*signed-by=\([^] ]*\).*/\1/Ip' "$file"
        done | head -n 1
}

# from_debian PACKAGE VERSION FILE SHA256 DESTINATION: the upstream tarball of a version, from the source packages of
# Debian's newer suites. apt's own state stays as it is: lists, caches and sources of this run are in $work, which
# scratch() makes.
from_debian() {
    local package=$1 version=$2 file=$3 sha256=$4 destination=$5
    command -v apt-get >/dev/null || return 1
    local apt=(-o Dir::State::Lists="$work/lists" -o Dir::Cache="$work/cache" -o APT::Sandbox::User="$(id -un)")
    local archive keyring suite full
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/source"
    archive=$(debian_archive)
    [[ -n $archive ]] || return 1
    keyring=$(debian_keyring "$archive")
    apt+=(-o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=/dev/null)
    for suite in sid trixie; do
        say "looking for $package $version in the source packages of Debian $suite"
        echo "deb-src ${keyring:+[signed-by=$keyring] }$archive $suite main" >"$work/sources.list"
        apt-get update -qq "${apt[@]}" >&2 || continue
        full=$(apt-cache showsrc "${apt[@]}" --only-source "$package" |
            sed -n "s/^Version: \(\([0-9]*:\)\?${version//./\\.}-.*\)/\1/p" | head -n 1)
        [[ -n $full ]] || continue
        # Debian's own part of the package is not needed, so only the tarball decides.
        (cd "$work/source" && apt-get source -qq --download-only --only-source "${apt[@]}" "$package=$full") 2>"$work/log" || true
        if matches "$work/source/$file" "$sha256"; then
            mv "$work/source/$file" "$destination"
            return
        fi
        cat "$work/log" >&2
    done
    return 1
}
