"""Texts for messages to people: where two differ, and excerpts."""

from typing import AnyStr

AROUND = 30  # characters shown on either side of a position
_EXCERPT = 1000  # characters


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


def difference(sent: str, recorded: str, verb: str = "sent") -> str:
    """Say where two texts begin to differ, with an excerpt of both.

    Invisible characters are escaped, and the two characters are named: some look alike.
    """
    position = common_length(sent, recorded)
    here, there = (_character(text, position) for text in (sent, recorded))
    return (
        f"differs at character {position}: {verb} {around(sent, position)} ({here}), "
        f"recorded {around(recorded, position)} ({there})"
    )


def around(text: str, position: int) -> str:
    """An excerpt around a position, as a Python literal, with an ellipsis where the text continues."""
    start, end = max(0, position - AROUND), position + AROUND
    return f"{'…' if start else ''}{text[start:end]!r}{'…' if end < len(text) else ''}"


def _character(text: str, position: int) -> str:
    return f"U+{ord(text[position]):04X}" if position < len(text) else "its end"


def excerpt(text: str | bytes) -> str:
    """The beginning of a text on one printable line: as it is, or as a Python literal in ASCII."""
    if isinstance(text, bytes):
        text = text[: 2 * _EXCERPT].decode(errors="replace")
    short = text if len(text) <= _EXCERPT else text[:_EXCERPT] + "…"
    return short if short.isprintable() and short else ascii(short)
