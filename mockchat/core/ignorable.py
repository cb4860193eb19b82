"""Remove what varies from run to run before messages are compared, such as dates.

Patterns are those of https://docs.python.org/3/library/re.html. They apply to texts, to tools' answers, and to the
texts and numbers in arguments; not to keys and names of tools.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from mockchat.core import wire


class LeavingOut:
    """Removes matches of patterns from a message in wire form."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = [re.compile(pattern) for pattern in patterns]

    def __call__(self, message: bytes) -> bytes:
        """The message without matches."""
        content = wire.content_of(message)
        if (left := self._text(content)) != content:
            message = wire.with_text(message, left)
        if wire.is_plain(message):
            return message
        more = wire.more_of(message)
        if "parts" in more:
            more["parts"] = [self._text(part) if isinstance(part, str) else part for part in more["parts"]]
        try:
            for call in more.get("calls", ()):
                call |= {key: self._value(call[key]) for key in ("arguments", "text") if key in call}
            return wire.with_more(wire.without_more(message), wire.json_of(more))
        except RecursionError:  # Deeply nested arguments are compared as they are.
            return message

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
