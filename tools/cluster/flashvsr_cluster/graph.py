# SPDX-License-Identifier: LGPL-2.1-or-later
"""The text of a filter graph, as far as it has to be understood: where flashvsr stands and what its options are."""

from dataclasses import dataclass

from flashvsr_cluster.errors import UsageError


def token(text: str, at: int, ends: str) -> tuple[str, int]:
    """Text up to one of `ends` that is neither quoted nor escaped, as av_get_token() reads it, and where it stops."""
    value = []
    while at < len(text) and text[at] not in ends:
        if text[at] == "\\" and at + 1 < len(text):
            value.append(text[at + 1])
            at += 2
        elif text[at] == "'":
            close = text.find("'", at + 1)
            close = len(text) if close < 0 else close
            value.append(text[at + 1:close])
            at = close + 1
        else:
            value.append(text[at])
            at += 1
    return "".join(value), min(at, len(text))


@dataclass(frozen=True)
class Filter:
    """One filter of a graph."""

    name: str
    arguments: str | None  # with the graph's level of quoting taken off
    end: int  # where its arguments end in the graph's text


def filters(graph: str) -> list[Filter]:
    """The filters of a graph, in the order of its text."""
    found, at = [], 0
    while at < len(graph):
        if graph[at] == "[":
            _, at = token(graph, at + 1, "]")
            at += 1
        elif graph[at] in ",; \t\n":
            at += 1
        else:
            name, stop = token(graph, at, "=,;[")
            arguments = None
            if graph[stop:stop + 1] == "=":
                arguments, stop = token(graph, stop + 1, "[],;")
            found.append(Filter(name.strip(), arguments, stop))
            at = max(stop, at + 1)
    return found


def find_flashvsr(graph: str) -> Filter:
    """@throws UsageError unless the filter stands in the graph once"""
    found = [one for one in filters(graph) if one.name.partition("@")[0] == "flashvsr"]
    if len(found) != 1:
        raise UsageError(f"--vf {graph!r} has {len(found)} filters flashvsr, and needs one")
    return found[0]


def options(one: Filter) -> dict[str, str]:
    """A filter's named options; what stands without a name counts as `model`, its first."""
    values, at, arguments = {}, 0, one.arguments or ""
    while at < len(arguments):
        value, stop = token(arguments, at, ":")
        name, equals, rest = value.partition("=")
        if equals:
            values[name] = rest
        else:
            values.setdefault("model", value)
        at = stop + 1
    return values


def first_frame(graph: str) -> int:
    """The place of the film's first frame, where the film is itself a part of a longer one.

    @throws UsageError where it is not a number that can be counted on from
    """
    text = options(find_flashvsr(graph)).get("first_frame", "0")
    if not text.isdecimal():
        raise UsageError(f"first_frame {text!r} is not a whole number")
    return int(text)


def _escape(text: str, special: str) -> str:
    return "".join(f"\\{letter}" if letter in special else letter for letter in text)


def with_option(graph: str, name: str, value: int | str) -> str:
    """The graph with one more option of flashvsr, which takes the place of an earlier one of that name."""
    one = find_flashvsr(graph)
    joint = "=" if one.arguments is None else ":" if one.arguments else ""
    text = _escape(_escape(str(value), "\\':"), "\\'[],;")
    return f"{graph[:one.end]}{joint}{name}={text}{graph[one.end:]}"
