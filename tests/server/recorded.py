"""Recordings that the tests of requests and of completions ask for."""

import json
from typing import Any

from tests.fuzz import properties
from tests.helpers import conversation

RECORDED = properties.Recorded(
    [
        conversation("one", "hi", "hello", "how are you?", "fine"),
        conversation("two", "hi", "hello", "bye", 'so "}] long'),
        conversation("three", "hi", "good day"),
        conversation("four", "system:be kind", "user:", "assistant:", 'user:é\n\\"', "assistant:\ud800 😀"),
        conversation("five", "just so", first="assistant"),
    ]
)
INDEX = RECORDED.index
HI = ("user", "hi")
HELLO = ("assistant", "hello")
HISTORIES: list[list[tuple[str, str]]] = [
    [],
    [HI],
    [HI, HELLO, ("user", "bye")],
    [HI, HELLO, ("user", "how are you?")],
    [("system", "be kind"), ("user", "")],
    [("system", "be kind"), ("user", ""), ("assistant", ""), ("user", 'é\n\\"')],
    [("user", "nobody said this")],
    [HI, HELLO],
    [HI, HI],
]


def fields(answer: bytes) -> Any:
    return json.loads(answer)
