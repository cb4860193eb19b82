import json
from typing import Any

import pytest

from mockchat.core import message, wire
from mockchat.core.message import ROLES, as_object, in_order, read


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("human", "user"),
        ("GPT", "assistant"),
        ("Developer", "system"),
        ("function_call", "assistant"),
        ("observation", "tool"),
    ],
)
def test_roles(name: str, expected: str) -> None:
    assert read({"role": name, "content": "hi"}).wire == wire.message(expected, "hi")


def test_every_role_has_a_wire_form() -> None:
    assert set(ROLES.values()) == set(wire.API_ROLES)


CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
IMAGE = {"type": "image_url", "image_url": {"url": "http://x/y.png", "detail": "low"}}
TEXT = {"type": "text", "text": "a"}


@pytest.mark.parametrize(
    "spellings",
    [
        [{"content": None}, {"content": ""}, {"content": []}, {}],
        [{"content": "ab"}, {"content": [TEXT, TEXT | {"text": "b", "role": "user", "tool_calls": [], "x": None}]}],
        [
            {"content": None, "tool_calls": [CALL]},
            {
                "tool_calls": [
                    {"function": {"arguments": '{"a":1.0}', "name": "f", "parsed_arguments": None}, "index": 0}
                ]
            },
        ],
        [
            {"content": "a"},
            {"content": "a", "refusal": "no", "annotations": [], "audio": None, "function_call": None, "name": "x"},
            {"content": "a", "reasoning_content": "hm", "parsed": None, "tool_calls": None, "what": 1},
            {"content": [TEXT, {"type": "refusal", "refusal": "no"}]},
        ],
        [{"content": [TEXT, IMAGE]}, {"content": [dict(reversed(TEXT.items())), dict(reversed(IMAGE.items()))]}],
    ],
)
def test_spellings_of_one_message(spellings: list[Any]) -> None:
    assert len({read({"role": "assistant", **given}).wire for given in spellings}) == 1


def test_what_differs() -> None:
    different: list[Any] = [
        {"content": ""},
        {"content": "a"},
        {"tool_calls": [CALL]},
        {"content": "a", "tool_calls": [CALL]},
        {"tool_calls": [CALL, CALL]},
        {"tool_calls": [CALL | {"function": {"name": "g", "arguments": '{"a": 1}'}}]},
        {"tool_calls": [CALL | {"function": {"name": "f", "arguments": '{"a": 2}'}}]},
        {"function_call": CALL["function"]},
        {"content": [IMAGE]},
        {"content": [IMAGE, TEXT]},
        {"content": [TEXT, IMAGE]},
        {"content": [IMAGE, IMAGE]},
    ]
    assert len({read({"role": "assistant", **given}).wire for given in different}) == len(different)


def test_only_text_equals_what_may_stand_in_a_request() -> None:
    for given in ({"content": "a"}, {"content": "a", "tool_calls": [CALL]}, {"content": [IMAGE]}):
        found = read({"role": "assistant", **given}).wire
        assert wire.is_plain(found) == (given == {"content": "a"})
        assert (b"\0" in found) != wire.is_plain(found)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"role": 3}, "role must be one of user, "),
        ({"role": ""}, "role must be one of user, "),
        ({"role": "martian", "content": ""}, "role must be one of user, "),
        ({"role": "user"}, "content is missing"),
        ({"role": "user", "content": 3}, "content must be a string, a list of parts, or null"),
        ({"role": "user", "content": [TEXT, 3]}, "content[1] must be an object with a type"),
        ({"role": "user", "content": [{"type": "text"}]}, "content[0].text must be a string"),
        ({"role": "tool", "tool_call_id": 3}, "tool_call_id must be a string"),
    ],
)
def test_what_is_no_message_is_said(given: Any, told: str) -> None:
    with pytest.raises(ValueError, match="m") as caught:
        read(given)
    assert str(caught.value).startswith(told)


def test_tools_that_answer_in_any_order_are_put_in_the_order_of_the_calls() -> None:
    called = {"role": "assistant", "tool_calls": [CALL, CALL | {"id": "2"}]}
    first, second = ({"role": "tool", "tool_call_id": call_id, "content": call_id} for call_id in "12")
    user = {"role": "user", "content": "so?"}
    one, other = [in_order(map(read, [user, called, *answers, user])) for answers in ([first, second], [second, first])]
    assert [number for number, _, _ in other] == [0, 1, 3, 2, 4]
    assert [(found, call_id) for _, found, call_id in one] == [(found, call_id) for _, found, call_id in other]
    assert [call_id for _, _, call_id in one] == [None, None, "1", "2", None]
    alone = in_order(map(read, [user, called, second | {"content": "1"}, user]))
    assert alone[2][1] != one[2][1]  # The same text, but the answer to another call.


def test_a_message_as_sent_and_as_answered() -> None:
    given = {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning": "hm", "annotations": [], "x": [1]}
    found = read(given)
    assert as_object(message.sent(found)) == {"role": "assistant", "content": None, "tool_calls": [CALL]}
    assert as_object(message.answered(found, given)) == {
        **{"role": "assistant", "content": None, "refusal": None, "tool_calls": [CALL]},
        **{"reasoning": "hm", "x": [1]},
    }
    tool = read({"role": "tool", "content": [TEXT, IMAGE], "tool_call_id": "1"})
    assert as_object(message.sent(tool, "1")) == {"role": "tool", "content": [TEXT, IMAGE], "tool_call_id": "1"}
    assert message.spell(json.loads(b'{"role":"%b}' % message.sent(tool, "1"))) == message.sent(tool, "1")
