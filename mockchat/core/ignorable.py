"""What varies from run to run, and can be left out of messages before they are compared.

A pattern leaves out what it matches in texts, in the answers of tools, and in the texts and numbers of arguments. Names
of tools and keys are never touched. Patterns are those of https://docs.python.org/3/library/re.html
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from mockchat.core import wire
from mockchat.core.index import ResponseIndex
from mockchat.core.text import common_length

_MONTH = "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*"
# What is known to vary, and how to match it.
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
_HINT = re.compile(rb"[0-9]|day|/tmp/|/var/")  # One of them is in all of these, and it is found faster.
_AROUND = 64  # bytes


def check(pattern: str) -> None:
    """Raise `ValueError`, which says why, where a pattern can't be used."""
    try:
        found = re.compile(pattern).search("")
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
    if found:
        raise ValueError(f"{pattern!r} matches the empty text: give one that matches what is to be left out")


class LeavingOut:
    """Makes of a message in wire form the one without all that these patterns match."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = [re.compile(pattern) for pattern in patterns]

    def __call__(self, message: bytes) -> bytes:
        """The message that is compared in place of this one."""
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


def suggestion(index: ResponseIndex, messages: Sequence[bytes], prefix: int) -> str | None:
    """What to ignore so that messages are found that are not recorded after a prefix; None where that does not help.

    There must be a reply after them.
    """
    needed: dict[str, None] = {}
    for message in messages:
        following = index.step(prefix, message)
        if following < 0:
            following, patterns = _alike(index, prefix, message)
            needed |= dict.fromkeys(patterns)
        if following < 0:
            return None
        prefix = following
    if not (needed and index.replies(prefix)):
        return None
    varying = dict.fromkeys(_SUGGESTED[pattern] for pattern in needed)
    patterns = [f"'{pattern}'" for pattern in needed]
    return f"it would be found but for {' and '.join(varying)}: the option ignore leaves out {' and '.join(patterns)}"


def _alike(index: ResponseIndex, prefix: int, message: bytes) -> tuple[int, list[str]]:
    """The prefix to which a recorded message leads that is the same but for what varies, and patterns for that."""
    for following, recorded in index.neighbours(prefix, message):
        needed = list(_SUGGESTED)
        if not _are_alike(message, recorded, needed):
            continue
        for pattern in _SUGGESTED:
            others = [each for each in needed if each != pattern]
            if _are_alike(message, recorded, others):
                needed = others
        return following, needed
    return -1, []


def may_be_alike(one: bytes, other: bytes) -> bool:
    """Whether something that varies is where two messages part: most do not, and are not looked at any further."""
    position = common_length(one, other)
    around = slice(max(0, position - _AROUND), position + _AROUND)
    return all(
        _HINT.search(found) and _ANY_SUGGESTED.search(found.decode(errors="replace"))
        for found in (one[around], other[around])
    )


def _are_alike(one: bytes, other: bytes, patterns: list[str]) -> bool:
    leave_out = LeavingOut(patterns)
    return leave_out(one) == leave_out(other)
