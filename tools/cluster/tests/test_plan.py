# SPDX-License-Identifier: LGPL-2.1-or-later
import random
from dataclasses import replace

import pytest
from conftest import film_of, plan_of

from flashvsr_cluster.errors import ClusterError
from flashvsr_cluster.plan import FIRST_OUT, LEAD_IN, LOOK_AHEAD, STEP, Plan, count_parts, cut_film


def random_films():
    choice = random.Random(1)
    for _ in range(300):
        frames = choice.randint(1, 3000)
        cuts = sorted(choice.sample(range(1, frames), min(frames - 1, choice.randint(0, 12))))
        yield frames, cuts, choice.randint(1, 40)


def test_parts_cover_every_frame_once():
    for frames, cuts, count in random_films():
        parts = cut_film(frames, cuts, count)
        assert 1 <= len(parts) <= count
        assert [frame for part in parts for frame in range(part.begin, part.end)] == list(range(frames))
        assert all(0 <= part.first <= part.begin < part.end <= part.last <= frames for part in parts)


def test_a_part_begins_at_a_cut_or_with_a_lead_in_of_25_frames_on_the_films_own_steps():
    for frames, cuts, count in random_films():
        for part in cut_film(frames, cuts, count):
            if part.begin in (0, *cuts):
                assert part.first == part.begin
            else:
                assert part.begin - part.first == LEAD_IN >= 25
                assert part.first % STEP == 0


def test_the_model_sees_behind_the_end_of_a_part_all_that_it_would_see_in_the_whole_film():
    for frames, cuts, count in random_films():
        for part in cut_film(frames, cuts, count):
            if part.end not in (*cuts, frames) and part.last < frames:
                steps, rest = divmod(part.given - FIRST_OUT - LOOK_AHEAD, STEP)
                assert rest == 0 and FIRST_OUT + steps * STEP >= part.end - part.first


def test_a_cut_near_the_border_is_taken_and_a_far_one_is_not():
    assert [part.begin for part in cut_film(1200, [560, 640], 2)] == [0, 560]
    assert cut_film(1200, [900], 2)[1].begin == 597


@pytest.mark.parametrize("frames, workers, count", [
    (1, 8, 1), (99, 8, 1), (300, 8, 3), (172800, 8, 72), (172800, 64, 64), (172800, 512, 512)])
def test_each_worker_makes_equally_many_parts(frames, workers, count):
    assert count_parts(frames, workers) == count


def test_the_length_of_parts_can_be_given():
    assert count_parts(900, 1, 300) == 3


def test_a_plan_is_read_as_it_was_written():
    plan = plan_of(film_of(cuts=(300,)), graph="flashvsr=scale=2,format=yuv420p")
    assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize("text", ["", "{}", '{"format": 0}', '{"format": 1}', "[]"])
def test_what_is_no_plan_is_refused(text):
    with pytest.raises(ClusterError, match="the plan"):
        Plan.from_json(text)


def test_a_key_changes_with_all_that_a_part_depends_on_and_nothing_else():
    plan = plan_of(film_of())
    part = plan.parts[1]
    others = [replace(plan, film=replace(plan.film, digest="e")), replace(plan, graph="flashvsr=scale=4"),
              replace(plan, video_options=("-c:v", "ffv1")), replace(plan, ffmpeg_version="ffmpeg version 8"),
              replace(plan, weights=replace(plan.weights, digest="w")), replace(plan, first_frame=True)]
    keys = {plan.key(part), *(other.key(part) for other in others), plan.key(plan.parts[2])}
    assert len(keys) == len(others) + 2
    assert replace(plan, parts=(part,), out="/elsewhere.mp4", file_options=("-an",)).key(part) == plan.key(part)
