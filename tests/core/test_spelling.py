import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mockchat.core import spelling, wire
from mockchat.core.dataset import load
from mockchat.core.index import ResponseIndex
from mockchat.core.message import read
from tests.fuzz import inputs, properties
from tests.helpers import SAMPLE, conversation, index_of

CONVERSATIONS = load(SAMPLE).conversations
INDEX = ResponseIndex(CONVERSATIONS)
HI = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "h\u00e9llo"}]


def as_objects(messages: list[bytes], content_first: bool = False) -> list[dict[str, str]]:
    keys = ("content", "role") if content_first else ("role", "content")
    values = [{"role": wire.role_of(message), "content": wire.content_of(message)} for message in messages]
    return [{key: value[key] for key in keys} for value in values]


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
@pytest.mark.parametrize("content_first", [False, True])
@pytest.mark.parametrize("ensure_ascii", [False, True])
@pytest.mark.parametrize("keys", ["", "m", "mn", "n"])
def test_common_spellings_are_followed_to_the_end(
    separators: tuple[str, str], content_first: bool, ensure_ascii: bool, keys: str
) -> None:
    parameters = {"m": {"model": "\u00e9", "stop": ["}]"]}, "n": {"n": 1}}
    before, after = (parameters.get(key, {}) if key in keys else {} for key in "mn")
    for talk in CONVERSATIONS:
        for end in range(1, len(talk.messages) + 1):
            request = {**before, "messages": as_objects(talk.messages[:end], content_first), **after}
            body = json.dumps(request, separators=separators, ensure_ascii=ensure_ascii).encode(
                "utf-8", "surrogatepass"
            )
            walk = spelling.walk(body, INDEX)
            assert walk
            # The end of the array is not seen behind a text that looks like it.
            if '"}]' not in str(request):
                assert walk.messages() == talk.messages[:end]
                assert walk.rest.startswith(b"[]")
                assert json.loads(b'{"messages":' + walk.rest) == {"messages": [], **after}


def test_what_is_left_begins_with_the_first_message_that_is_not_recorded() -> None:
    index = index_of(conversation("c", "hi", "h\u00e9llo", "bye"), conversation("d", "hi", "good day"))
    other = {"role": "user", "content": "who?"}
    for request in (
        json.dumps({"n": 1, "messages": [*HI, other, other]}),
        json.dumps({"n": 1, "messages": [*HI, other, other]}, separators=(",", ":")),
        json.dumps({"n": 1, "messages": [dict(reversed(message.items())) for message in [*HI, other, other]]}),
    ):
        walk = spelling.walk(request.encode(), index)
        assert walk
        assert walk.messages() == [wire.message("user", "hi"), wire.message("assistant", "h\u00e9llo")]
        assert walk.before.strip(b" ") == walk.before
        assert json.loads(walk.before[:-1] + b"}") == {"n": 1}
        assert json.loads(b'{"messages":' + walk.rest)["messages"] == [other, other]


INDEX_OF_FEW = index_of(conversation("c", "hi", "hello"), conversation("d", "bye"), conversation("e", "h/i"))


@pytest.mark.parametrize(
    "message",
    [
        '{"role": "user", "content": "\\u0068i" "x"}',
        '{"role": "user", "content": ["\\u0068i"}',
        '{"role": "user", "content": "hi" }',
        '{"role": "user", "content": 3}',
        '{"role": "user"}',
        '{"role": "user", "content": "hi"',
        '{"role": "user", "content": "hi',
        '{"content": "hi", "role": "user", "role": "tool"}',
        '{"content": "hi", "role": "us',
        '{"content": "hi"}',
        '{"content": "hi',
        '{"content": null, "role": "user"}',
    ],
)
def test_what_is_no_recorded_message_is_left(message: str) -> None:
    for spelled in (message, message.replace(", ", ",").replace(": ", ":")):
        walk = spelling.walk(f'{{"messages": [{spelled}]}}'.encode(), INDEX_OF_FEW)
        walk = walk or spelling.walk(f'{{"messages":[{spelled}]}}'.encode(), INDEX_OF_FEW)
        assert walk is None or (walk.prefix == 0 and walk.messages() == [])


@pytest.mark.parametrize(
    "message",
    [
        '{"role": "user", "content": "hi", "name": "x"}',
        '{"role": "user", "content": "hi", "content": "bye"}',
        '{"role": "user", "content": "\\u0068i", "content": "hi"}',
        '{"role": "user", "content":  "hi"}',
        '{"role": "us\\u0065r", "content": "hi"}',
        '{"role": "User", "content": "hi"}',
        '{"role": "user", "content": "h\\/i"}',
        '{"content": "hi", "name": "x", "role": "user"}',
    ],
)
def test_a_message_in_another_spelling_is_read(message: str) -> None:
    for array in (f"[{message}]", f'[{message}, {{"role": "assistant", "content": "hello"}}]'):
        walk = spelling.walk(f'{{"messages": {array}}}'.encode(), INDEX_OF_FEW)
        assert walk
        in_full = [read(each).wire for each in json.loads(array)]
        assert walk.messages() == in_full[: INDEX_OF_FEW.find(in_full)[1]]
        assert len(walk.messages()) >= 1


@pytest.mark.parametrize("role", wire.API_ROLES)
def test_the_same_text_of_another_role_is_another_message(role: str) -> None:
    index = index_of(conversation("c", "hi"), conversation("d", "tool:bye"))
    for content, recorded in (("hi", "user"), ("bye", "tool")):
        for number in range(8):
            body = inputs.spelled({"messages": [{"role": role, "content": content}]}, number)
            walk = spelling.walk(body, index)
            assert walk
            assert len(walk.messages()) == (role == recorded)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{}",
        '{"messages":[]}',
        '{"messages": []}',
        '{"messages":null}',
        '{"messages":\n[{"role":"user"',
        '"messages":',
    ]
    + ['{"m":[{"role":"user","content":"hi"}]}', 'xxxxxxxxxx[{"role":"user","content":"hi"}]}'],
)
def test_what_has_no_messages_in_a_known_spelling(body: str) -> None:
    assert spelling.walk(body.encode(), index_of(conversation("c", "hi", "hello"))) is None


@given(st.sampled_from(inputs.seeds("body")), st.integers(0).map(random.Random))
def test_to_follow_changes_nothing_of_what_is_said(body: bytes, chance: random.Random) -> None:
    properties.followed(inputs.mutated(body, "body", chance), properties.SAMPLED)


@given(st.lists(st.sampled_from([*HI, {"role": "user", "content": '"}]'}]), min_size=1), st.integers(0, 7), st.data())
def test_cut_bodies_are_followed_alike(messages: list[Any], number: int, data: st.DataObject) -> None:
    body = inputs.spelled({"messages": messages}, number)
    recorded = properties.Recorded(
        [conversation("c", "hi", "h\u00e9llo", "hi", 'user:"}]', "x"), conversation("d", '"}]')]
    )
    for end in (len(body), data.draw(st.integers(0, len(body)))):
        properties.followed(body[:end], recorded)
