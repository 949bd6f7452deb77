#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs that are disturbed by kill -9 and have to give the same film, bit for bit.

  kill_runs.py N FILM --ffmpeg FFMPEG --vf GRAPH [--part-frames 45] [--workers 3] [--kills 3] [--minutes 0] [--seed 0]

Starts a Ray cluster of its own, makes the film once undisturbed and then N times while random workers, random ffmpeg
processes and the driver are killed at random times. A driver that was killed is started again.
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from local_cluster import Cluster, processes

RUN_SECONDS = 900.0


class Runs:
    def __init__(self, given: argparse.Namespace, cluster: Cluster, folder: Path):
        self.given, self.cluster, self.folder = given, cluster, folder
        self.random = random.Random(given.seed)
        self.killed: Counter[str] = Counter()

    def start(self, out: Path) -> subprocess.Popen[bytes]:
        with open(self.folder / f"{out.stem}.log", "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "flashvsr_cluster", "run", self.given.film, str(out), "--keep", "--ffmpeg",
                 self.given.ffmpeg, "--part-frames", str(self.given.part_frames), "--", "-c:v", "libx264", "-preset",
                 "fast", "--vf", self.given.vf], env=self.cluster.env, stdout=log, stderr=log)

    def victims(self, kind: str, out: Path, driver: subprocess.Popen[bytes]) -> list[int]:
        if kind == "driver":
            return [driver.pid]
        if kind == "worker":
            return [one.pid for one in self.cluster.workers()]
        return [one.pid for one in processes()
                if one.words[0] == self.given.ffmpeg and any(str(self.folder) in word for word in one.words)]

    def kill_one(self, kind: str, out: Path, driver: subprocess.Popen[bytes]) -> bool:
        """Kill a random process of a kind, if there is one now."""
        found = self.victims(kind, out, driver)
        if not found:
            return False
        with suppress(ProcessLookupError):
            os.kill(self.random.choice(found), signal.SIGKILL)
            self.killed[kind] += 1
        return True

    def make(self, name: str, kills: int) -> tuple[str, list[str]]:
        """A film's digest, and what was killed while it was made."""
        out, said, end = self.folder / f"{name}.mp4", [], time.monotonic() + RUN_SECONDS
        driver = self.start(out)
        kinds = [self.random.choice(("worker", "ffmpeg", "driver")) for _ in range(kills)]
        strike = time.monotonic() + self.random.uniform(1, 14)
        while driver.poll() is None:
            if time.monotonic() > end:
                driver.kill()
                raise SystemExit(f"{name}: not finished after {RUN_SECONDS:g} s, see {self.folder}")
            if kinds and time.monotonic() >= strike and self.kill_one(kinds[0], out, driver):
                said.append(kinds.pop(0))
                if said[-1] == "driver":
                    driver.wait()
                    driver = self.start(out)
                strike = time.monotonic() + self.random.uniform(0.2, 5)
            time.sleep(0.02)
        if driver.returncode:
            raise SystemExit(f"{name}: exit status {driver.returncode}\n"
                             f"{(self.folder / f'{name}.log').read_text()[-2000:]}")
        shutil.rmtree(self.folder / f"{name}.mp4.parts")
        return hashlib.sha256(out.read_bytes()).hexdigest(), said


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", type=int, metavar="N")
    parser.add_argument("film")
    parser.add_argument("--ffmpeg", required=True)
    parser.add_argument("--vf", required=True)
    parser.add_argument("--part-frames", type=int, default=45)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=0, help="begin no run after this long; 0: no limit")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()

    since = time.monotonic()
    cluster = Cluster(given.workers)
    try:
        with tempfile.TemporaryDirectory(prefix="kill-runs-") as name:
            runs = Runs(given, cluster, Path(name))
            undisturbed, _ = runs.make("undisturbed", 0)
            print(f"undisturbed: {undisturbed[:16]} after {time.monotonic() - since:.0f} s", flush=True)
            same = made = 0
            for index in range(given.runs):
                if given.minutes and time.monotonic() - since > given.minutes * 60:
                    break
                digest, said = runs.make(f"run{index}", given.kills)
                made += 1
                same += digest == undisturbed
                print(f"run {index}: {'same' if digest == undisturbed else 'DIFFERENT'}, killed {', '.join(said)}, "
                      f"{time.monotonic() - since:.0f} s", flush=True)
    finally:
        cluster.stop()
    print(f"{same} of {made} runs are identical to the undisturbed one; killed {dict(runs.killed)}")
    sys.exit(0 if made and same == made else 1)


if __name__ == "__main__":
    main()
