# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the tests of the filter share: where things are, runs of ffmpeg, and what every run has to keep to.

From the environment, set by CTest:
  FLASHVSR_TEST_BIN       folder of ffmpeg and ffprobe
  FLASHVSR_TEST_MODELS    folder of the miniature models that make_models.py wrote
  FLASHVSR_TEST_SANITIZE  what the build is instrumented with, empty for nothing
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SKIPPED = 77  # SKIP_RETURN_CODE of the tests
MAX_OUTPUT = 1 << 28  # bytes that a program may print; more is a run that does not stop
HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BIN = Path(os.environ.get("FLASHVSR_TEST_BIN", "."))
MODELS = Path(os.environ.get("FLASHVSR_TEST_MODELS", "."))
SANITIZE = os.environ.get("FLASHVSR_TEST_SANITIZE", "")
JOBS = len(os.sched_getaffinity(0))

SANITIZER_REPORT = re.compile(r"ERROR: \w+Sanitizer|WARNING: ThreadSanitizer|runtime error:|LeakSanitizer")
# A line of the filter's own context at level error: "[Parsed_flashvsr_0 @ 0x1234] [error] text". libavfilter adds
# an echo of its own in that context.
FILTER_ERROR = re.compile(r"^\[[^][]*flashvsr[^][]*\] \[(?:error|fatal|panic)\] "
                          r"(?!Failed to configure output pad)(.*)$", re.MULTILINE)
FILTER_WARNING = re.compile(r"^\[[^][]*flashvsr[^][]*\] \[warning\] (.*)$", re.MULTILINE)


def model(name):
    """Path of a miniature model, as an option's value."""
    return str(MODELS / name)


def flashvsr(name="mini", **options):
    """The filter with a miniature model, as it is written in a filter graph."""
    values = {"model": model(name), **options}
    return "flashvsr=" + ":".join(f"{key}={value}" for key, value in values.items())


def environment(changes=None):
    """The environment of the programs under test."""
    values = dict(os.environ)
    # Several runs at a time share the processors, and the pictures are tiny.
    values.setdefault("OMP_NUM_THREADS", "1")
    values["LC_ALL"] = "C"
    values["AV_LOG_FORCE_NOCOLOR"] = "1"
    if SANITIZE:
        values["ASAN_OPTIONS"] = "detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1"
        values["LSAN_OPTIONS"] = f"suppressions={HERE / 'lsan.supp'}:print_suppressions=0"
        values["UBSAN_OPTIONS"] = "print_stacktrace=1"
    for key, value in (changes or {}).items():
        if value is None:
            values.pop(key, None)
        else:
            values[key] = value
    return values


def arguments(*given):
    """A whole command line of ffmpeg. Levels stand in front of log lines and repeated lines are kept."""
    return [str(BIN / "ffmpeg"), "-hide_banner", "-nostdin", "-nostats", "-y", "-loglevel", "repeat+level+info",
            *map(str, given)]


def communicate(command, timeout, **settings):
    """Run a program to its end: its exit status and what it printed. A flood of output ends it, too."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          **settings) as child:
        printed = {child.stdout: [], child.stderr: []}

        def read(pipe):
            total = 0
            while chunk := pipe.read1(1 << 16):
                total += len(chunk)
                if total > MAX_OUTPUT:
                    child.kill()
                    return
                printed[pipe].append(chunk)

        readers = [threading.Thread(target=read, args=(pipe,)) for pipe in printed]
        for reader in readers:
            reader.start()
        end = time.monotonic() + timeout
        try:
            child.wait(timeout)
        except subprocess.TimeoutExpired:
            child.kill()
        for reader in readers:
            reader.join()
        stdout, stderr = (b"".join(printed[pipe]) for pipe in (child.stdout, child.stderr))
        run = Run(command, child.returncode, stdout, stderr)
        if time.monotonic() > end:
            raise AssertionError(f"not finished after {timeout} s:\n{run}")
        return run


class Run:
    """A finished run of a program."""

    def __init__(self, command, returncode, stdout, stderr):
        self.command = command
        self.returncode = returncode
        self.stdout = stdout  # bytes
        self.stderr = stderr.decode(errors="replace")

    @property
    def text(self):
        return self.stdout.decode()

    def filter_errors(self):
        return FILTER_ERROR.findall(self.stderr)

    def filter_warnings(self):
        return FILTER_WARNING.findall(self.stderr)

    def __str__(self):
        return f"{' '.join(self.command)}\nexit status {self.returncode}\n{self.stderr[-6000:]}"


class Case(unittest.TestCase):
    """A test with a folder of its own and runs of ffmpeg in it."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="flashvsr-test-")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def check_sound(self, run):
        """What holds for good and failed runs alike: no signal, no report of a sanitizer."""
        self.assertGreaterEqual(run.returncode, 0, f"ended by a signal:\n{run}")
        self.assertIsNone(SANITIZER_REPORT.search(run.stderr), f"a sanitizer reported:\n{run}")
        return run

    def run_ffmpeg(self, *given, timeout=120, env=None, cwd=None):
        """Any outcome but a crash."""
        command = arguments(*given)
        return self.check_sound(communicate(command, timeout, env=environment(env), cwd=cwd or self.folder))

    def ffmpeg(self, *given, **settings):
        """A run that has to succeed, and says so."""
        run = self.run_ffmpeg(*given, **settings)
        self.assertEqual(run.returncode, 0, str(run))
        self.assertEqual(run.filter_errors(), [], str(run))
        return run

    def shell(self, block, timeout=300):
        """Commands as a reader of the documents runs them, in a shell that finds this ffmpeg; default options mean
        the miniature model."""
        path = f"{BIN.resolve()}{os.pathsep}{os.environ['PATH']}"
        run = self.check_sound(communicate(["bash", "-e", "-o", "pipefail", "-c", block], timeout, cwd=self.folder,
                                           env=environment({"PATH": path, "FLASHVSR_MODEL_DIR": model("mini")})))
        self.assertEqual(run.returncode, 0, str(run))
        return run

    def probe(self, *given):
        """ffprobe's answer."""
        command = [str(BIN / "ffprobe"), "-v", "error", "-of", "json", *map(str, given)]
        run = self.check_sound(communicate(command, 60, env=environment(), cwd=self.folder))
        self.assertEqual(run.returncode, 0, str(run))
        return json.loads(run.stdout)

    def frames(self, graph, *given, source="testsrc2=size=32x32:rate=25:duration=0.2", pixels="gbrp"):
        """Raw frames that a filter graph makes of a source."""
        return self.ffmpeg("-f", "lavfi", "-i", source, "-vf", graph, *given, "-fps_mode", "passthrough",
                           "-pix_fmt", pixels, "-f", "rawvideo", "-").stdout

    def digest(self, graph, *given, **settings):
        """A checksum of those frames, for comparisons whose failure can be read."""
        content = self.frames(graph, *given, **settings)
        self.assertNotEqual(content, b"")
        return hashlib.sha256(content).hexdigest()

    def in_parallel(self, body, items):
        """Call body with each item, as many at a time as there are processors; every failure is reported."""
        def outcome(item):
            try:
                return body(item)
            except Exception as error:  # reported below, by item
                return error

        with ThreadPoolExecutor(JOBS) as pool:
            outcomes = list(pool.map(outcome, items))
        failed = [(item, error) for item, error in zip(items, outcomes) if isinstance(error, Exception)]
        self.assertFalse(failed, f"{len(failed)} of {len(items)} failed, the first of them: {failed[:1]}\n" +
                         "\n".join(f"{item}: {error}"[:3000] for item, error in failed[:3]))
        return outcomes


class FrameList:
    """The output of the framecrc muxer: the time base and a line per frame."""

    def __init__(self, text):
        self.time_base = None
        self.size = None
        self.pts, self.durations, self.bytes, self.checksums = [], [], [], []
        for line in text.splitlines():
            if line.startswith("#tb 0:"):
                self.time_base = line.split(":")[1].strip()
            elif line.startswith("#dimensions 0:"):
                self.size = line.split(":")[1].strip()
            elif line and not line.startswith("#"):
                _, _, pts, duration, size, checksum = [field.strip() for field in line.split(",")[:6]]
                self.pts.append(int(pts))
                self.durations.append(int(duration))
                self.bytes.append(int(size))
                self.checksums.append(checksum)

    def __len__(self):
        return len(self.pts)


def main():
    """Run a test file; arguments name classes or methods. Exit status 77 where nothing could be run."""
    for program in ("ffmpeg", "ffprobe"):
        if not os.access(BIN / program, os.X_OK):
            print(f"SKIPPED: there is no {program} in {BIN}; scripts/build.sh makes it")
            sys.exit(SKIPPED)
    for name in ("mini", "wide"):
        if not (MODELS / name).is_dir():
            print(f"SKIPPED: there is no model {name} in {MODELS}; the test filter.models makes it")
            sys.exit(SKIPPED)
    run_tests()


def run_tests():
    result = unittest.main(module="__main__", verbosity=2, exit=False).result
    if not result.wasSuccessful():
        sys.exit(1)
    if result.testsRun > len(result.skipped):
        sys.exit(0)
    print("SKIPPED: " + ("; ".join(sorted({reason for _, reason in result.skipped})) or "no test was selected"))
    sys.exit(SKIPPED if result.skipped else 1)
