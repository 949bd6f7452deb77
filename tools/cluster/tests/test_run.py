# SPDX-License-Identifier: LGPL-2.1-or-later
"""Parts dealt to workers that fail in every way. Ray is real, ffmpeg is not."""

import os
import signal
import time

import pytest
import ray
from conftest import film_of, plan_of

from flashvsr_cluster import run
from flashvsr_cluster.errors import Cause, ClusterError
from flashvsr_cluster.state import Record, Work
from flashvsr_cluster.worker import Outcome, Place

PARTS = 4


@pytest.fixture(scope="module", autouse=True)
def cluster():
    os.environ.update(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=80_000_000)
    yield
    ray.shutdown()


def stub(folder, behaviour):
    """A worker whose parts are a word. It is told its number, of those started so far, and what to do with a part."""
    def add(key):
        work = Work(folder)
        record = Record(key, 1, 4, 0, ("h264",), 1.0, "here")
        with work.attempt(key) as attempt:
            (attempt / "part.nut").write_bytes(b"film")
            work.add(attempt / "part.nut", record)
        return Outcome(record)

    class Worker:
        def __init__(self, setup, board):
            numbers = folder / "numbers"
            numbers.mkdir(exist_ok=True)
            (numbers / str(os.getpid())).touch()
            self.number = len(list(numbers.iterdir()))

        def place(self):
            return Place("node", (str(self.number),), "here", behaviour(self.number, "place"))

        def make(self, job):
            return behaviour(self.number, job.part.begin) or add(job.key)

    return Worker


def make(work, monkeypatch, behaviour, limits=None):
    """Run a film of four parts."""
    plan = plan_of(film_of(), count=PARTS)
    monkeypatch.setattr(run, "Worker", stub(work.folder, behaviour))
    run.run_parts(plan, work, limits or run.Limits(gpus=0, cpus=1), move=False)
    return plan


def test_all_parts_are_made(work, monkeypatch):
    plan = make(work, monkeypatch, lambda number, what: None)
    assert len(work.done(plan)) == PARTS


def test_a_film_that_is_done_needs_no_worker(work, monkeypatch):
    make(work, monkeypatch, lambda number, what: None)
    make(work, monkeypatch, lambda number, what: os._exit(1))


def test_a_lost_worker_is_replaced(work, monkeypatch):
    once = work.folder / "once"

    def behaviour(number, what):
        if what == 0 and not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    plan = make(work, monkeypatch, behaviour)
    assert once.exists() and len(work.done(plan)) == PARTS


def test_a_worker_without_the_model_is_left_out_with_its_sentence(work, monkeypatch, capsys):
    def behaviour(number, what):
        return "model '/m' cannot be read" if (number, what) == (1, "place") else None

    plan = make(work, monkeypatch, behaviour)
    assert len(work.done(plan)) == PARTS
    assert "here GPU 1 is left out: model '/m' cannot be read" in capsys.readouterr().err


class WithoutEnvironment:
    """An actor's class whose environment no node can set up, as where its package cannot be fetched."""

    def __init__(self, made):
        self.made = made

    def options(self, **given):
        return self.made.options(**given, runtime_env={"py_modules": ["gcs://_ray_pkg_0123456789abcdef.zip"]})


def test_a_worker_whose_environment_cannot_be_set_up_is_one_sentence(work, monkeypatch, capsys):
    remote, started = ray.remote, []

    def first_one_without(kind):
        made = remote(kind)
        if kind is run.Worker:
            started.append(kind)
        return WithoutEnvironment(made) if started == [kind] else made

    def behaviour(number, what):
        if what != "place":
            time.sleep(2)  # the film takes longer than Ray's answer

    monkeypatch.setattr(ray, "remote", first_one_without)
    plan = make(work, monkeypatch, behaviour)
    assert len(work.done(plan)) == PARTS
    assert capsys.readouterr().err.count("flashvsr-cluster: a worker was lost while it started: ") == 1


def test_workers_that_are_lost_while_they_start_do_not_end_a_film_that_others_make(work, monkeypatch, capsys):
    fit = work.folder / "fit"

    def behaviour(number, what):
        if what != "place":
            time.sleep(1)
        else:
            fit.touch(exist_ok=False)  # all but the first worker fail

    monkeypatch.setattr(run, "RESTART_SECONDS", 0.1)
    plan = make(work, monkeypatch, behaviour, run.Limits(gpus=0, cpus=1, crashes=1))
    assert len(work.done(plan)) == PARTS
    assert len(list((work.folder / "numbers").iterdir())) > 3
    assert capsys.readouterr().err.count("lost while it started: FileExistsError: ") == 1


def test_a_film_ends_where_all_workers_are_lost_while_they_start(work, monkeypatch):
    def behaviour(number, what):
        raise ValueError("bad node")

    with pytest.raises(ClusterError, match="^3 workers in a row were lost while they started; see Ray's logs"):
        make(work, monkeypatch, behaviour, run.Limits(gpus=0, cpus=1, crashes=2))


def test_no_fit_worker_at_all_is_one_sentence(work, monkeypatch):
    with pytest.raises(ClusterError, match="^no worker is left: .*model '/m' cannot be read"):
        make(work, monkeypatch, lambda number, what: "model '/m' cannot be read" if what == "place" else None)


def test_a_device_that_fails_again_and_again_is_left_out(work, monkeypatch, capsys):
    def behaviour(number, what):
        if what != "place":
            if number == 1:
                return Outcome(cause=Cause.CRASH, sentence="Xid 79")
            time.sleep(1.5)  # the bad one is the faster one
        return None

    plan = make(work, monkeypatch, behaviour)
    assert len(work.done(plan)) == PARTS
    assert "here GPU 1 is left out: 3 failures in a row" in capsys.readouterr().err


def test_a_part_that_ffmpeg_refuses_everywhere_ends_the_film(work, monkeypatch):
    def behaviour(number, what):
        return Outcome(cause=Cause.REFUSED, sentence="scale 9 is above 8") if what != "place" else None

    with pytest.raises(ClusterError, match=r"part \d/4, .* failed 3 times, last on here .*: scale 9 is above 8"):
        make(work, monkeypatch, behaviour)


def test_a_full_disk_ends_the_film_at_once(work, monkeypatch):
    def behaviour(number, what):
        return Outcome(cause=Cause.FATAL, sentence="the disk of /w is full") if what != "place" else None

    with pytest.raises(ClusterError, match="^the disk of /w is full$"):
        make(work, monkeypatch, behaviour)


def test_a_worker_that_no_node_has_room_for_is_one_sentence(work, monkeypatch):
    with pytest.raises(ClusterError, match="no room for a worker with 1 GPUs and 1 CPUs"):
        make(work, monkeypatch, lambda number, what: None, run.Limits(gpus=1, cpus=1))
