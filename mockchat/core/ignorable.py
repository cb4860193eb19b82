"""Remove what varies from run to run before messages are compared, such as dates.

Patterns are those of https://docs.python.org/3/library/re.html. They apply to texts, to tools' answers, and to the
texts and numbers in arguments; not to keys and names of tools.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from mockchat.core import wire

Patterns = Sequence[re.Pattern[str]]


def leave_out(patterns: Patterns, message: bytes) -> bytes:
    """Remove matches of patterns from a message in wire form."""
    content = wire.content_of(message)
    if (left := _of_text(patterns, content)) != content:
        message = wire.with_text(message, left)
    if wire.is_plain(message):
        return message
    more = wire.more_of(message)
    if "parts" in more:
        more["parts"] = [_of_text(patterns, part) if isinstance(part, str) else part for part in more["parts"]]
    try:
        for call in more.get("calls", ()):
            call |= {key: _of_value(patterns, call[key]) for key in ("arguments", "text") if key in call}
        return wire.with_more(wire.without_more(message), wire.json_of(more))
    except (RecursionError, ValueError):  # Deeply nested arguments are compared as they are.
        return message


def _of_text(patterns: Patterns, text: str) -> str:
    for pattern in patterns:
        text = pattern.sub("", text)
    return text


def _of_value(patterns: Patterns, value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _of_value(patterns, each) for key, each in value.items()}
    if isinstance(value, list):
        return [_of_value(patterns, each) for each in value]
    if isinstance(value, bool | None):
        return value
    text = value if isinstance(value, str) else json.dumps(value)
    left = _of_text(patterns, text)
    return value if left == text else left
