import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mockchat.core import ignorable, wire
from mockchat.core.ignorable import LeavingOut
from mockchat.core.index import ResponseIndex
from mockchat.core.message import read
from tests.helpers import conversation

DATE = r"\d{4}-\d\d-\d\d"


@pytest.mark.parametrize("pattern", ["(", "[a", "*", "a{2}{3}", "(?P<x>"])
def test_what_is_no_regular_expression(pattern: str) -> None:
    with pytest.raises(ValueError, match="is no regular expression"):
        ignorable.check(pattern)


@pytest.mark.parametrize("pattern", ["", "a*", "x?", "^", "(a|)"])
def test_what_matches_the_empty_text(pattern: str) -> None:
    with pytest.raises(ValueError, match="matches the empty text"):
        ignorable.check(pattern)


@pytest.mark.parametrize("pattern", [r"(\w+\s?)+:\d+", r"(?:a*b?)*c", r"((a|b+)+)x", r"(\d{1,99})+!", r"(?=(a+)+b)c"])
def test_what_could_take_for_ever(pattern: str) -> None:
    with pytest.raises(ValueError, match="repeats what repeats, which can take for ever: make the inner repetition"):
        ignorable.check(pattern)


@pytest.mark.parametrize(
    "pattern", [r"(?:\w++\s?)+:\d+", r"(?:(?>\d+)\.)+", r"(?:\d{1,3}\.){3}\d+", r"a+b+", r"(ab)?c+"]
)
def test_what_can_not(pattern: str) -> None:
    ignorable.check(pattern)
    re.sub(pattern, "", "a" * 48 + ":")


def call(arguments: str) -> bytes:
    return read(
        {"role": "assistant", "tool_calls": [{"function": {"name": "2026-11-25", "arguments": arguments}}]}
    ).wire


def test_texts_and_what_is_in_arguments_are_left_out() -> None:
    leave_out = LeavingOut([DATE])
    assert leave_out(wire.message("tool", "on 2026-11-25: no")) == wire.message("tool", "on : no")
    assert leave_out(wire.message("user", "on no date")) == wire.message("user", "on no date")
    one, other = (call(f'{{"when":{{"day":["2026-11-{day}"]}},"n":1.5,"x":null}}') for day in (25, 26))
    assert leave_out(one) == leave_out(other)
    assert leave_out(one) != leave_out(call('{"when":{"day":["2026-11-25"]},"n":2}'))
    assert wire.more_of(leave_out(one))["calls"][0]["function"] == "2026-11-25"  # The name of what is called.
    one, other = (call(f'{{"at":{at}}}') for at in (1764052345, 1764052346))
    assert LeavingOut([r"17\d{8}"])(one) == LeavingOut([r"17\d{8}"])(other) != leave_out(one)
    assert leave_out(call("on 2026-11-25")) == leave_out(call("on 2026-11-26"))


@pytest.mark.parametrize("depth", [250, 600])
def test_deeply_nested_arguments_are_compared(depth: int) -> None:
    nested = call('{"a":' * depth + '"on 2026-11-25"' + "}" * depth)
    LeavingOut([DATE])(nested)
    assert ResponseIndex([], LeavingOut([DATE])).compared(wire.join([nested]))


def test_texts_between_other_parts_are_left_out_too() -> None:
    image = {"type": "image_url", "image_url": {"url": "http://x/2026-11-25"}}
    messages = [
        read({"role": "user", "content": [{"type": "text", "text": f"on 2026-11-{day}"}, image]}).wire
        for day in (1, 25)
    ]
    one, other = [LeavingOut([r"on \d{4}-\d\d-\d+"])(message) for message in messages]
    assert one == other
    assert b"http://x/2026-11-25" in one


@given(st.text(st.sampled_from("ab1 ")), st.sampled_from(["a", "b+", "1 ", "(?:ab)+"]))
def test_what_is_left_has_nothing_of_it(text: str, pattern: str) -> None:
    assert wire.content_of(LeavingOut([pattern])(wire.message("user", text))) == re.sub(pattern, "", text)


def test_an_index_ignores_and_still_answers_what_was_said() -> None:
    talk = conversation(
        "c", "system:Today is 2026-11-25", "user:hi", "assistant:on 2026-11-25", "user:x", "assistant:y"
    )
    index = ResponseIndex([talk], LeavingOut([DATE]))
    history = [wire.message("system", "Today is 2027-01-01"), wire.message("user", "hi")]
    (reply,) = index.replies(index.compared(wire.join(history)))
    assert reply.message == wire.message("assistant", "on 2026-11-25")


def suggested(*pairs: tuple[str, str]) -> str | None:
    """What is suggested where each first text is recorded and each second one is sent."""
    recorded = conversation("c", *[f"user:{text}" for text, _ in pairs], "assistant:x")
    index = ResponseIndex([recorded, conversation("other", "Today is the day", "x")])
    return ignorable.suggestion(index, b"", [wire.message("user", text) for _, text in pairs])


@pytest.mark.parametrize(
    ("recorded", "sent", "varying"),
    [
        ("Today is 2026-11-25.", "Today is 2027-01-02.", "a date"),
        ("It is 25 November 2026", "It is 1 May 2027", "a date"),
        ("It is November 25, 2026", "It is May 1, 2027", "a date"),
        ("It is 25.11.2026", "It is 1/5/2027", "a date"),
        ("It is Monday", "It is Wednesday", "a day of the week"),
        ("at 10:31:07.123Z", "at 8:05 PM", "a time"),
        ("2026-11-25T10:31:07+00:00", "2027-01-02T00:00:00Z", "a date and a time"),
        ("id 0f8fad5b-d9cb-469f-a165-70867728950e", "id 7c9e6679-7425-40de-944b-e07fc1f90ae7", "a uuid"),
        ('{"path": "/tmp/pytest-1/x.txt"}', '{"path": "/tmp/pytest-22/x.txt"}', "a temporary path"),
        ("/var/folders/zz/T/tmpab12", "/private/var/folders/qq/T/tmpxy99", "a temporary path"),
    ],
)
def test_what_varies_is_found_out(recorded: str, sent: str, varying: str) -> None:
    told = suggested((recorded, sent), ("and", "and"), (recorded, sent))
    assert told is not None
    assert told.startswith(f"it would be found but for {varying}: the option ignore leaves out '")
    patterns = re.findall("'([^']*)'", told)
    leave_out = LeavingOut(patterns)
    assert leave_out(wire.message("user", recorded)) == leave_out(wire.message("user", sent))
    for pattern in patterns:
        ignorable.check(pattern)


@pytest.mark.parametrize(
    "pairs",
    [
        [("Today is 2026-11-25", "Today was 2026-11-26")],
        [("Today is 2026-11-25", "Today is 2026-11-26"), ("hi", "bye")],
        [("hi", "hi")],
    ],
)
def test_nothing_is_suggested_that_does_not_help(pairs: Any) -> None:
    assert suggested(*pairs) is None
