# SPDX-License-Identifier: LGPL-2.1-or-later
"""The same parts for SLURM: an array job that makes them and a job that joins them."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

from flashvsr_cluster.errors import UsageError
from flashvsr_cluster.plan import Plan
from flashvsr_cluster.state import Work, write_whole


@dataclass(frozen=True)
class Resources:
    """What an array task asks for."""

    gpus: int
    cpus: int
    at_once: int  # tasks; 0: as many as there is room for
    extra: Sequence[str]  # further options of sbatch


def program(*words: str | Path) -> str:
    """A command line of this package."""
    return shlex.join([sys.executable, "-m", "flashvsr_cluster", *map(str, words)])


def require_logs(work: Work) -> None:
    """@throws UsageError where SLURM cannot be told the folder of the logs"""
    # With a backslash in a log's name SLURM replaces no % in it, and a line of a script holds no line break.
    for letter, name in (("\\", "a backslash"), ("\n", "a line break")):
        if letter in str(work.folder):
            raise UsageError(f"{str(work.folder)!r} has {name} in it, which SLURM does not take in the name of a log")


def _log(work: Work, name: str) -> str:
    """A log's path for an option in a script. There sbatch ends a word at a space, a line at a #, and knows quotes.

    @param name in which a % means something, as it does not in the folder's
    """
    folder = str(work.logs).replace("%", "%%").replace('"', '\\"')
    return f'"{folder}/{name}"'


def _script(name: str, log: str, options: Sequence[str], lines: Sequence[str]) -> str:
    directives = [f"--job-name={name}", f"--output={log}", *options]
    head = ["#!/bin/sh", *(f"#SBATCH {option}" for option in directives), "set -eu"]
    return "\n".join([*head, f"export PYTHONPATH={shlex.quote(str(Path(__file__).parent.parent))}", *lines]) + "\n"


def array_script(plan: Plan, work: Work, resources: Resources) -> str:
    """One task a part. A part that is there ends its task at once, so the array can be submitted again."""
    limit = f"%{resources.at_once}" if resources.at_once else ""
    options = [f"--array=0-{len(plan.parts) - 1}{limit}", "--requeue", f"--cpus-per-task={resources.cpus}",
               *([f"--gpus-per-task={resources.gpus}", "--ntasks=1"] if resources.gpus else []), *resources.extra]
    return _script("flashvsr-part", _log(work, "slurm-%a.log"), options,
                   [f'exec {program("part", work.folder)} "$SLURM_ARRAY_TASK_ID"'])


def join_script(work: Work, resources: Resources) -> str:
    """Waits for nothing by itself: submit.sh makes it depend on the array."""
    return _script("flashvsr-join", _log(work, "slurm-join.log"), resources.extra,
                   [f'exec {program("join", work.folder)}'])


SUBMIT = """#!/bin/sh
# Submit the array and the job that joins its parts.
set -eu
folder=$(dirname "$0")
parts=$(sbatch --parsable "$folder/array.sh")
exec sbatch --dependency="afterok:${parts%%;*}" --kill-on-invalid-dep=yes "$folder/join.sh"
"""


def write_scripts(plan: Plan, work: Work, resources: Resources) -> Path:
    """Write array.sh, join.sh and submit.sh into the work folder; the last is the one to call."""
    scripts = {"array.sh": array_script(plan, work, resources), "join.sh": join_script(work, resources),
               "submit.sh": SUBMIT}
    for name, text in scripts.items():
        write_whole(work.folder / name, text)
        (work.folder / name).chmod(0o755)
    return work.folder / "submit.sh"
