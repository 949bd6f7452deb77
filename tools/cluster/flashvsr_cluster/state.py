# SPDX-License-Identifier: LGPL-2.1-or-later
"""The work folder of a film: its plan, what is done, what is under way. Every file in it takes its name when whole."""

import fcntl
import json
import os
import shutil
import time
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Iterator, Sequence

from flashvsr_cluster.errors import ClusterError
from flashvsr_cluster.plan import Part, Plan

KEY = "[0-9a-f]" * 32  # of a part, as a pattern
# All that the tool makes in a work folder, as patterns, in the order in which it goes. Names that begin with a dot are
# files that a process was killed over. Anything else is the user's. Until the plan is gone the same command goes on.
SCRATCH = (f"attempts/{KEY}.*",)
OWN = (*SCRATCH, f"parts/{KEY}.nut", f"parts/{KEY}.json", f"parts/.{KEY}.json.*", "parts/list.ffconcat",
       "parts/.list.ffconcat.*", f"logs/{KEY}.log", "logs/slurm-*.log", "array.sh", "join.sh", "submit.sh",
       ".array.sh.*", ".join.sh.*", ".submit.sh.*", "progress.json", ".progress.json.*", ".plan.json.*",
       ".finished.json.*", "plan.json", "finished.json", "lock")


@dataclass(frozen=True)
class Record:
    """A part that is done. Streams that are to be joined agree in codec, size and extradata."""

    key: str
    frames: int
    size: int  # bytes
    start_us: int  # of its file, as FFmpeg's demuxer has it
    stream: tuple[str, ...]  # codec, width, height, digest of the extradata
    seconds: float  # that it took
    host: str


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def publish(temporary: Path, final: Path) -> None:
    """Give a finished file its name, in one step and only after its content is on the disk."""
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, final)
    sync_folder(final.parent)


def write_whole(final: Path, content: str | bytes) -> None:
    """Write a small file so that it is there whole or not at all."""
    temporary = final.with_name(f".{final.name}.{os.uname().nodename}.{os.getpid()}")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        publish(temporary, final)
    finally:
        temporary.unlink(missing_ok=True)


class Work:
    """A work folder. Any number of processes may add parts to it; one at a time may lead."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.plan_file = folder / "plan.json"
        self.finished_file = folder / "finished.json"
        self.progress_file = folder / "progress.json"
        self.parts = folder / "parts"
        self.attempts = folder / "attempts"
        self.logs = folder / "logs"

    @staticmethod
    def of(out: Path) -> "Work":
        """Where the parts of an output are kept when no other folder is named."""
        return Work(out.with_name(out.name + ".parts"))

    def create(self) -> None:
        """@throws ClusterError where the folder cannot be made"""
        try:
            for folder in (self.parts, self.attempts, self.logs):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ClusterError(f"{self.folder} cannot be made: {error.strerror}") from error

    @contextmanager
    def lead(self) -> Iterator[None]:
        """Be the one process that plans, joins and cleans.

        @throws ClusterError while another one does
        """
        self.create()
        with open(self.folder / "lock", "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ClusterError(f"another flashvsr-cluster works in {self.folder}") from error
            yield

    def led(self) -> bool:
        """Whether a process leads now."""
        try:
            with open(self.folder / "lock") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
        except BlockingIOError:
            return True
        except OSError:
            return False

    def save_plan(self, plan: Plan) -> None:
        write_whole(self.plan_file, plan.to_json())

    def load_plan(self) -> Plan | None:
        """The plan, or None where there is none yet."""
        try:
            return Plan.from_json(self.plan_file.read_text())
        except FileNotFoundError:
            return None
        except ClusterError as error:
            raise ClusterError(f"{self.plan_file}: {error}") from error

    def need_plan(self) -> Plan:
        """@throws ClusterError where there is none"""
        plan = self.load_plan()
        if plan is None:
            raise ClusterError(f"{self.folder} has no plan")
        return plan

    def part_file(self, key: str) -> Path:
        return self.parts / f"{key}.nut"

    def record_file(self, key: str) -> Path:
        return self.parts / f"{key}.json"

    def add(self, made: Path, record: Record) -> None:
        """Take in a part. Its record comes last: a part without one is not there."""
        publish(made, self.part_file(record.key))
        write_whole(self.record_file(record.key), json.dumps(asdict(record)))

    def record(self, key: str) -> Record | None:
        """A part's record where the part is there and as long as it says."""
        try:
            values = json.loads(self.record_file(key).read_text())
            record = Record(**{**values, "stream": tuple(values["stream"])})
            return record if self.part_file(key).stat().st_size == record.size else None
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def done(self, plan: Plan) -> dict[Part, Record]:
        """The plan's parts that are there."""
        found = {part: self.record(plan.key(part)) for part in plan.parts}
        return {part: record for part, record in found.items() if record}

    @contextmanager
    def attempt(self, key: str) -> Iterator[Path]:
        """A folder for one attempt at a part, which no other process uses."""
        folder = self.attempts / f"{key}.{os.uname().nodename}.{os.getpid()}.{time.monotonic_ns()}"
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def drop_attempts(self) -> None:
        """Remove what attempts that were killed have left."""
        self._remove(SCRATCH)

    def finish(self, plan: Plan, made: Path, out: Path) -> None:
        """Note which file the film becomes, before it takes its name: without a note it would count as another's."""
        write_whole(self.finished_file, json.dumps({"plan": plan.digest, **_look(made, out)}))

    def finished(self, plan: Plan, out: Path) -> bool:
        """Whether the film is made as planned, and still is the file that it became."""
        return self.made_by(out) == plan.digest

    def made_by(self, out: Path) -> str | None:
        """Digest of the plan that a file was joined by in this folder, None where it is any other file."""
        try:
            note = dict(json.loads(self.finished_file.read_text()))
            plan = str(note.pop("plan"))
            return plan if note == _look(out, out) else None
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def remove(self) -> None:
        """Remove what the tool made, and the folders where nothing else is in them."""
        self._remove(OWN)
        for folder in (self.parts, self.attempts, self.logs, self.folder):
            with suppress(OSError):
                folder.rmdir()

    def _remove(self, patterns: Sequence[str]) -> None:
        for pattern in patterns:
            for path in self.folder.glob(pattern):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


def _look(file: Path, out: Path) -> dict[str, str | int]:
    """How a film is known again under its name."""
    found = file.stat()
    return {"out": str(out), "size": found.st_size, "time": found.st_mtime_ns}
