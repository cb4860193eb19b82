from typing import Any

import pytest

from mockchat.core import entries, wire
from mockchat.core.entries import Conversation, DatasetError, EntryError
from mockchat.core.index import ResponseIndex
from mockchat.core.message import as_object


def said(entry: Any) -> list[tuple[str, str]]:
    """The messages of an entry, as pairs of role and content."""
    read, count = entries.read(entry, "c")
    assert len(read.messages) == count
    return [(wire.role_of(message), wire.content_of(message)) for message in read.messages]


# Roles and texts


def test_role_names_in_any_case() -> None:
    names = ["Human", "USER", "GPT", "ChatGPT", "bing", "Bard", "assistant", "System", "developer", "function", "Tool"]
    roles = [role for role, _ in said({"conversations": [{"from": name, "value": ""} for name in names]})]
    assert roles == ["user"] * 2 + ["assistant"] * 5 + ["system"] * 2 + ["function", "tool"]


def test_lone_surrogates_are_text() -> None:
    talk = [{"from": "human", "value": "\ud800"}, {"from": "gpt", "value": "\udc00!"}]
    assert said({"conversations": talk}) == [("user", "\ud800"), ("assistant", "\udc00!")]


# Forms


@pytest.mark.parametrize("key", ["conversations", "messages"])
def test_messages_of_either_form_in_either_list(key: str) -> None:
    talk = [
        {"role": "user", "content": "1"},
        {"from": "gpt", "value": "2"},
        {"role": "User", "content": "3"},
        {"from": "GPT", "value": "4"},
    ]
    assert said({key: talk}) == [("user", "1"), ("assistant", "2"), ("user", "3"), ("assistant", "4")]


@pytest.mark.parametrize(
    ("key", "message", "expected"),
    [
        # A key of the other form is an extra key, such as the name of who spoke.
        ("messages", {"from": "Ada", "role": "User", "content": "hi"}, ("user", "hi")),
        ("messages", {"from": "Ada", "role": "user", "content": [{"type": "text", "text": "hi"}]}, ("user", "hi")),
        ("messages", {"from": "Ada", "role": "assistant", "tool_calls": []}, ("assistant", "")),
        ("conversations", {"from": "Ada", "role": "user", "content": "hi"}, ("user", "hi")),
        ("conversations", {"role": 3, "from": "Human", "value": "hi"}, ("user", "hi")),
        # With both forms whole, that of the list counts.
        ("messages", {"from": "gpt", "value": "x", "role": "User", "content": "hi"}, ("user", "hi")),
        ("conversations", {"from": "Human", "value": "hi", "role": "tool", "content": "x"}, ("user", "hi")),
    ],
)
def test_keys_of_the_other_form_are_ignored(key: str, message: dict[str, Any], expected: tuple[str, str]) -> None:
    assert said({key: [message]}) == [expected]


def test_roles_of_tools_and_a_system_prompt_beside_the_list() -> None:
    turns = [("human", "1"), ("function_call", "{}"), ("observation", "2"), ("gpt", "3")]
    talk = [{"from": name, "value": value} for name, value in turns]
    answered = [("user", "1"), ("assistant", "{}"), ("tool", "2"), ("assistant", "3")]
    assert said({"conversations": talk, "system": "s", "tools": "[]"}) == [("system", "s"), *answered]
    assert said({"messages": talk, "system": None}) == answered


CALL = {"id": "1", "function": {"name": "f", "arguments": ""}}


def test_contents_of_openai_s_form() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    talk = [
        {"role": "user", "content": parts},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "c", "tool_call_id": "1"},
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "assistant", "function_call": {"name": "f"}},
        {"role": "user", "content": []},
    ]
    assert said({"messages": talk}) == [
        ("user", "ab"),
        ("assistant", ""),
        ("tool", "c"),
        ("assistant", ""),
        ("assistant", ""),
        ("user", ""),
    ]


def test_sharegpt_s_calls_are_calls_and_get_ids() -> None:
    call = '{"name": "weather", "arguments": {"city": "Zürich"}}'
    turns = [("human", "1"), ("function_call", f"[{call}, {call}]"), ("observation", "2"), ("observation", "3")]
    talk = [{"from": name, "value": value} for name, value in [*turns, ("gpt", "4")]]
    of_sharegpt = entries.conversation({"conversations": talk}, "c")
    function = {"name": "weather", "arguments": '{ "city": "Zürich" }'}
    calls = [{"id": call_id, "type": "function", "function": function} for call_id in "ab"]
    messages = [
        {"role": "user", "content": "1"},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "content": "3", "tool_call_id": "b"},
        {"role": "tool", "content": "2", "tool_call_id": "a"},
        {"role": "assistant", "content": "4"},
    ]
    of_openai = entries.conversation({"messages": messages}, "c")
    assert of_sharegpt.messages == of_openai.messages
    sent = [as_object(message) for message in of_sharegpt.history(4)]
    assert [call["id"] for call in sent[1]["tool_calls"]] == ["call_1_0", "call_1_1"]
    assert [message["tool_call_id"] for message in sent[2:]] == ["call_1_0", "call_1_1"]
    assert [as_object(message) for message in of_openai.history(4)][2]["tool_call_id"] == "a"


def test_a_message_of_weight_0_is_no_reply_and_the_last_one_ends_as_is_said() -> None:
    hello = {"role": "assistant", "content": "hello"}
    messages = [hello | {"weight": 0}, {"role": "user", "content": "hi", "weight": 0}, hello | {"weight": 1}, hello]
    talk = entries.conversation({"messages": messages, "finish_reason": "length", "usage": {"total_tokens": 3}}, "c")
    assert [number for number, _ in talk.places()] == [2, 3]
    assert talk.replies == 2
    assert (talk.details[3].finish_reason, talk.details[3].usage) == (b'"length"', b'{"total_tokens":3}')
    assert 2 not in talk.details
    index = ResponseIndex([talk])
    histories = [wire.join(talk.messages[:number]) for number in range(5)]
    assert [len(index.replies(history)) for history in histories] == [0, 0, 1, 1, 0]


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_number_that_json_has_not_is_answered_as_null(number: float) -> None:
    talk = entries.conversation({"messages": [{"role": "assistant", "content": "x"}], "usage": {"n": number}}, "c")
    assert talk.details[0].usage == b'{"n":null}'


# Ids


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "name"), ({"id": "a_0"}, "a_0"), ({"id": ""}, ""), ({"id": 7}, "7"), ({"id": -(2**63)}, f"{-(2**63)}")],
)
def test_ids(given: dict[str, Any], expected: str) -> None:
    assert entries.read({"messages": [], **given}, "name") == (Conversation(expected, b""), 0)


def test_an_entry_without_id_gets_a_name() -> None:
    assert entries.conversation({"messages": []}, "recording 3") == Conversation("recording 3", b"")
    assert entries.conversation({"messages": [], "id": ""}, "recording 3") == Conversation("", b"")
    with pytest.raises(DatasetError, match="recording 3: is null, not an object"):
        entries.conversation(None, "recording 3")


# What is refused


def of(message: Any) -> dict[str, Any]:
    return {"conversations": [message]}


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (3, "is a number, not an object"),
        ([], "is an array, not an object"),
        ({"id": "x"}, 'must have either "conversations" or "messages"'),
        ({"conversations": [], "messages": []}, 'must have either "conversations" or "messages"'),
        ({"id": None, "conversations": []}, '"id" is null, not a string'),
        ({"id": 7.0, "conversations": []}, '"id" is a number, not a string'),
        ({"id": True, "conversations": []}, '"id" is a boolean, not a string'),
        ({"conversations": {}}, '"conversations" is an object, not an array'),
        ({"conversations": None}, '"conversations" is null, not an array'),
        ({"messages": {}}, '"messages" is an object, not an array'),
        ({"messages": [], "system": 3}, '"system" is a number, not a string'),
        (of("hi"), "message 0 is a string, not an object"),
        (of({"value": "x"}), "message 0: from must be one of user, "),
        (of({"role": "user"}), 'message 0 lacks "content"'),
        (of({"role": "assistant"}), 'message 0 lacks "content"'),
        (of({"role": "user", "value": "x"}), 'message 0 lacks "content"'),
        (of({"role": "user", "content": 3}), "message 0: content must be a string, a list of parts, or null"),
        (
            of({"role": "user", "content": ["x"]}),
            "message 0: content[0] must be an object with a type: text, image_url, ",
        ),
        (of({"role": "assistant", "tool_calls": [{}]}), "message 0: tool_calls[0].function must be an object"),
        (of({"role": "tool", "content": "", "tool_call_id": 3}), "message 0: tool_call_id must be a string"),
        ({"messages": [], "finish_reason": 3}, '"finish_reason" is a number, not a string'),
        ({"messages": [], "usage": "x"}, '"usage" is a string, not an object'),
        (of({"from": "gpt"}), 'message 0 lacks "value"'),
        (of({"from": "gpt", "value": None}), '"value" of message 0 is null, not a string'),
        (of({"from": "gpt", "value": ["x"]}), '"value" of message 0 is an array, not a string'),
        (of({"from": "GPT", "value": True}), '"value" of message 0 is a boolean, not a string'),
        (of({"from": ["gpt"], "value": "x"}), "message 0: from must be one of user, "),
        (of({"from": "martian", "value": "x"}), "message 0: from must be one of user, "),
        (of({"from": "martian", "value": "x"}), ", human, gpt, "),
        (of({"from": "martian", "value": "x"}), ", not 'martian'"),
        (of({"role": "assistant", "content": "x", "foo": nested(1000)}), "message 0 is nested too deeply"),
        (of({"role": "assistant", "content": "x", "refusal": nested(1000)}), "message 0 is nested too deeply"),
        ({"messages": [], "usage": {"a": nested(300)}}, '"usage" is nested too deeply'),
    ],
)
def test_what_is_wrong_with_an_entry_is_said(entry: Any, reason: str) -> None:
    with pytest.raises(EntryError) as caught:
        entries.read(entry, "c")
    assert reason in str(caught.value)
