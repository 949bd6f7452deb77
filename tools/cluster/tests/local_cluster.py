# SPDX-License-Identifier: LGPL-2.1-or-later
"""A Ray cluster on this machine for tests, ended by the ids of its processes."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

PACKAGE = Path(__file__).resolve().parent.parent
WORKER_TITLES = ("ray::IDLE", "ray::Worker", "ray::Board", "ray::part")
END_SECONDS = 20.0


@dataclass(frozen=True)
class Process:
    pid: int
    parent: int
    words: list[str]


def processes() -> list[Process]:
    """What runs now."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            found.append(Process(int(folder.name), parent, words))
    return found


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Cluster:
    """Nodes of this machine, the first with `workers` processors."""

    def __init__(self, workers: int):
        self.folder = tempfile.mkdtemp(prefix="fr-", dir="/tmp")  # paths of sockets have to be short
        self.address = f"127.0.0.1:{free_port()}"
        self.env = {**os.environ, "RAY_ADDRESS": self.address, "PYTHONPATH": str(PACKAGE),
                    "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": self.folder,
                    "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            self._start(workers, "--head", f"--port={self.address.split(':')[1]}", f"--temp-dir={self.folder}",
                        "--include-dashboard=false")
        except BaseException:
            self.stop()
            raise

    def add_node(self, workers: int, inside: Sequence[str] = ()) -> None:
        """@param inside command line that runs another one, given behind it"""
        self._start(workers, f"--address={self.address}", inside=inside)

    def _start(self, workers: int, *words: str, inside: Sequence[str] = ()) -> None:
        ray = str(Path(sys.executable).parent / "ray")
        start = [*inside, ray, "start", f"--num-cpus={workers}", "--object-store-memory=100000000", *words]
        done = subprocess.run(start, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise RuntimeError(f"ray start: {done.stdout}")

    def run(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """`flashvsr-cluster` with a command, to its end."""
        return subprocess.run([sys.executable, "-m", "flashvsr_cluster", *map(str, words)], env=self.env,
                              capture_output=True, text=True)

    def workers(self) -> list[Process]:
        """Workers and the board, idle ones as well; not the nodes' own agents, whose end is the node's."""
        now = processes()
        raylets = {one.pid for one in now if one.words[0].endswith("raylet/raylet") and self._owns(one)}
        return [one for one in now if one.parent in raylets and one.words[0].startswith(WORKER_TITLES)]

    def _owns(self, one: Process) -> bool:
        return any(self.folder in word for word in one.words)

    def _processes(self) -> list[int]:
        """Those that were started with the cluster's environment, some by way of processes that have ended."""
        found = []
        for one in processes():
            with suppress(OSError):
                if self.folder.encode() in Path(f"/proc/{one.pid}/environ").read_bytes():
                    found.append(one.pid)
        return found

    def stop(self) -> None:
        end = time.monotonic() + END_SECONDS
        while (mine := self._processes()) and time.monotonic() < end:
            for pid in mine:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.2)
        shutil.rmtree(self.folder, ignore_errors=True)
