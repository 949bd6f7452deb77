# SPDX-License-Identifier: LGPL-2.1-or-later
import pytest

from flashvsr_cluster.errors import UsageError
from flashvsr_cluster.options import split

BASE = ["-c:v", "libx264", "--vf", "flashvsr"]


def test_options_go_where_they_belong():
    given = split(["-c:v", "libx264", "-crf", "18", "-c:a", "aac", "-b:a", "96k", "-movflags", "+faststart", "-sn",
                   "-metadata:s:v", "title=x", "-vf", "flashvsr=scale=2"])
    assert given.graph == "flashvsr=scale=2"
    assert given.video == ("-c:v", "libx264", "-crf", "18")
    assert given.file == ("-c:a", "aac", "-b:a", "96k", "-movflags", "+faststart", "-sn", "-metadata:s:v", "title=x")


@pytest.mark.parametrize("bad, sentence", [
    (["-r", "25"], "-r changes frames"), (["-frames:v", "9"], "-frames:v cuts the film"), (["-map", "0"], "chosen by"),
    (["-c", "copy"], "-c needs a stream"), (["-pass", "1"], "one encoder"), (["-crf"], "-crf has no value"),
    (["out.mp4"], "'out.mp4' stands where an option"),
])
def test_what_parts_cannot_keep_is_refused(bad, sentence):
    with pytest.raises(UsageError, match=sentence):
        split(BASE + bad)


@pytest.mark.parametrize("given, sentence", [
    (["-c:v", "libx264"], "--vf is missing"), (["--vf", "flashvsr"], "-c:v is missing"),
    (["-c:v", "libx264", "--vf", "hflip"], "0 filters flashvsr"),
])
def test_what_is_needed_is_asked_for(given, sentence):
    with pytest.raises(UsageError, match=sentence):
        split(given)
