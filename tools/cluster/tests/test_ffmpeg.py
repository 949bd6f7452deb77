# SPDX-License-Identifier: LGPL-2.1-or-later
"""Programs that are run to their end."""

import signal

from flashvsr_cluster import ffmpeg


def test_a_program_that_is_killed_is_run_again(fake, tmp_path):
    times = tmp_path / "times"
    tools = fake(f'echo once >>"{times}"\n[ $(wc -l <"{times}") -ge 3 ] || kill -9 $$\necho whole')
    done = ffmpeg.call([tools.ffmpeg])
    assert (done.status, done.stdout) == (0, "whole\n")
    assert len(times.read_text().splitlines()) == 3


def test_one_that_is_killed_each_time_is_not_run_for_ever(fake, tmp_path):
    times = tmp_path / "times"
    done = ffmpeg.call([fake(f'echo once >>"{times}"\nkill -9 $$').ffmpeg])
    assert done.status == -signal.SIGKILL
    assert ffmpeg.ended(done.status) == "ffmpeg was ended by SIGKILL"
    assert len(times.read_text().splitlines()) == ffmpeg.CALLS


def test_a_failure_of_its_own_is_not_repeated(fake, tmp_path):
    times = tmp_path / "times"
    assert ffmpeg.call([fake(f'echo once >>"{times}"\nexit 3').ffmpeg]).status == 3
    assert len(times.read_text().splitlines()) == 1
