#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a film costs in parts on one worker, against one run of ffmpeg over the whole.

  overhead.py FILM --ffmpeg FFMPEG --vf GRAPH [--part-frames 300]

Starts a Ray cluster of its own with room for one worker. Scene cuts are left unused, so that every part has its
lead-in. Both run at the same time, so that both see the same machine, and at the same priority, where Ray would
give its workers a lower one (15 by nice); give it two cores and set OMP_NUM_THREADS=1. The exit status is 1 where the
parts take more than 1.15 of the single run, by the clock or by ffmpeg's processor time.
"""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from local_cluster import Cluster

LIMIT = 1.15
OPTIONS = ["-c:v", "libx264", "-preset", "fast"]


def timed(name: str, command: list[str], env: dict[str, str]) -> float:
    """Seconds that a program takes."""
    since = time.monotonic()
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=env)
    if done.returncode:
        raise SystemExit(f"{name}: exit status {done.returncode}\n{done.stderr[-2000:]}")
    return time.monotonic() - since


class Meter:
    """An ffmpeg that notes its processor time."""

    def __init__(self, folder: Path, ffmpeg: str):
        folder.mkdir()
        self.program, self._notes = folder / "ffmpeg", folder / "times"
        self.program.write_text(f'#!/bin/sh\n{shlex.quote(ffmpeg)} "$@"\nstatus=$?\n'
                                f'{{ echo "run $1"; times; }} >>{shlex.quote(str(self._notes))}\nexit $status\n')
        self.program.chmod(0o755)
        (folder / "ffprobe").symlink_to(Path(ffmpeg).with_name("ffprobe"))

    def seconds(self, first: str) -> float:
        """Of all runs whose first argument is that."""
        runs = [run for run in self._notes.read_text().split("run ") if run.startswith(f"{first}\n")]
        found = [pair for run in runs for pair in re.findall(r"(\d+)m([\d.]+)s", run)]
        return sum(60 * int(minutes) + float(seconds) for minutes, seconds in found)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("film")
    parser.add_argument("--ffmpeg", required=True)
    parser.add_argument("--vf", required=True)
    parser.add_argument("--part-frames", type=int, default=300)
    given = parser.parse_args()

    os.environ["RAY_worker_niceness"] = "0"
    cluster = Cluster(1)
    try:
        with tempfile.TemporaryDirectory(prefix="overhead-") as name:
            folder = Path(name)
            out, parts, single = folder / "out.mp4", *(Meter(folder / one, given.ffmpeg) for one in ("parts", "single"))
            words = [given.film, str(out), "--ffmpeg", str(parts.program), "--part-frames", str(given.part_frames),
                     "--scene-threshold", "100"]
            program, film = [sys.executable, "-m", "flashvsr_cluster"], [*OPTIONS, "--vf", given.vf]
            plan_s = timed("plan", [*program, "plan", *words, "--", *film], cluster.env)
            with ThreadPoolExecutor(1) as beside:
                whole = beside.submit(timed, "ffmpeg", [
                    str(single.program), "-v", "error", "-i", given.film, "-vf", given.vf, *OPTIONS, "-c:a", "copy",
                    str(folder / "single.mp4")], cluster.env)
                run_s = timed("run", [*program, "run", *words, "--keep", "--", *film], cluster.env)
                single_s = whole.result()
            single_cpu_s, parts_cpu_s = single.seconds("-v"), parts.seconds("-progress")
            work = Path(f"{out}.parts")
            plan = json.loads((work / "plan.json").read_text())
            records = [json.loads(path.read_text()) for path in (work / "parts").glob("*.json")]
    finally:
        cluster.stop()

    frames, parts_s = len(plan["film"]["pts"]), sum(record["seconds"] for record in records)
    twice = sum(part["last"] - part["first"] for part in plan["parts"]) - frames
    print(f"one run of ffmpeg: {single_s:.1f} s, {frames / single_s:.1f} frames/s; "
          f"{single_cpu_s:.1f} s of processor time")
    print(f"{len(records)} parts on one worker: {parts_s:.1f} s, {parts_s / single_s:.3f} of it; "
          f"{parts_cpu_s:.1f} s of processor time, {parts_cpu_s / single_cpu_s:.3f}; "
          f"{twice / frames:.3f} of the frames are given twice")
    print(f"planning: {plan_s:.1f} s; the run with Ray's start of a worker and joining: {run_s:.1f} s, "
          f"{run_s / single_s:.3f}")
    worst = max(parts_s / single_s, parts_cpu_s / single_cpu_s)
    sys.exit(0 if len(records) == len(plan["parts"]) and worst <= LIMIT else 1)


if __name__ == "__main__":
    main()
