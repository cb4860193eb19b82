import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mockchat.core import wire
from mockchat.core.ignorable import leave_out
from mockchat.core.index import ResponseIndex
from mockchat.core.message import read
from tests.helpers import conversation

DATE = r"\d{4}-\d\d-\d\d"


def left(message: bytes, pattern: str = DATE) -> bytes:
    return leave_out([re.compile(pattern)], message)


def call(arguments: str) -> bytes:
    return read(
        {"role": "assistant", "tool_calls": [{"function": {"name": "2026-11-25", "arguments": arguments}}]}
    ).wire


def test_texts_and_what_is_in_arguments_are_left_out() -> None:
    assert left(wire.message("tool", "on 2026-11-25: no")) == wire.message("tool", "on : no")
    assert left(wire.message("user", "on no date")) == wire.message("user", "on no date")
    one, other = (call(f'{{"when":{{"day":["2026-11-{day}"]}},"n":1.5,"x":null}}') for day in (25, 26))
    assert left(one) == left(other)
    assert left(one) != left(call('{"when":{"day":["2026-11-25"]},"n":2}'))
    assert wire.more_of(left(one))["calls"][0]["function"] == "2026-11-25"  # The name of what is called.
    one, other = (call(f'{{"at":{at}}}') for at in (1764052345, 1764052346))
    assert left(one, r"17\d{8}") == left(other, r"17\d{8}") != left(one)
    assert left(call("on 2026-11-25")) == left(call("on 2026-11-26"))


@pytest.mark.parametrize("depth", [250, 253, 600])
def test_deeply_nested_arguments_are_compared(depth: int) -> None:
    nested = call('{"a":' * depth + '"on 2026-11-25"' + "}" * depth)
    left(nested)
    assert ResponseIndex([], [DATE]).compared(wire.join([nested]))


def test_texts_between_other_parts_are_left_out_too() -> None:
    image = {"type": "image_url", "image_url": {"url": "http://x/2026-11-25"}}
    messages = [
        read({"role": "user", "content": [{"type": "text", "text": f"on 2026-11-{day}"}, image]}).wire
        for day in (1, 25)
    ]
    one, other = [left(message, r"on \d{4}-\d\d-\d+") for message in messages]
    assert one == other
    assert b"http://x/2026-11-25" in one


@given(st.text(st.sampled_from("ab1 ")), st.sampled_from(["a", "b+", "1 ", "(?:ab)+"]))
def test_what_is_left_has_nothing_of_it(text: str, pattern: str) -> None:
    assert wire.content_of(left(wire.message("user", text), pattern)) == re.sub(pattern, "", text)


def test_an_index_ignores_and_still_answers_what_was_said() -> None:
    talk = conversation(
        "c", "system:Today is 2026-11-25", "user:hi", "assistant:on 2026-11-25", "user:x", "assistant:y"
    )
    index = ResponseIndex([talk], [DATE])
    history = [wire.message("system", "Today is 2027-01-01"), wire.message("user", "hi")]
    (reply,) = index.replies(index.compared(wire.join(history)))
    assert reply.message == wire.message("assistant", "on 2026-11-25")
