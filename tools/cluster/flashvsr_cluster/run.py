# SPDX-License-Identifier: LGPL-2.1-or-later
"""The parts of a film dealt out to a Ray cluster, until all of them are there."""

import os
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

import flashvsr_cluster
from flashvsr_cluster.errors import Cause, ClusterError
from flashvsr_cluster.part import STALL_SECONDS, Job, job_of
from flashvsr_cluster.plan import Plan
from flashvsr_cluster.progress import Progress, State
from flashvsr_cluster.state import Work
from flashvsr_cluster.worker import Board, Moved, Outcome, Place, Setup, Worker, put_blocks

BLOCK_BYTES = 1 << 25
WAIT_SECONDS = 0.5
# How long a cluster may be without room for a worker: until its nodes are known, until one comes back.
START_SECONDS, NODE_SECONDS = 10.0, 120.0
RESTART_SECONDS = 30.0  # that the other workers go on alone after one was lost while it started: its node may be bad


@dataclass(frozen=True)
class Limits:
    """What a worker takes of the cluster, and when to give up."""

    gpus: float = 1
    cpus: float = 1
    tries: int = 3  # of a part that ffmpeg refuses to make
    crashes: int = 20  # of a part, lost workers included
    strikes: int = 3  # failures in a row that leave a device out
    stall: float = STALL_SECONDS


@dataclass
class Member:
    """A worker and what it does."""

    actor: Any
    asked: Any  # reference to the answer that is awaited
    place: Place | None = None  # None: it has not started yet
    index: int | None = None  # of the part that it makes


@dataclass
class Tally:
    """What went wrong with a part so far."""

    refused: int = 0
    crashed: int = 0
    devices: set[Any] = field(default_factory=set)


def connect(address: str | None) -> None:
    """Join a cluster: the one named, the one of this machine, else one of our own."""
    package = str(Path(flashvsr_cluster.__file__).parent)
    try:
        ray.init(address=address, runtime_env={"py_modules": [package]}, log_to_driver=False,
                 configure_logging=False, namespace=f"flashvsr-{os.getpid()}")
    except (ConnectionError, RuntimeError, ValueError) as error:
        asked = address or os.environ.get("RAY_ADDRESS") or "this machine"
        raise ClusterError(f"no Ray cluster at {asked}: {str(error).splitlines()[0]}") from error


def slots(limits: Limits) -> int:
    """Workers that the cluster as it is now has room for."""
    have = ray.cluster_resources()
    counts = [int(have.get(name, 0) / share + 1e-6)
              for name, share in (("GPU", limits.gpus), ("CPU", limits.cpus)) if share > 0]
    return min(counts, default=0)


def default_gpus() -> float:
    """One for each worker where the cluster has any."""
    return 1 if ray.cluster_resources().get("GPU", 0) >= 1 else 0


class Driver:
    """Deals parts out to workers. A worker that was lost is replaced; a device that fails again and again is left out
    by keeping its worker, which holds it, and giving it nothing."""

    def __init__(self, plan: Plan, work: Work, limits: Limits, move: bool):
        self._plan, self._work, self._limits = plan, work, limits
        done = work.done(plan)
        self._waiting = [index for index, part in enumerate(plan.parts) if part not in done]
        self._frames = sum(part.kept for part in done)
        self._done = len(done)
        self._jobs: dict[int, Job] = {}
        self._tallies: dict[int, Tally] = defaultdict(Tally)
        self._strikes: dict[Any, int] = defaultdict(int)
        self._members: list[Member] = []
        self._left_out: list[Member] = []
        self._problems: list[str] = []
        self._lost_starting = 0
        self._lost_at = float("-inf")
        self._said: set[str] = set()
        self._board = ray.remote(Board).options(num_cpus=0, max_restarts=-1).remote()
        self._frames_of: dict[str, int] = {}
        self._board_asked: Any = None
        self._setup = self._make_setup(move)
        self._alone_since: float | None = None
        self._had_workers = False
        self._progress = Progress(work, self._state())

    def _make_setup(self, move: bool) -> Setup:
        film, moved = self._plan.film, None
        if move:
            path = Path(film.path)
            moved = Moved(film.digest, path.suffix, film.size, tuple(put_blocks(path, BLOCK_BYTES)))
        return Setup(self._plan.tools, self._plan.ffmpeg_version, self._plan.weights,
                     None if move else self._work.folder, moved, self._limits.stall)

    def run(self) -> None:
        """@throws ClusterError where a part cannot be made, or no worker can make any"""
        try:
            while self._waiting or any(member.index is not None for member in self._members):
                self._grow()
                self._deal()
                self._collect()
                self._progress.show(self._state())
        finally:
            self._progress.end()
            for member in (*self._members, *self._left_out):
                ray.kill(member.actor)

    def _state(self) -> State:
        busy = [member.index for member in self._members if member.index is not None]
        partly = sum(min(self._frames_of.get(self._job(index).key, 0), self._plan.parts[index].kept)
                     for index in busy)
        return State(self._frames + partly, self._plan.film.frames, self._done, len(self._plan.parts), len(busy))

    def _job(self, index: int) -> Job:
        if index not in self._jobs:
            self._jobs[index] = job_of(self._plan, index)
        return self._jobs[index]

    def _grow(self) -> None:
        """Start workers while there is work and room, also on nodes that joined lately."""
        room = slots(self._limits) - len(self._left_out)
        busy = sum(member.index is not None for member in self._members)
        self._check_room(room)
        if self._members and time.monotonic() - self._lost_at < RESTART_SECONDS:
            return
        for _ in range(min(room, busy + len(self._waiting)) - len(self._members)):
            actor = ray.remote(Worker).options(num_gpus=self._limits.gpus, num_cpus=self._limits.cpus).remote(
                self._setup, self._board)
            self._members.append(Member(actor, actor.place.remote()))
            self._had_workers = True

    def _check_room(self, room: int) -> None:
        """@throws ClusterError where nothing but new nodes could help, and none came"""
        if room > 0 or self._members:
            self._alone_since = None
            return
        if self._alone_since is None:
            self._alone_since = time.monotonic()
        patience = NODE_SECONDS if self._had_workers else START_SECONDS
        if self._problems or time.monotonic() - self._alone_since > patience:
            raise ClusterError(self._no_worker())
        time.sleep(WAIT_SECONDS)

    def _no_worker(self) -> str:
        if self._problems:
            return f"no worker is left: {'; '.join(dict.fromkeys(self._problems))}"
        need = f"{self._limits.gpus:g} GPUs and {self._limits.cpus:g} CPUs" if self._limits.gpus else \
            f"{self._limits.cpus:g} CPUs"
        return f"the cluster has no room for a worker with {need}; see --gpus and --cpus"

    def _deal(self) -> None:
        for member in self._members:
            if member.place and member.index is None and self._waiting:
                device = member.place.device
                fresh = [index for index in self._waiting if device not in self._tallies[index].devices]
                member.index = (fresh or self._waiting)[0]
                self._waiting.remove(member.index)
                job = self._job(member.index)
                member.asked = member.actor.make.options(name=job.name).remote(job)

    def _collect(self) -> None:
        """Take in what workers answered."""
        asked = {member.asked: member for member in self._members if member.asked is not None}
        ready, _ = ray.wait(list(asked), timeout=WAIT_SECONDS) if asked else ([], [])
        for reference in ready:
            self._answer(asked[reference])
        self._read_board()

    def _read_board(self) -> None:
        if self._board_asked is None:
            self._board_asked = self._board.read.remote()
        if ray.wait([self._board_asked], timeout=0)[0]:
            try:
                self._frames_of = ray.get(self._board_asked)
            except RayError:  # it was lost and starts again; only the live line depends on it
                pass
            self._board_asked = None

    def _answer(self, member: Member) -> None:
        try:
            answer = ray.get(member.asked)
        except RayActorError:
            self._lost(member)
            return
        except RayError as error:
            why = str(error).strip().splitlines()[-1]
            if member.place is None:  # such as a node that cannot set up the job's environment
                ray.kill(member.actor)
                self._lost(member, why)
                return
            answer = Outcome(cause=Cause.REFUSED, sentence=why)
        member.asked = None
        if isinstance(answer, Place):
            self._started(member, answer)
        elif isinstance(answer, Outcome):
            self._made(member, answer)

    def _started(self, member: Member, place: Place) -> None:
        member.place = place
        self._lost_starting = 0
        if place.problem:
            self._leave_out(member, place.problem)
        elif self._strikes[place.device] >= self._limits.strikes and self._others(member):
            self._leave_out(member, f"{self._strikes[place.device]} failures in a row")

    def _made(self, member: Member, outcome: Outcome) -> None:
        index, place = member.index, member.place
        assert index is not None and place
        member.index = None
        if outcome.record:
            self._take_in(index, outcome)
            self._strikes[place.device] = 0
        elif outcome.cause is Cause.UNFIT:
            self._waiting.insert(0, index)
            self._leave_out(member, outcome.sentence)
        elif outcome.cause is Cause.FATAL:
            raise ClusterError(outcome.sentence)
        else:
            self._failed(index, place, outcome.cause is Cause.CRASH, outcome.sentence)
            if self._strikes[place.device] >= self._limits.strikes and self._others(member):
                self._leave_out(member, f"{self._strikes[place.device]} failures in a row")

    def _take_in(self, index: int, outcome: Outcome) -> None:
        record = outcome.record
        assert record
        if outcome.content is not None:
            with self._work.attempt(record.key) as folder:
                made = folder / "part.nut"
                made.write_bytes(outcome.content)
                self._work.add(made, record)
        self._done += 1
        self._frames += self._plan.parts[index].kept

    def _lost(self, member: Member, why: str = "") -> None:
        """A worker's process or node is gone.

        @param why where that is known, as a sentence
        """
        self._members.remove(member)
        if member.index is not None and member.place:
            self._failed(member.index, member.place, True, "the worker was lost")
        else:
            self._lost_starting += not self._members  # where there are others the film goes on by them
            self._lost_at = time.monotonic()
            if why and why not in self._said:
                self._said.add(why)
                self._progress.say(f"a worker was lost while it started: {why}")
            if self._lost_starting > self._limits.crashes:
                raise ClusterError(f"{self._lost_starting} workers in a row were lost while they started; "
                                   "see Ray's logs in /tmp/ray/session_latest/logs")

    def _failed(self, index: int, place: Place, crashed: bool, sentence: str) -> None:
        """Count a failure against the part and the device; the part is tried again until its limit."""
        tally, name = self._tallies[index], self._job(index).name
        tally.devices.add(place.device)
        tally.crashed += crashed
        tally.refused += not crashed
        self._strikes[place.device] += 1
        if tally.refused >= self._limits.tries or tally.crashed >= self._limits.crashes:
            tried = tally.refused + tally.crashed
            raise ClusterError(f"{name} failed {tried} times, last on {place}: {sentence}")
        self._progress.say(f"{name} failed on {place} and is tried again: {sentence}")
        self._waiting.insert(0, index)

    def _others(self, member: Member) -> bool:
        """Whether another device is there or about to be, so that this one can be done without."""
        assert member.place
        return any(other.place is None or other.place.device != member.place.device
                   for other in self._members if other is not member)

    def _leave_out(self, member: Member, why: str) -> None:
        self._members.remove(member)
        self._left_out.append(member)
        sentence = f"{member.place} is left out: {why}"
        self._problems.append(sentence)
        self._progress.say(sentence)


def run_parts(plan: Plan, work: Work, limits: Limits, move: bool) -> None:
    """Make all parts that are missing, on the cluster that this process is connected to."""
    work.drop_attempts()
    if len(work.done(plan)) < len(plan.parts):
        Driver(plan, work, limits, move).run()
