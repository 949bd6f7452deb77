#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The series of patches is what the sources give, applies to a pristine release, builds without a warning, and
passes the tests that it adds to FFmpeg's.

From the environment:
  FLASHVSR_TEST_BUILD    the build folder, which holds that of FFmpeg
  FLASHVSR_TEST_OBJECTS  FFmpeg's, where it is another one than the version's
"""

import os
import re
import shlex
import subprocess
import sys
import tarfile
import tempfile
import unittest
from collections import Counter
from pathlib import Path

from support import MODELS, ROOT, run_tests

VERSIONS = ["9.0.2", "8.1.2", "7.1.5"]
VERSION = os.environ.get("FLASHVSR_FFMPEG_VERSION", VERSIONS[0])
OBJECTS = Path(os.environ.get("FLASHVSR_TEST_OBJECTS") or
               Path(os.environ.get("FLASHVSR_TEST_BUILD", ".")) / f"ffmpeg-{VERSION}")
SOURCE = "libavfilter/vf_flashvsr.c"


def tarballs():
    """Paths of the releases that are here already: a test downloads nothing."""
    given = os.environ.get("FLASHVSR_FFMPEG_TARBALL")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flashvsr"
    cache = Path(os.environ.get("FLASHVSR_CACHE") or cache)
    paths = [Path(given)] if given else [cache / "downloads" / f"ffmpeg-{version}.tar.xz" for version in VERSIONS]
    return [path for path in paths if path.is_file()]


def run(*command, cwd=None, **settings):
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "timeout": 240, **settings}
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    environment.update(LC_ALL="C", GIT_CONFIG_GLOBAL=os.devnull, GIT_CONFIG_NOSYSTEM="1")
    for role in ("AUTHOR", "COMMITTER"):
        environment.update({f"GIT_{role}_NAME": "test", f"GIT_{role}_EMAIL": "test@localhost"})
    return subprocess.run([str(part) for part in command], cwd=cwd, env=environment, **settings)


def added(pattern):
    """What is in the parentheses of a pattern for the names of files that the series adds or changes."""
    patches = (ROOT / "patches" / VERSION.rpartition(".")[0]).glob("*.patch")
    text = "".join(path.read_text() for path in patches)
    return sorted(set(re.findall(rf"^\+\+\+ b/{pattern}$", text, re.MULTILINE)))


class Release:
    """A tarball, the version of it and the series for it."""

    def __init__(self, path):
        self.tarball = path
        with tarfile.open(path) as archive:
            self.version = archive.next().name.partition("/")[0].removeprefix("ffmpeg-")
        self.patches = ROOT / "patches" / self.version.rpartition(".")[0]


class Series(unittest.TestCase):
    def setUp(self):
        self.releases = [Release(path) for path in tarballs()]
        if not self.releases:
            self.skipTest("no FFmpeg tarball is in the cache; libavfilter-patch/fetch.sh gets it")

    def make_patches(self, root, release):
        return run(sys.executable, "-B", root / "libavfilter-patch" / "make_patches.py", "--check", release.version)

    def test_committed_patches_are_what_the_sources_give(self):
        for release in self.releases:
            with self.subTest(release.version):
                done = self.make_patches(ROOT, release)
                self.assertEqual(done.returncode, 0, done.stdout)

    def test_check_finds_a_difference(self):
        """On a copy of what the check reads, with a line added to the filter."""
        release = self.releases[0]
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder)
            for name in ("libavfilter-patch", "vf_flashvsr", "patches", "scripts"):
                run("cp", "-r", ROOT / name, copy / name, check=True)
            same = self.make_patches(copy, release)
            self.assertEqual(same.returncode, 0, same.stdout)
            with open(copy / "vf_flashvsr" / "vf_flashvsr.c", "a") as source:
                source.write("/* one line more */\n")
            changed = self.make_patches(copy, release)
            self.assertNotEqual(changed.returncode, 0)
            self.assertIn(".patch", changed.stdout)

    def test_git_am_applies_to_the_pristine_release(self):
        for release in self.releases:
            with self.subTest(release.version):
                self.check_git_am(release)

    def check_git_am(self, release):
        names = (release.patches / ".series").read_text().split()
        self.assertEqual(sorted(names), sorted(path.name for path in release.patches.glob("*.patch")))
        with tempfile.TemporaryDirectory() as folder:
            run("tar", "-xf", release.tarball, "-C", folder, "--strip-components", 1, check=True)
            # Collected in the background, the repository would change while it is removed.
            for command in (["init", "-q"], ["config", "gc.auto", "0"], ["add", "-A", "-f"],
                            ["commit", "-q", "-m", "release"]):
                done = run("git", *command, cwd=folder)
                self.assertEqual(done.returncode, 0, done.stdout)
            # git takes a hunk only where its lines are, all of them: there is no fuzz, and an offset is reported.
            done = run("git", "am", *(release.patches / name for name in names), cwd=folder)
            self.assertEqual(done.returncode, 0, done.stdout)
            for word in ("fuzz", "offset", "warning", "error"):
                self.assertNotIn(word, done.stdout)
            # Each line has a filter of its own, which knows of no other.
            self.assertNotIn("LIBAVFILTER_VERSION", (Path(folder) / SOURCE).read_text())
            done = run("git", "diff", "--check", "HEAD~" + str(len(names)), cwd=folder)
            self.assertEqual(done.returncode, 0, done.stdout)


class Build(unittest.TestCase):
    def setUp(self):
        if not (OBJECTS / "ffbuild" / "config.mak").exists():
            self.skipTest(f"FFmpeg has not been built in {OBJECTS}")
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def compile(self, source, path):
        """What the command by which FFmpeg's build compiles a source of its tree prints for the file at path."""
        item = source.removesuffix(".c") + ".o"
        done = run("make", "-n", "V=1", "-W", f"src/{source}", item, cwd=OBJECTS)
        self.assertEqual(done.returncode, 0, done.stdout)
        commands = [line for line in done.stdout.splitlines() if f" -o {item}" in line]
        self.assertEqual(len(commands), 1, done.stdout)
        words = [word for word in shlex.split(commands[0]) if word not in ("-MMD",)]
        for option in ("-MF", "-MT"):
            while option in words:
                at = words.index(option)
                del words[at:at + 2]
        made = self.folder / "made.o"
        words[words.index("-o") + 1] = made
        self.assertTrue(words[-1].endswith(f"src/{source}"), words)
        words[-1] = path
        self.assertIn("-Wall", words)
        done = run(*words, "-iquote", f"src/{os.path.dirname(source)}", cwd=OBJECTS)
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertTrue(made.exists())
        return done.stdout

    def check_warnings(self, source):
        printed = self.compile(source, f"src/{source}")
        if not printed:
            return
        pristine = self.folder / os.path.basename(source)
        for release in map(Release, tarballs()):
            if release.version == VERSION:
                with tarfile.open(release.tarball) as archive:
                    if f"ffmpeg-{VERSION}/{source}" in archive.getnames():
                        pristine.write_bytes(archive.extractfile(f"ffmpeg-{VERSION}/{source}").read())
        self.assertTrue(pristine.exists(), printed)
        given, made = (Counter(re.findall(r"warning: .*", text))
                       for text in (self.compile(source, pristine), printed))
        self.assertFalse(made - given, printed)

    def test_no_file_of_the_series_compiles_with_a_warning(self):
        """But for those that it has in the release."""
        sources = added(r"(.*\.c)")
        self.assertIn(SOURCE, sources)
        self.assertIn("fftools/ffmpeg_filter.c", sources)
        for source in sources:
            with self.subTest(source):
                self.check_warnings(source)


class Fate(unittest.TestCase):
    """FATE's tests that the series adds, in FFmpeg's own tree and by FFmpeg's own runner."""

    def make(self, *targets):
        settings = {"OMP_NUM_THREADS": "1"}
        if (MODELS / "mini").is_dir():
            settings["FLASHVSR_MODEL_DIR"] = str(MODELS / "mini")
        done = run("env", *(f"{name}={value}" for name, value in settings.items()), "make", *targets, cwd=OBJECTS,
                   timeout=600)
        self.assertEqual(done.returncode, 0, done.stdout)
        return done.stdout

    def test_every_reference_is_met(self):
        if not (OBJECTS / "ffbuild" / "config.mak").exists():
            self.skipTest(f"FFmpeg has not been built in {OBJECTS}")
        references = set(added("tests/ref/fate/(.*)"))
        drain = "ffmpeg-filter_drain"
        self.assertIn(drain, references)
        names = {line.removeprefix("fate-") for line in self.make("fate-list").split()}
        self.assertEqual({name for name in names if "flashvsr-" in name}, references - {drain})
        self.assertIn(drain, names)
        # A warning of make's may stand in front, with codes for the terminal.
        printed = self.make("fate-filter-flashvsr", f"fate-{drain}")
        self.assertEqual(set(re.findall(r"TEST +(\S+)$", printed, re.MULTILINE)), references)


if __name__ == "__main__":
    run_tests()
