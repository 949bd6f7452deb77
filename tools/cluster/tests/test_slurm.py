# SPDX-License-Identifier: LGPL-2.1-or-later
import shlex
import shutil
import subprocess

import pytest
from conftest import film_of, plan_of

from flashvsr_cluster.slurm import Resources, write_scripts
from flashvsr_cluster.state import Work


@pytest.fixture
def scripts(work):
    plan = plan_of(film_of(), count=3)
    write_scripts(plan, work, Resources(gpus=1, cpus=4, at_once=2, extra=["--partition=gpu"]))
    return work.folder


def test_the_array_has_a_task_for_each_part(scripts):
    lines = (scripts / "array.sh").read_text().splitlines()
    assert lines[0] == "#!/bin/sh"
    assert {"#SBATCH --array=0-2%2", "#SBATCH --gpus-per-task=1", "#SBATCH --cpus-per-task=4",
            "#SBATCH --partition=gpu"} <= set(lines)
    assert lines[-1].endswith('"$SLURM_ARRAY_TASK_ID"')


def test_directives_stand_before_the_first_command(scripts):
    for name in ("array.sh", "join.sh"):
        lines = (scripts / name).read_text().splitlines()[1:]
        commands = [index for index, line in enumerate(lines) if not line.startswith("#")]
        assert all(index < commands[0] for index, line in enumerate(lines) if line.startswith("#SBATCH"))


def test_joining_waits_for_the_array(scripts, tmp_path):
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text('#!/bin/sh\necho "$@" >>"$CALLS"\necho "17;cluster"\n')
    sbatch.chmod(0o755)
    calls = tmp_path / "calls"
    subprocess.run([scripts / "submit.sh"], check=True, stdout=subprocess.DEVNULL,
                   env={"PATH": f"{sbatch.parent}:/usr/bin:/bin", "CALLS": str(calls)})
    first, second = calls.read_text().splitlines()
    assert first == f"--parsable {scripts}/array.sh"
    assert second == f"--dependency=afterok:17 --kill-on-invalid-dep=yes {scripts}/join.sh"


@pytest.mark.parametrize("name", ["plain", "it's a", 'say "x"', "50% #1", "%a %j", "100%%"])
def test_logs_lie_in_folders_of_any_name(tmp_path, name):
    work = Work(tmp_path / name)
    work.create()
    write_scripts(plan_of(film_of()), work, Resources(gpus=0, cpus=1, at_once=0, extra=[]))
    for script, log in (("array.sh", "slurm-%a.log"), ("join.sh", "slurm-join.log")):
        line, = (line for line in (work.folder / script).read_text().splitlines() if "--output" in line)
        # Words are those of a shell, comments included; then %% is a %.
        word, = shlex.split(line.removeprefix("#SBATCH "), comments=True)
        folder = word.removeprefix("--output=").removesuffix(f"/{log}")
        assert "%" not in folder.replace("%%", "")
        assert folder.replace("%%", "%") == str(work.logs)


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="there is no shellcheck")
def test_shellcheck_finds_nothing(scripts):
    checked = subprocess.run(["shellcheck", *(str(scripts / name) for name in ("array.sh", "join.sh", "submit.sh"))],
                             capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
