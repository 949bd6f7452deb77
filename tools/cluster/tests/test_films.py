# SPDX-License-Identifier: LGPL-2.1-or-later
"""Real films through plan, part and join, each against one run of ffmpeg over the whole film."""

import json
import shutil
import subprocess
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from flashvsr_cluster import cli, ffmpeg
from flashvsr_cluster.errors import PartError
from flashvsr_cluster.part import job_of, make_part
from flashvsr_cluster.state import Work

CODEC = ["-c:v", "libx264", "-preset", "ultrafast"]
SIDE = 64  # of the pictures that come out
VFR = "settb=1/12800,setpts='N*512+mod(N*N*97\\,211)+floor(N/7)*3001'"


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


class Studio:
    """Makes films, and upscales them in both ways."""

    def __init__(self, tools, model, folder):
        self.tools, self.folder = tools, folder
        self.graph = f"flashvsr=model={model}:scale=2,format=yuv420p"

    def ffmpeg(self, *words):
        done = ffmpeg.call([self.tools.ffmpeg, *ffmpeg.COMMON, *map(str, words)])
        assert done.status == 0, done.stderr
        return done.stdout

    def film(self, name, *inputs, frames=90, source="testsrc2=size=32x32:rate=25", video=CODEC):
        made = self.folder / name
        self.ffmpeg("-f", "lavfi", "-i", source, *inputs, "-pix_fmt", "yuv420p", *video, "-frames:v", frames,
                    *ffmpeg.PASSTHROUGH, made)
        return made

    def pixels(self, *words):
        """The lightness of each frame that ffmpeg gives."""
        raw = self.folder / "raw"
        self.ffmpeg(*words, "-f", "rawvideo", "-pix_fmt", "gray", raw)
        pixels = raw.read_bytes()
        return [pixels[at:at + SIDE * SIDE] for at in range(0, len(pixels), SIDE * SIDE)]

    def single(self, film, out, *maps):
        made = self.folder / f"single-{out}"
        self.ffmpeg("-i", film, *maps, "-c", "copy", *ffmpeg.PASSTHROUGH, *CODEC, "-filter:v:0", self.graph, made)
        return made

    def plan(self, film, out, *extra, options=()):
        return cli.main(["plan", str(film), str(self.folder / out), "--ffmpeg", self.tools.ffmpeg, "--part-frames", "40",
                         *extra, "--", *CODEC, *options, "--vf", self.graph])

    def cluster(self, film, out, *extra, options=()):
        assert self.plan(film, out, *extra, options=options) == 0
        work = Work.of(self.folder / out)
        for index in range(len(work.need_plan().parts)):
            assert cli.main(["part", str(work.folder), str(index)]) == 0
        assert cli.main(["join", str(work.folder)]) == 0
        return self.folder / out

    def packets(self, film, stream):
        answer = ffmpeg.probe(self.tools, film, "-select_streams", stream, "-show_data_hash", "md5", "-show_entries",
                              "stream=time_base,codec_type:stream_tags=language,title:packet=pts,data_hash")
        return answer["streams"], answer.get("packets", [])

    def times(self, film):
        streams, packets = self.packets(film, "V:0")
        return streams[0]["time_base"], sorted(packet["pts"] for packet in packets)


@pytest.fixture
def studio(real, model, tmp_path):
    return Studio(real, model, tmp_path)


def same(studio, film, out, *maps, others=()):
    """Both ways give the same time stamps, and the same packets in all other streams."""
    joined, single = studio.cluster(film, out), studio.single(film, out, *maps)
    assert studio.times(joined) == studio.times(single)
    for stream in others:
        streams, packets = studio.packets(joined, stream)
        assert packets and (streams, packets) == studio.packets(single, stream)
    return joined


def test_a_film_without_sound(studio):
    joined = same(studio, studio.film("in.mp4"), "out.mp4")
    assert [one["codec_type"] for one in ffmpeg.probe(studio.tools, joined, "-show_streams")["streams"]] == ["video"]


def test_a_film_of_one_frame(studio):
    same(studio, studio.film("in.mp4", frames=1), "out.mp4")


def test_a_film_in_a_folder_of_any_name(studio, tmp_path):
    studio.folder = tmp_path / "it's 50% \"#1\"? [%d] a:b \\n"
    studio.folder.mkdir()
    same(studio, studio.film("in.mp4"), "out.mp4")


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
def test_a_variable_frame_rate(studio, suffix):
    film = studio.film("in.mov", source=f"testsrc2=size=32x32:rate=25,{VFR}", video=["-c:v", "libx264"])
    same(studio, film, f"out.{suffix}")


def test_two_sound_tracks_subtitles_chapters_and_tags(studio, tmp_path):
    (tmp_path / "s.srt").write_text("1\n00:00:00,500 --> 00:00:01,500\nOne\n\n2\n00:00:02,000 --> 00:00:03,000\nTwo\n")
    (tmp_path / "m.txt").write_text(";FFMETADATA1\ntitle=Name\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=2000\ntitle=A\n"
                                    "[CHAPTER]\nTIMEBASE=1/1000\nSTART=2000\nEND=3600\ntitle=B\n")
    sounds = [word for pitch in (440, 880) for word in ("-f", "lavfi", "-i", f"sine={pitch}:duration=3.6")]
    film = studio.film("in.mkv", *sounds, "-i", tmp_path / "s.srt", "-i", tmp_path / "m.txt", "-map", "1:a",
                       "-map", "0:v", "-map", "2:a", "-map", "3:s", "-map_metadata", "4", "-map_chapters", "4",
                       "-c:a", "pcm_s16le", "-metadata:s:a:1", "language=deu", "-metadata:s:v:0", "title=Film")
    joined = same(studio, film, "out.mkv", "-map", "0", others=("a:0", "a:1", "s:0"))
    original, made = (ffmpeg.probe(studio.tools, one, "-show_chapters", "-show_format", "-show_streams")
                      for one in (film, joined))
    assert made["chapters"] == original["chapters"] and len(made["chapters"]) == 2
    assert made["format"]["tags"]["title"] == "Name"
    assert [one["codec_type"] for one in made["streams"]] == ["audio", "video", "audio", "subtitle"]
    assert made["streams"][1]["tags"]["title"] == "Film" and made["streams"][2]["tags"]["language"] == "deu"


def test_a_cover_stays_a_cover(studio, tmp_path):
    studio.ffmpeg("-f", "lavfi", "-i", "color=red:size=16x16", "-frames:v", 1, tmp_path / "cover.png")
    film = studio.film("in.mp4", "-i", tmp_path / "cover.png", "-map", "1", "-map", "0", "-c:v:0", "png",
                       "-disposition:v:0", "attached_pic", video=["-c:v:1", "libx264"])
    joined = studio.cluster(film, "out.mp4")
    streams = ffmpeg.probe(studio.tools, joined, "-show_streams")["streams"]
    assert sorted((one["codec_name"], one["disposition"]["attached_pic"]) for one in streams) == [("h264", 0), ("png", 1)]


def streams_of(studio, film):
    """Kind and name of each stream."""
    return [(one["codec_type"], one["tags"].get("title")) for one in
            ffmpeg.probe(studio.tools, film, "-show_streams")["streams"]]


@pytest.fixture
def rich_film(studio, tmp_path):
    """Sound and subtitles before the film, sound and a font behind it, each with a name."""
    (tmp_path / "s.srt").write_text("1\n00:00:00,500 --> 00:00:01,500\nOne\n")
    (tmp_path / "f.ttf").write_bytes(bytes(64))
    sound = ("-f", "lavfi", "-i", "sine=440:duration=1.6")
    return studio.film("in.mkv", *sound, "-i", tmp_path / "s.srt", *sound, "-map", "1:a", "-map", "2:s", "-map", "0:v",
                       "-map", "3:a", "-attach", tmp_path / "f.ttf", "-metadata:s:t", "mimetype=font/ttf",
                       *(word for index, name in enumerate(("A", "B", "C", "D", "E"))
                         for word in (f"-metadata:s:{index}", f"title={name}")), "-c:a", "pcm_s16le", frames=40)


@pytest.mark.parametrize("options, kept", [
    ((), [("audio", "A"), ("subtitle", "B"), ("video", "C"), ("audio", "D"), ("attachment", "E")]),
    (("-an",), [("subtitle", "B"), ("video", "C"), ("attachment", "E")]),
    (("-sn",), [("audio", "A"), ("video", "C"), ("audio", "D"), ("attachment", "E")]),
    (("-an", "-sn"), [("video", "C"), ("attachment", "E")])])
def test_tags_stay_with_their_streams(studio, rich_film, options, kept):
    assert streams_of(studio, studio.cluster(rich_film, "out.mkv", options=options)) == kept


def test_fonts_are_left_out_where_the_container_takes_none(studio, rich_film, capsys):
    joined = studio.cluster(rich_film, "out.mp4", options=("-c:a", "aac", "-c:s", "mov_text"))
    assert "left out: streams 4 (attachment)\n" in capsys.readouterr().out
    assert [one["codec_type"] for one in ffmpeg.probe(studio.tools, joined, "-show_streams")["streams"]] == [
        "audio", "subtitle", "video", "audio"]


@pytest.mark.parametrize("out, options, why", [
    ("out.mp4", ("-c:a", "aac"), "Could not find tag for codec"),
    ("out.webm", ("-sn",), "Only VP8 or VP9 or AV1 video"),
    ("out.mp4", ("-c:a", "aac", "-c:s", "no_such"), "Unknown encoder 'no_such'")])
def test_streams_that_the_container_does_not_take_are_named_before_the_work(studio, rich_film, capsys, out, options,
                                                                           why):
    assert studio.plan(rich_film, out, options=options) == 2
    said = capsys.readouterr().err
    assert f"{out} does not take the streams beside the film: " in said and why in said
    assert not Work.of(studio.folder / out).plan_file.exists()
    assert not list(studio.folder.glob(".*trial*"))


def test_a_film_that_starts_late_keeps_its_sound_in_step(studio):
    film = studio.film("in.ts", "-itsoffset", "-0.3", "-f", "lavfi", "-i", "sine=440:duration=3", "-map", "0:v",
                       "-map", "1:a", "-c:a", "mp2", "-output_ts_offset", "7")
    same(studio, film, "out.mkv", others=("a:0",))


def test_open_groups_of_pictures_decode_to_the_planned_frames(studio):
    film = studio.film("in.mp4", source="mandelbrot=size=64x64:rate=25",
                       video=["-c:v", "libx264", "-x264-params", "open-gop=1:keyint=12:bframes=3"])
    same(studio, film, "out.mp4")


def test_a_film_without_an_index_is_counted_from_its_beginning(studio):
    film = studio.film("in.h264")
    same(studio, film, "out.mp4")


def test_a_part_has_the_noise_of_its_place_in_the_film(studio):
    film = studio.film("in.mp4")
    assert studio.plan(film, "out.mp4") == 0
    work = Work.of(studio.folder / "out.mp4")
    plan = replace(work.need_plan(), video_options=("-c:v", "ffv1"))
    assert plan.first_frame
    whole = studio.pixels("-i", film, "-vf", studio.graph)[plan.parts[1].begin:]

    def difference(planned):
        job = job_of(planned, 1)
        make_part(job, work)
        made = studio.pixels("-i", work.part_file(job.key))
        assert len(made) == len(whole) == plan.parts[1].kept
        return sum(abs(one - other) for frames in zip(made, whole) for one, other in zip(*frames))

    told, untold = difference(plan), difference(replace(plan, first_frame=False))
    assert told < untold / 20, (told, untold)


def test_sound_can_be_encoded_once(studio):
    film = studio.film("in.mkv", "-f", "lavfi", "-i", "sine=440:duration=3.6", "-c:a", "pcm_s16le")
    joined = studio.cluster(film, "out.mp4", options=("-c:a", "aac", "-movflags", "+faststart"))
    assert [one["codec_name"] for one in ffmpeg.probe(studio.tools, joined, "-show_streams")["streams"]] == ["h264", "aac"]


def test_a_second_plan_uses_the_parts_that_are_there(studio, capsys):
    film = studio.film("in.mp4")
    studio.cluster(film, "out.mp4")
    work = Work.of(studio.folder / "out.mp4")
    times = {path.name: path.stat().st_mtime_ns for path in work.parts.glob("*.nut")}
    assert len(times) == 2
    studio.cluster(film, "out.mp4")
    assert {path.name: path.stat().st_mtime_ns for path in work.parts.glob("*.nut")} == times
    film.write_bytes(studio.film("other.mp4", source="testsrc=size=32x32:rate=25").read_bytes())
    studio.cluster(film, "out.mp4", "--force")
    assert len(list(work.parts.glob("*.nut"))) == 4


@pytest.mark.parametrize("content, sentence", [
    (None, "No such file"), (b"", "Invalid data|cannot be read"), (b"no film" * 99, "Invalid data|cannot be read")])
def test_an_unreadable_film_is_one_sentence(studio, capsys, content, sentence):
    film = studio.folder / "in.mp4"
    if content is not None:
        film.write_bytes(content)
    assert studio.plan(film, "out.mp4") == 1
    printed = capsys.readouterr().err
    assert printed.startswith(f"flashvsr-cluster: {film} cannot be read: ") and printed.count("\n") == 1


def test_sound_alone_is_no_film(studio, capsys):
    film = studio.folder / "in.wav"
    studio.ffmpeg("-f", "lavfi", "-i", "sine=440:duration=1", film)
    assert studio.plan(film, "out.mp4") == 1
    assert capsys.readouterr().err == f"flashvsr-cluster: {film} has no video\n"


def test_filters_that_change_frames_are_refused(studio):
    studio.graph = studio.graph.replace(",format", ",fps=50,format")
    assert studio.plan(studio.film("in.mp4"), "out.mp4") == 0
    work = Work.of(studio.folder / "out.mp4")
    with pytest.raises(PartError, match="must keep (the number of frames|time stamps)"):
        make_part(job_of(work.need_plan(), 1), work)


def test_a_film_is_not_joined_before_all_parts_are_there(studio, capsys):
    assert studio.plan(studio.film("in.mp4"), "out.mp4") == 0
    assert cli.main(["join", str(Work.of(studio.folder / "out.mp4").folder)]) == 1
    assert capsys.readouterr().err == "flashvsr-cluster: 2 of 2 parts are missing, the first is 0\n"


def test_a_part_with_a_frame_too_few_does_not_become_a_film(studio, capsys):
    film = studio.film("in.mp4")
    out = studio.cluster(film, "out.mp4")
    out.unlink()
    work = Work.of(out)
    key = work.need_plan().keys[1]
    short = studio.folder / "short.nut"
    studio.ffmpeg("-i", work.part_file(key), "-c", "copy", "-frames:v", 20, short)
    shutil.copy(short, work.part_file(key))
    record = replace(work.record(work.need_plan().keys[0]), key=key, size=short.stat().st_size)
    work.record_file(key).write_text(json.dumps(asdict(record)))
    assert cli.main(["join", str(work.folder)]) == 1
    assert "frames instead of 90" in capsys.readouterr().err
    assert not out.exists() and list(studio.folder.glob(".*")) == []


def test_an_output_that_exists_is_not_replaced_unasked(studio, capsys):
    film = studio.film("in.mp4")
    (studio.folder / "out.mp4").write_bytes(b"precious")
    assert studio.plan(film, "out.mp4") == 2
    assert capsys.readouterr().err.endswith("out.mp4 exists; --force replaces it\n")


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("a file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_one_sentence(studio, small_disk, capsys):
    film = studio.film("in.mp4", source="nullsrc=size=64x64:rate=25,geq=random(1)*255:128:128")
    work = small_disk / "parts"
    assert studio.plan(film, "out.mp4", "--work", str(work)) == 0
    with suppress(OSError), open(small_disk / "filler", "wb", buffering=0) as filler:
        while filler.write(bytes(1 << 12)):
            pass
    assert cli.main(["part", str(work), "0"]) == 1
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and ("is full" in printed or "No space left" in printed)
    assert list(Path(work, "parts").glob("*")) == []
