import pickle
from tempfile import TemporaryFile

import pytest
from hypothesis import given

from mockchat.core import wire
from mockchat.core.entries import Conversation
from mockchat.core.index import ResponseIndex
from mockchat.core.shared_index import SharedIndex
from tests.core.test_index import asked_of, histories, recordings, walk
from tests.helpers import conversation


def as_in_another_process(index: ResponseIndex) -> SharedIndex | None:
    """The index once it is shared; None where there is no message, for an empty file can't be mapped."""
    with TemporaryFile() as file:
        shared = SharedIndex(index, file)
        if not file.tell():
            return None
        copy: SharedIndex = pickle.loads(pickle.dumps(shared))
        copy.map(file)
        return copy


@given(recordings(), histories)
def test_it_answers_as_the_plain_index(conversations: list[Conversation], other: list[bytes]) -> None:
    plain = ResponseIndex(conversations)
    if shared := as_in_another_process(plain):
        assert shared.ambiguous == plain.ambiguous
        for history in asked_of(conversations, other):
            prefix, known = plain.find(history)
            assert shared.find(history) == (prefix, known)
            assert shared.replies(prefix) == plain.replies(prefix)
            assert shared.first_message(prefix) == plain.first_message(prefix)
            if history:
                assert walk(shared, history) == walk(plain, history)
                assert shared.neighbours(prefix, history[-1]) == plain.neighbours(prefix, history[-1])
            if prefix:
                assert shared.conversation_id(prefix) == plain.conversation_id(prefix)


def test_any_length_is_walked() -> None:
    turns = [f"turn {number}" for number in range(70)]
    one, other = conversation("c", *turns), conversation("d", *turns[:40], "elsewhere", *turns)
    plain = ResponseIndex([one, other])
    shared = as_in_another_process(plain)
    assert shared
    for index in (plain, shared):
        for messages in (one.messages, other.messages):
            for end in range(1, len(messages)):
                assert walk(index, messages[:end]) == (*index.find(messages[:end]), True)
                assert walk(index, [*messages[:end], wire.message("user", "x")])[1:] == (end, False)
        assert walk(index, [*one.messages, *other.messages[40:]])[1:] == (70, False)


def test_it_can_not_grow() -> None:
    shared = as_in_another_process(ResponseIndex([conversation("c", "hi", "hello")]))
    assert shared
    with pytest.raises(AttributeError):
        shared.add(conversation("d", "hi", "hello"))
