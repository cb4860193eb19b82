import random
from copy import deepcopy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mockchat.core import entries, wire
from mockchat.core.dataset import load
from mockchat.core.entries import Conversation
from mockchat.core.message import as_object, in_order, read
from mockchat.core.seeding import alter, seed_errors
from tests.helpers import SAMPLE, conversation


def altered(before: list[Conversation], after: list[Conversation]) -> list[tuple[bytes, bytes]]:
    return [
        pair
        for old, new in zip(before, after, strict=True)
        for pair in zip(old.messages, new.messages, strict=True)
        if pair[0] != pair[1]
    ]


@given(st.text(max_size=5), st.integers())
def test_an_edit_is_one_character_and_never_none(text: str, seed: int) -> None:
    edited = alter(text, random.Random(seed))
    assert edited != text
    assert abs(len(edited) - len(text)) <= 1


@pytest.mark.parametrize("seed", ["1", "2", "42", "word", "00"])
def test_one_percent_is_altered(seed: str) -> None:
    turns = [conversation(f"c{number}", "question", "answer", "more", "again") for number in range(500)]
    before = deepcopy(turns)
    assert seed_errors(turns, seed) in (20, 21, 22)
    changes = altered(before, turns)
    assert len(changes) in (20, 21, 22)
    assert {wire.role_of(new) for _, new in changes} == {"user", "assistant"}
    assert all(wire.role_of(old) == wire.role_of(new) for old, new in changes)


def test_a_seed_can_be_repeated_and_another_differs() -> None:
    def seeded(seed: str) -> list[Conversation]:
        conversations = load(SAMPLE).conversations
        seed_errors(conversations, seed)
        return conversations

    assert seeded("1") == seeded("1")
    assert seeded("1") != seeded("2")


@pytest.mark.parametrize("seed", ["", "0"])
def test_off(seed: str) -> None:
    turns = [conversation("c", "question", "answer")]
    before = deepcopy(turns)
    assert seed_errors(turns, seed) == 0
    assert turns == before


def test_small_files_have_one_of_each_role_altered() -> None:
    turns = [conversation("c", "system:be kind", "user:question", "assistant:answer")]
    before = deepcopy(turns)
    assert seed_errors(turns, "1") == 2
    assert [wire.role_of(new) for _, new in altered(before, turns)] == ["user", "assistant"]


def test_without_user_messages_only_the_assistant_is_altered() -> None:
    turns = [conversation("c", "answer", first="assistant")]
    assert seed_errors(turns, "1") == 1
    assert seed_errors([], "1") == 0


def test_messages_with_calls_and_parts_are_altered_in_all_their_forms() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": "é"}'}}
    image = {"type": "image_url", "image_url": {"url": "http://x"}}
    messages = [
        {"role": "user", "content": [image]},
        {"role": "assistant", "content": None, "tool_calls": [call, call | {"id": "2"}]},
        {"role": "tool", "content": "b", "tool_call_id": "2"},
        {"role": "assistant", "content": "x", "refusal": "no"},
    ]
    before = entries.conversation({"messages": messages}, "c")
    changed: set[int] = set()
    for seed in range(5):
        talks = [entries.conversation({"messages": messages}, "c") for _ in range(200)]
        assert seed_errors(talks, str(seed + 1)) in (8, 9)  # One more where there is no user's message among them.
        places = [(each, *place) for each in talks for place in enumerate(each.messages)]
        for talk, number, message in places:
            if message == before.messages[number]:
                continue
            changed.add(number)
            details = talk.details[number]
            assert details.sent != before.details[number].sent
            found = [each for _, each, _ in in_order(map(read, map(as_object, talk.history(4))))]
            assert found == talk.messages
            if details.answered:
                assert read(as_object(details.answered)).wire == message
    assert changed == {0, 1, 2, 3}
