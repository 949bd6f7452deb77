# SPDX-License-Identifier: LGPL-2.1-or-later
import pytest

from flashvsr_cluster.errors import UsageError
from flashvsr_cluster.graph import filters, find_flashvsr, first_frame, options, with_option


@pytest.mark.parametrize("graph, names", [
    ("flashvsr", ["flashvsr"]),
    ("scale=64:36,flashvsr=scale=2,format=yuv420p", ["scale", "flashvsr", "format"]),
    ("split[a][b];[a]hflip[c];[b][c]overlay , flashvsr@up=scale=2", ["split", "hflip", "overlay", "flashvsr@up"]),
    ("drawtext=text='flashvsr, of course',flashvsr", ["drawtext", "flashvsr"]),
])
def test_filters_are_found_in_order(graph, names):
    assert [one.name for one in filters(graph)] == names


@pytest.mark.parametrize("graph, value", [
    ("flashvsr=model=/m/v1.1:scale=2", "/m/v1.1"),
    ("flashvsr=/m/v1.1:scale=2", "/m/v1.1"),
    ("flashvsr=model='/m/with, comma'", "/m/with, comma"),
    (r"flashvsr=model=/m/with\\:colon", "/m/with:colon"),
])
def test_option_values_are_unquoted(graph, value):
    assert options(find_flashvsr(graph))["model"] == value


@pytest.mark.parametrize("graph, changed", [
    ("flashvsr", "flashvsr=first_frame=8"),
    ("flashvsr,format=yuv420p", "flashvsr=first_frame=8,format=yuv420p"),
    ("hflip,flashvsr=scale=2[out]", "hflip,flashvsr=scale=2:first_frame=8[out]"),
    ("flashvsr=model='/a,b',hflip", "flashvsr=model='/a,b':first_frame=8,hflip"),
])
def test_an_option_is_added_where_the_arguments_end(graph, changed):
    assert with_option(graph, "first_frame", 8) == changed


@pytest.mark.parametrize("value", ["/m/v1.1", "/m/with, comma", "/m/with:colon", "/m/it's;[one]", "/m/back\\slash"])
def test_a_value_is_read_as_it_was_added(value):
    one = find_flashvsr(with_option("hflip,flashvsr=scale=2,format=yuv420p", "model", value))
    assert options(one) == {"scale": "2", "model": value}


def test_the_place_of_the_first_frame():
    assert first_frame("flashvsr=scale=2") == 0
    assert first_frame("flashvsr=first_frame=250") == 250
    with pytest.raises(UsageError, match="first_frame '-8' is not a whole number"):
        first_frame("flashvsr=first_frame=-8")


@pytest.mark.parametrize("graph", ["scale=2", "flashvsr,flashvsr", ""])
def test_the_filter_stands_in_the_graph_once(graph):
    with pytest.raises(UsageError, match="needs one"):
        find_flashvsr(graph)
