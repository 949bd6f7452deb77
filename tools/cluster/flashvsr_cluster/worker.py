# SPDX-License-Identifier: LGPL-2.1-or-later
"""What runs on the cluster: workers that make parts, and a board where they put how far they are."""

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.util.metrics import Counter

from flashvsr_cluster import ffmpeg
from flashvsr_cluster.errors import Cause, ClusterError, PartError
from flashvsr_cluster.part import STALL_SECONDS, Job, check_tools, make_part
from flashvsr_cluster.state import Record, Work, publish
from flashvsr_cluster.weights import Weights

REPORT_SECONDS = 1.0


@dataclass(frozen=True)
class Moved:
    """A film that workers do not see, as blocks in Ray's object store."""

    digest: str
    suffix: str
    size: int  # bytes
    blocks: tuple[Any, ...]  # references to bytes


@dataclass(frozen=True)
class Setup:
    """What all workers have in common."""

    tools: ffmpeg.Tools
    ffmpeg_version: str
    weights: Weights
    work: Path | None  # the shared work folder; None: parts go back through Ray
    moved: Moved | None
    stall: float = STALL_SECONDS


@dataclass(frozen=True)
class Place:
    """Where a worker runs, and why it cannot, if so."""

    node: str
    gpus: tuple[str, ...]
    host: str
    problem: str | None = None

    @property
    def device(self) -> tuple[str, tuple[str, ...]]:
        """What is left out when it fails again and again."""
        return self.node, self.gpus

    def __str__(self) -> str:
        return f"{self.host} GPU {','.join(self.gpus)}" if self.gpus else self.host


@dataclass(frozen=True)
class Outcome:
    """What became of a part."""

    record: Record | None = None
    content: bytes | None = None  # where there is no shared folder
    cause: Cause | None = None
    sentence: str = ""


class Board:
    """Frames done of the parts that are under way."""

    def __init__(self) -> None:
        self._frames: dict[str, int] = {}

    def put(self, key: str, frames: int) -> None:
        self._frames[key] = frames

    def read(self) -> dict[str, int]:
        return self._frames


def fetch_film(moved: Moved, folder: Path) -> Path:
    """The film's copy on this node; made by the first worker that needs it."""
    film = folder / f"{moved.digest}{moved.suffix}"
    if not film.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".film-", delete=False) as file:
            try:
                for block in moved.blocks:
                    file.write(ray.get(block))
                file.flush()
                publish(Path(file.name), film)
            finally:
                Path(file.name).unlink(missing_ok=True)
    return film


def node_folder() -> Path:
    """Where a node keeps what was moved to it."""
    return Path(tempfile.gettempdir()) / f"flashvsr-cluster-{os.getuid()}"


class Worker:
    """Makes one part at a time on the device that Ray gave it."""

    def __init__(self, setup: Setup, board: Any):
        self._setup, self._board = setup, board
        self._frames = Counter("flashvsr_frames", description="Frames upscaled", tag_keys=("host",))

    def place(self) -> Place:
        """Where this is, after a look at the programs and the weights."""
        context = ray.get_runtime_context()
        gpus = tuple(context.get_accelerator_ids().get("GPU", []))
        place = Place(context.get_node_id(), gpus, os.uname().nodename)
        try:
            check_tools(self._setup.tools, self._setup.ffmpeg_version, self._setup.weights)
            return place
        except ClusterError as error:
            return replace(place, problem=str(error))

    def make(self, job: Job) -> Outcome:
        """Make a part. Failures are values: they say what the driver is to do."""
        outcome = self._make_shared(job, self._setup.work) if self._setup.work else self._make_apart(job)
        if outcome.record:
            self._frames.inc(outcome.record.frames, tags={"host": outcome.record.host})
        return outcome

    def _make_shared(self, job: Job, folder: Path) -> Outcome:
        try:
            return Outcome(make_part(job, Work(folder), self._reporter(job), self._setup.stall))
        except PartError as error:
            return Outcome(cause=error.cause, sentence=str(error))

    def _make_apart(self, job: Job) -> Outcome:
        assert self._setup.moved
        work = Work(node_folder() / "work")
        try:
            work.create()
            film = fetch_film(self._setup.moved, node_folder())
            record = make_part(replace(job, film=str(film)), work, self._reporter(job), self._setup.stall)
            content = work.part_file(job.key).read_bytes()
            work.record_file(job.key).unlink()
            work.part_file(job.key).unlink()
            return Outcome(record, content)
        except PartError as error:
            # Its own disk may be full while others' are not.
            cause = Cause.UNFIT if error.cause is Cause.FATAL else error.cause
            return Outcome(cause=cause, sentence=str(error))
        except (ClusterError, OSError) as error:
            return Outcome(cause=Cause.UNFIT, sentence=str(error))

    def _reporter(self, job: Job) -> Callable[[int], None]:
        told = time.monotonic()

        def report(frames: int) -> None:
            nonlocal told
            if time.monotonic() - told >= REPORT_SECONDS:
                self._board.put.remote(job.key, frames)
                told = time.monotonic()

        return report


def put_blocks(film: Path, size: int) -> Sequence[Any]:
    """Put a file into Ray's object store, block by block."""
    blocks = []
    with open(film, "rb") as file:
        while block := file.read(size):
            blocks.append(ray.put(block))
    return blocks
