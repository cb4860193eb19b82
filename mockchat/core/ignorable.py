"""Remove what varies from run to run before messages are compared, such as dates.

Patterns are those of https://docs.python.org/3/library/re.html. They apply to texts, to tools' answers, and to the
texts and numbers in arguments; not to keys and names of tools.
"""

import json
import re
from collections.abc import Sequence
from re import _parser  # type: ignore[attr-defined]
from typing import Any

from mockchat.core import wire
from mockchat.core.index import ResponseIndex
from mockchat.core.text import common_length

_MONTH = "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*"
# Patterns for a suggestion after a miss, and what they match.
_SUGGESTED = {
    r"\d{4}-\d\d-\d\d": "a date",
    r"\d{1,2}[./]\d{1,2}[./]\d{4}": "a date",
    rf"{_MONTH} \d{{1,2}},? \d{{4}}": "a date",
    rf"\d{{1,2}}\.? {_MONTH} \d{{4}}": "a date",
    "(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day": "a day of the week",
    r"\d{1,2}:\d\d(?::\d\d(?:[.,]\d+)?)?(?: ?[AaPp][Mm])?(?:Z|[+-]\d\d:?\d\d)?": "a time",
    "[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}": "a uuid",
    r"(?:/private)?/(?:tmp|var/folders)/[\w./+-]+": "a temporary path",
}
_ANY_SUGGESTED = re.compile("|".join(_SUGGESTED))
_HINT = re.compile(rb"[0-9]|day|/tmp/|/var/")  # A faster test: each match of the above has one of these.
_FEW = 8  # repetitions
_AROUND = 64  # bytes
_LONGEST = 65536  # bytes of two messages together: longer ones would hold up other clients


def check(pattern: str) -> None:
    """Raise `ValueError` with the reason if a pattern can't be used."""
    try:
        found = re.compile(pattern).search("")
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
    if found:
        raise ValueError(f"{pattern!r} matches the empty text: give one that matches what is to be left out")
    if _nests(_parser.parse(pattern)):
        raise ValueError(
            f"{pattern!r} repeats what repeats, which can take for ever: make the inner repetition possessive, as in ++"
        )


def _nests(parsed: Any, repeated: bool = False) -> bool:
    """True if a parsed pattern, or a part of one, has a repetition inside a repetition.

    `re` tries each way to divide a text between the two, and can't be stopped. Possessive repetitions and atomic groups
    are not divided.
    """
    if isinstance(parsed, tuple) and str(parsed[0]) in ("MAX_REPEAT", "MIN_REPEAT"):
        often = parsed[1][1] > _FEW
        if repeated and often:
            return True
        repeated = repeated or often
    elif isinstance(parsed, tuple) and str(parsed[0]) == "ATOMIC_GROUP":
        repeated = False
    return isinstance(parsed, tuple | list | _parser.SubPattern) and any(_nests(each, repeated) for each in parsed)


class LeavingOut:
    """Removes matches of patterns from a message in wire form."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = [re.compile(pattern) for pattern in patterns]

    def __call__(self, message: bytes) -> bytes:
        """The message without matches."""
        try:
            return self._without(message)
        except RecursionError:  # Deeply nested arguments are compared as they are.
            return message

    def _without(self, message: bytes) -> bytes:
        content = wire.content_of(message)
        if (left := self._text(content)) != content:
            message = wire.with_text(message, left)
        if wire.is_plain(message):
            return message
        more = wire.more_of(message)
        for call in more.get("calls", ()):
            call |= {key: self._value(call[key]) for key in ("arguments", "text") if key in call}
        if "parts" in more:
            more["parts"] = [self._text(part) if isinstance(part, str) else part for part in more["parts"]]
        return wire.with_more(wire.without_more(message), wire.json_of(more))

    def _text(self, text: str) -> str:
        for pattern in self._patterns:
            text = pattern.sub("", text)
        return text

    def _value(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._value(each) for key, each in value.items()}
        if isinstance(value, list):
            return [self._value(each) for each in value]
        if isinstance(value, bool | None):
            return value
        text = value if isinstance(value, str) else json.dumps(value)
        left = self._text(text)
        return value if left == text else left


def suggestion(index: ResponseIndex, history: bytes, messages: Sequence[bytes]) -> str | None:
    """A sentence that names patterns with which a reply to these messages is found after a history, or None."""
    needed: dict[str, None] = {}
    for message in messages:
        alike = _alike(index, history, message)
        if alike is None:
            return None
        said, patterns = alike
        needed |= dict.fromkeys(patterns)
        history = wire.append(history, said)
    if not (needed and index.replies(history)):
        return None
    varying = dict.fromkeys(_SUGGESTED[pattern] for pattern in needed)
    patterns = [f"'{pattern}'" for pattern in needed]
    return f"it would be found but for {' and '.join(varying)}: the option ignore leaves out {' and '.join(patterns)}"


def _alike(index: ResponseIndex, history: bytes, message: bytes) -> tuple[bytes, list[str]] | None:
    """A message recorded after a history that equals this one after these patterns."""
    among, start = index.following(history), wire.next_start(history)
    neighbours = [recorded for recorded, _ in index.neighbours(among, start, message)]
    if message in neighbours:
        return message, []
    for recorded in neighbours:
        if patterns := _varying(message, recorded):
            leave_out = LeavingOut(patterns)
            if leave_out(message) == leave_out(recorded):
                return recorded, patterns
    return None


def _varying(one: bytes, other: bytes) -> list[str]:
    """The patterns that match wherever two messages differ; empty if they differ elsewhere too."""
    needed: dict[str, None] = {}
    while one != other and len(one) + len(other) < _LONGEST:
        position = common_length(one, other)
        for pattern in _SUGGESTED:
            ends = [_end(pattern, text, position) for text in (one, other)]
            if all(ends):
                break
        else:
            return []
        needed[pattern] = None
        one, other = (text[end:] for text, end in zip((one, other), ends, strict=True))
    return list(needed) if one == other else []


def _end(pattern: str, text: bytes, position: int) -> int:
    """The end of a pattern's match at this position, 0 if it does not match there."""
    start = max(0, position - _AROUND)
    for match in re.finditer(pattern.encode(), text[start : position + _AROUND]):
        if start + match.start() <= position <= start + match.end():
            return start + match.end()
    return 0


def may_be_alike(one: bytes, other: bytes) -> bool:
    """True if a pattern matches near the first difference of two messages: a fast test that most misses fail."""
    position = common_length(one, other)
    around = slice(max(0, position - _AROUND), position + _AROUND)
    return all(
        _HINT.search(found) and _ANY_SUGGESTED.search(found.decode(errors="replace"))
        for found in (one[around], other[around])
    )
