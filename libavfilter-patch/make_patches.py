#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make patches/<line>: the `git am` series that puts the filter into an FFmpeg release.

The first patch adds the filter. It and its documentation come from vf_flashvsr/; where its source tells lines of
releases apart, the patch has one branch alone. The edits to FFmpeg's own files are below, each found by the line it
goes in front of, so that they hold for every line. The second adds FATE tests from vf_flashvsr/fate/. The third is
fftools-drain.patch, a commit message and a diff: without it, ffmpeg loses the frames that are inside a filter when
the parameters of its input change. A line whose ffmpeg differs too much has a diff of its own,
fftools-drain-<line>.patch. Two runs give the same bytes.
"""

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
AUTHOR = "FlashVSR for FFmpeg"
EMAIL = "flashvsr@localhost"
DATE = "2026-01-01T00:00:00+0000"
MESSAGE = """avfilter: add flashvsr filter

It upscales video with FlashVSR, a streaming one-step diffusion model for
video super-resolution, through libflashvsr.
"""

FATE = ROOT / "vf_flashvsr" / "fate"
FATE_MESSAGE = """fate: add tests of the flashvsr filter

They check what any model and processor give: number, times and sizes of
frames, and alpha.
"""
FATE_MAKEFILE = "tests/fate/filter-video.mak"
FATE_ANCHOR = "FATE_FILTER-$(call FILTERFRAMECRC, LIFE,"

CHANGELOG = "version <next>:\n- flashvsr filter\n\n\n"

DRAIN = HERE / "fftools-drain.patch"

# Where the filter's source tells lines of releases apart, without nesting; the #else may be missing.
CONDITION = re.compile(r"^#if LIBAVFILTER_VERSION_MAJOR (<|>=) (\d+)\n(.*?)(?:^#else\n(.*?))?^#endif\n",
                       re.MULTILINE | re.DOTALL)

# File, start of the line in front of which the text goes, text.
INSERTIONS = [
    ("configure", "  --enable-libflite ",
     "  --enable-libflashvsr     enable FlashVSR video super-resolution via libflashvsr [no]\n"),
    ("configure", "    libflite\n", "    libflashvsr\n"),
    ("configure", "flip_vulkan_filter_deps=", 'flashvsr_filter_deps="libflashvsr swscale"\n'),
    ("configure", "flite_extralibs=",
     'enabled libflashvsr       && require_pkg_config libflashvsr "flashvsr >= 0.1.0" flashvsr/flashvsr.h flashvsr_open\n'),
    ("configure", "enabled fsync_filter ", "enabled flashvsr_filter     && prepend avfilter_deps \"swscale\"\n"),
    ("libavfilter/Makefile", "OBJS-$(CONFIG_FLOODFILL_FILTER) ",
     "OBJS-$(CONFIG_FLASHVSR_FILTER)               += vf_flashvsr.o\n"),
    ("libavfilter/allfilters.c", "extern const {filter_type} ff_vf_flip_vulkan;",
     "extern const {filter_type} ff_vf_flashvsr;\n"),
    ("Changelog", "version ", CHANGELOG),
]


def insert(name, text, anchor, addition):
    """The text with the addition in front of the first line that starts with the anchor."""
    at = text.find("\n" + anchor)
    if at < 0:
        sys.exit(f"make_patches.py: {name} has no line that starts with {anchor.strip()!r}")
    return text[:at + 1] + addition + text[at + 1:]


def bump_minor(text):
    """libavfilter/version.h after a new feature: the next minor version, micro back to 100."""
    text, minors = re.subn(r"(define LIBAVFILTER_VERSION_MINOR +)(\d+)",
                           lambda found: found[1] + str(int(found[2]) + 1), text)
    text, micros = re.subn(r"(define LIBAVFILTER_VERSION_MICRO +)\d+", r"\g<1>100", text)
    if (minors, micros) != (1, 1):
        sys.exit("make_patches.py: libavfilter/version.h does not look as expected")
    return text


def filter_source(major):
    """The filter's source for a major version of libavfilter."""
    def branch(found):
        relation, version, first, second = found.groups()
        return first if (major < int(version)) == (relation == "<") else second or ""
    return CONDITION.sub(branch, (ROOT / "vf_flashvsr/vf_flashvsr.c").read_text())


def edited(pristine):
    """The edited and new files of the filter's patch, by name, from FFmpeg's own."""
    files = dict(pristine)
    major = int(re.search(r"define LIBAVFILTER_VERSION_MAJOR +(\d+)", files["libavfilter/version_major.h"])[1])
    filter_type = "AVFilter" if major < 11 else "FFFilter"
    for name, anchor, addition in INSERTIONS:
        anchor, addition = (text.replace("{filter_type}", filter_type) for text in (anchor, addition))
        files[name] = insert(name, files[name], anchor, addition)
    files["doc/filters.texi"] = insert("doc/filters.texi", files["doc/filters.texi"], "@section floodfill\n",
                                       (ROOT / "vf_flashvsr/flashvsr.texi").read_text())
    files["libavfilter/version.h"] = bump_minor(files["libavfilter/version.h"])
    files["libavfilter/vf_flashvsr.c"] = filter_source(major)
    return files


def fate_files(pristine):
    """The edited and new files of the tests' patch, by name."""
    tests = (FATE / "filter-flashvsr.mak").read_text()
    references = {f"tests/ref/fate/{path.name}": path.read_text() for path in sorted((FATE / "ref").iterdir())}
    return {FATE_MAKEFILE: insert(FATE_MAKEFILE, pristine[FATE_MAKEFILE], FATE_ANCHOR, tests), **references}


def drain_patch(line):
    """The diff of the second patch for a line of releases."""
    own = HERE / f"fftools-drain-{line}.patch"
    return own if own.exists() else DRAIN


def read_release(tarball, drain):
    """The files of the release that the patches are made from, by name."""
    wanted = {name for name, _, _ in INSERTIONS}
    wanted |= {"doc/filters.texi", "libavfilter/version.h", "libavfilter/version_major.h", FATE_MAKEFILE}
    wanted.update(re.findall(r"^--- a/(.+)$", drain.read_text(), re.MULTILINE))
    files = {}
    with tarfile.open(tarball) as archive:
        for member in archive:
            name = member.name.partition("/")[2]
            if name in wanted:
                files[name] = archive.extractfile(member).read().decode()
    missing = wanted - set(files)
    if missing:
        sys.exit(f"make_patches.py: {tarball} has no {', '.join(sorted(missing))}")
    return files


def make_series(tarball, line):
    """The series as file contents by file name."""
    drain = drain_patch(line)
    pristine = read_release(tarball, drain)
    environment = dict(os.environ, GIT_CONFIG_GLOBAL=os.devnull, GIT_CONFIG_NOSYSTEM="1", LC_ALL="C",
                       GIT_AUTHOR_NAME=AUTHOR, GIT_AUTHOR_EMAIL=EMAIL, GIT_AUTHOR_DATE=DATE,
                       GIT_COMMITTER_NAME=AUTHOR, GIT_COMMITTER_EMAIL=EMAIL, GIT_COMMITTER_DATE=DATE)
    for variable in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        environment.pop(variable, None)

    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "ffmpeg"
        tree.mkdir()

        def git(*arguments):
            subprocess.run(["git", *arguments], cwd=tree, env=environment, check=True, stdout=subprocess.DEVNULL)

        def commit(files, message):
            for name, text in files.items():
                path = tree / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
                if name == "configure":
                    path.chmod(0o755)
            git("add", "--all", "--force")
            git("commit", "--quiet", "--message", message)

        git("init", "--quiet", "--initial-branch=main")
        commit(pristine, "release")
        commit(edited(pristine), MESSAGE)
        commit(fate_files(pristine), FATE_MESSAGE)
        git("apply", "--index", drain)
        git("commit", "--quiet", "--message", DRAIN.read_text().partition("\ndiff --git ")[0])
        git("format-patch", "--quiet", "--full-index", "--no-signature", "--zero-commit", "--no-numbered",
            "--output-directory", "../series", "HEAD~3")
        patches = sorted((Path(folder) / "series").iterdir())
        series = {patch.name: patch.read_bytes() for patch in patches}
        series[".series"] = "".join(f"{patch.name}\n" for patch in patches).encode()
        return series


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true",
                        help="write nothing; fail if the committed series is not the one that would be written")
    parser.add_argument("version", nargs="?", default=None, help="FFmpeg release, 9.0.2 by default")
    arguments = parser.parse_args()

    fetch = [str(HERE / "fetch.sh")] + ([arguments.version] if arguments.version else [])
    fetched = subprocess.run(fetch, stdout=subprocess.PIPE, text=True)
    if fetched.returncode:
        sys.exit(fetched.returncode)
    tarball = fetched.stdout.strip()
    with tarfile.open(tarball) as archive:
        release = archive.next().name.partition("/")[0].removeprefix("ffmpeg-")
    line = release.rpartition(".")[0]
    folder = ROOT / "patches" / line

    series = make_series(tarball, line)
    present = {path.name: path.read_bytes() for path in folder.iterdir()} if folder.is_dir() else {}
    if arguments.check:
        wrong = sorted(name for name in series.keys() | present.keys() if series.get(name) != present.get(name))
        if wrong:
            sys.exit(f"patches/{folder.name} is not what vf_flashvsr/ and libavfilter-patch/ give: "
                     f"{', '.join(wrong)}; run libavfilter-patch/make_patches.py {release}")
        print(f"patches/{folder.name} is what vf_flashvsr/ and libavfilter-patch/ give")
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name in present.keys() - series.keys():
        (folder / name).unlink()
    for name, content in series.items():
        (folder / name).write_bytes(content)
    print(f"patches/{folder.name}: " + ', '.join(sorted(series.keys() - {'.series'})))


if __name__ == "__main__":
    main()
