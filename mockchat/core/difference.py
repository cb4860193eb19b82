"""Where two messages part, in words: the first thing of what one says that the other does not.

Messages are given in wire form, and the places are those of the API's objects: `.tool_calls[0].function.arguments`.
"""

import hashlib
import json
from collections.abc import Iterable
from itertools import zip_longest
from typing import Any, NamedTuple

from mockchat.core import calls, wire
from mockchat.core.text import around, common_length, difference, excerpt

_MISSING = object()
_LONGEST = 100  # characters of a value that is shown
_DATA_KEYS = ("data", "file_data")  # What stands under these keys of a part is data, however short.


class Difference(NamedTuple):
    """A place in a message, empty for its text, and what is different there."""

    place: str
    text: str


def differ(sent: bytes, recorded: bytes, verb: str = "sent") -> Difference:
    """How a message that was sent (or got, or whatever the verb says) differs from one that is recorded."""
    if wire.text_of(sent) != wire.text_of(recorded):
        is_all = wire.more_of(sent) == wire.more_of(recorded)
        if not is_all and any(_says_no_text(message) for message in (sent, recorded)):
            return Difference("", f"differs: {verb} {shown(sent)}, recorded {shown(recorded)}")
        return Difference("", difference(wire.content_of(sent), wire.content_of(recorded), verb))
    beside, expected = wire.more_of(sent), wire.more_of(recorded)
    for found in (_of_parts(beside, expected, verb), _of_calls(beside, expected, verb)):
        if found:
            return found
    answers, should = (more.get("answers", "the next one") for more in (beside, expected))
    return Difference(".tool_call_id", f"answers another call: {verb} {answers}, recorded {should}")


def likeness(one: bytes, other: bytes) -> int:
    """How far two messages begin alike, whatever their roles: their texts first, and then all else that they say."""
    return common_length(one, wire.with_role(other, wire.role_of(one)))


def _says_no_text(message: bytes) -> bool:
    return wire.text_of(message) == b'""' and not wire.is_plain(message)


def shown(message: bytes) -> str:
    """A message as people are shown it: the beginning of its text, or what it says in place of one."""
    if not _says_no_text(message):
        return around(wire.content_of(message), 0)
    more = wire.more_of(message)
    called = [_name_of(call) for call in more.get("calls", ())]
    if called:
        return f"a call of {', '.join(called)}"
    return f"parts ({', '.join(map(_kind, more['parts']))})" if "parts" in more else repr("")


def _name_of(call: dict[str, Any]) -> str:
    return str(next(iter(call.values())))


def differ_values(sent: Any, recorded: Any) -> str:
    """Where two JSON values begin to differ, and how; one that is null is absent."""
    one, other = (_MISSING if value is None else value for value in (sent, recorded))
    return _of_values(one, other, "sent")


def _of_parts(beside: dict[str, Any], expected: dict[str, Any], verb: str) -> Difference | None:
    parts, recorded = beside.get("parts", []), expected.get("parts", [])
    for number, (one, other) in enumerate(zip(parts, recorded, strict=False)):
        if not _same(one, other):
            both_texts = isinstance(one, str) and isinstance(other, str)
            told = difference(one, other, verb) if both_texts else _of_values(one, other, verb)
            return Difference(f".content[{number}]", told)
    return _of_numbers(".content", "part", list(map(_kind, parts)), list(map(_kind, recorded)))


def _of_numbers(place: str, what: str, sent: list[str], recorded: list[str]) -> Difference | None:
    """How lists differ of which one only goes on where the other one ends, if they do; given is how to show them."""
    number = min(len(sent), len(recorded))
    if len(sent) > number:
        return Difference(f"{place}[{number}]", f"is a {what} too many: {sent[number]}")
    if len(recorded) > number:
        return Difference(place, f"lacks a {what} at {number}: {recorded[number]}")
    return None


def _kind(part: Any) -> str:
    return part["type"] if isinstance(part, dict) else "text"


def _of_calls(beside: dict[str, Any], expected: dict[str, Any], verb: str) -> Difference | None:
    called, recorded = beside.get("calls", []), expected.get("calls", [])
    for number, (one, other) in enumerate(zip(called, recorded, strict=False)):
        if _same(one, other):
            continue
        one_type, other_type = next(iter(one)), next(iter(other))
        place = "" if calls.LEGACY in (one_type, other_type) else f".tool_calls[{number}]"
        if one_type != other_type:
            return Difference(f"{place}.type", f"differs: {verb} {one_type}, recorded {other_type}")
        place += f".{one_type}"
        if one[one_type] != other[one_type]:
            return Difference(f"{place}.name", f"differs: {verb} {one[one_type]!r}, recorded {other[one_type]!r}")
        key = calls.TEXT_KEYS[one_type]
        if "text" in one and "text" in other:
            return Difference(f"{place}.{key}", difference(one["text"], other["text"], verb))
        mine, theirs = (each.get("arguments", each.get("text")) for each in (one, other))
        return Difference(f"{place}.{key}", _of_values(mine, theirs, verb))
    return _of_numbers(".tool_calls", "call", list(map(_shown, called)), list(map(_shown, recorded)))


def _of_values(one: Any, other: Any, verb: str) -> str:
    """Where two JSON values begin to differ, and how."""
    path, one, other = _first_difference(one, other, "")
    at = f"differs at {path.lstrip('.')}: " if path else "differs: "
    is_data = path.endswith(_DATA_KEYS)
    shown = [_shown(value, is_data) for value in (one, other)]
    return f"{at}{verb} {shown[0]}, recorded {shown[1]}"


def _first_difference(one: Any, other: Any, path: str) -> tuple[str, Any, Any]:
    """The path from two values to the first things in them that differ, and these."""
    steps: Iterable[tuple[str, Any, Any]] = ()
    if isinstance(one, dict) and isinstance(other, dict):
        steps = ((f".{key}", one.get(key, _MISSING), other.get(key, _MISSING)) for key in {**other, **one})
    elif isinstance(one, list) and isinstance(other, list):
        pairs = enumerate(zip_longest(one, other, fillvalue=_MISSING))
        steps = ((f"[{number}]", *pair) for number, pair in pairs)
    for step, mine, theirs in steps:
        if not _same(mine, theirs):
            return _first_difference(mine, theirs, path + step)
    return path, one, other


def _same(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same; to Python, 1 is the same as true."""
    return one is other or (_MISSING not in (one, other) and json.dumps(one) == json.dumps(other))


def _shown(value: Any, is_data: bool = False) -> str:
    """A value as people are shown it: data, and what is long, as its size and a digest."""
    if value is _MISSING:
        return "nothing"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if is_data or text.startswith("data:") or len(text) > _LONGEST:
        data = text.encode(errors="surrogatepass")
        return f"{len(data):,} bytes (sha256 {hashlib.sha256(data).hexdigest()[:12]})"
    return repr(text) if isinstance(value, str) else excerpt(text)
