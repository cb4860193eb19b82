"""What messages to people show: excerpts, and where two texts, JSON values or messages begin to differ.

Messages are given in wire form. Places are those of the API's objects: `.tool_calls[0].function.arguments.city`.
"""

import json
from itertools import zip_longest
from typing import Any, AnyStr

from mockchat.core import wire
from mockchat.core.calls import LEGACY, TEXT_KEYS

AROUND = 30  # characters shown on either side of a position
_VALUE = 100  # characters


def common_length(one: AnyStr, other: AnyStr) -> int:
    """The length of the common prefix; it takes logarithmically many comparisons."""
    low, high = 0, 32
    while high < len(one) and other.startswith(one[low:high], low):
        low, high = high, 2 * high
    high = min(high, len(one))
    while low < high:
        middle = (low + high + 1) // 2
        if other.startswith(one[low:middle], low):
            low = middle
        else:
            high = middle - 1
    return low


def likeness(one: bytes, other: bytes) -> int:
    """The length of the common prefix of two messages, whatever their roles."""
    return common_length(one, wire.with_role(other[: len(one) + 9], wire.role_of(one)))  # No role is longer than 9.


def around(text: str, position: int) -> str:
    """An excerpt around a position, as a Python literal, with an ellipsis where the text continues."""
    start, end = max(0, position - AROUND), position + AROUND
    return f"{'…' if start else ''}{text[start:end]!r}{'…' if end < len(text) else ''}"


def excerpt(text: str | bytes, size: int = 1000) -> str:
    """The first `size` characters of a text on one printable line: as they are, or as a Python literal in ASCII."""
    if isinstance(text, bytes):
        text = text[: 2 * size].decode(errors="replace")
    short = text if len(text) <= size else text[:size] + "…"
    return short if short.isprintable() and short else ascii(short)


def shown(message: bytes) -> str:
    """The beginning of a message: of its text or its parts, or else whom it calls."""
    more = wire.more_of(message)
    text = wire.content_of(message)
    if "calls" in more and not text:
        return excerpt(f"a call of {', '.join(str(next(iter(call.values()))) for call in more['calls'])}", _VALUE)
    return _value(more["parts"]) if "parts" in more else around(text, 0)


def difference(sent: str, recorded: str, verb: str = "sent") -> str:
    """Say where two texts begin to differ. The characters there are named, for some are invisible or look alike."""
    position = common_length(sent, recorded)
    here, there = (_character(text, position) for text in (sent, recorded))
    return (
        f"differs at character {position}: {verb} {around(sent, position)} ({here}), "
        f"recorded {around(recorded, position)} ({there})"
    )


def _character(text: str, position: int) -> str:
    return f"U+{ord(text[position]):04X}" if position < len(text) else "its end"


def differ_values(sent: Any, recorded: Any, verb: str = "sent", place: str = "") -> tuple[str, str]:
    """The place of the first difference of two JSON values, and how they differ there. None stands for no value."""
    steps: list[tuple[str, Any, Any]] = []
    if isinstance(sent, dict) and isinstance(recorded, dict):
        steps = [(f".{key}", sent.get(key), recorded.get(key)) for key in {**recorded, **sent}]
    elif isinstance(sent, list) and isinstance(recorded, list):
        steps = [(f"[{number}]", *pair) for number, pair in enumerate(zip_longest(sent, recorded))]
    for step, one, other in steps:
        # Only equal values are spelled: to Python, 1 is the same as true.
        if one != other or json.dumps(one, sort_keys=True) != json.dumps(other, sort_keys=True):
            return differ_values(one, other, verb, place + step)
    if isinstance(sent, str) and isinstance(recorded, str):
        return place, difference(sent, recorded, verb)
    return place, f"differs: {verb} {_value(sent)}, recorded {_value(recorded)}"


def _value(value: Any) -> str:
    return "nothing" if value is None else excerpt(json.dumps(value, ensure_ascii=False), _VALUE)


def differ(sent: bytes, recorded: bytes, verb: str = "sent") -> tuple[str, str]:
    """The place, empty for the text, at which a message differs from a recorded one, and how it differs there."""
    one, other = _as_object(sent), _as_object(recorded)
    if one.keys() != other.keys() and [one["content"], other["content"]].count("") == 1:
        return "", f"differs: {verb} {shown(sent)}, recorded {shown(recorded)}"
    place, told = differ_values(one, other, verb)
    if not place:
        answers = [wire.more_of(message).get("answers", "the next one") for message in (sent, recorded)]
        return ".tool_call_id", f"answers another call: {verb} {answers[0]}, recorded {answers[1]}"
    return "" if place == ".content" else place, told


def _as_object(message: bytes) -> dict[str, Any]:
    """A message as the API's object, but with arguments as JSON values."""
    more = wire.more_of(message)
    said: dict[str, Any] = {"content": more.get("parts") or wire.content_of(message)}
    for call in more.get("calls", ()):
        kind, name = next(iter(call.items()))
        called = {"name": name, TEXT_KEYS[kind]: call.get("arguments", call.get("text"))}
        if kind == LEGACY:
            said[LEGACY] = called
        else:
            said.setdefault("tool_calls", []).append({"type": kind, kind: called})
    return said
