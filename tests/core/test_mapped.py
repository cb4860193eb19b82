import pickle
from tempfile import TemporaryFile

import pytest
from hypothesis import given

from mockchat.core import mapped, wire
from mockchat.core.entries import Conversation
from mockchat.core.index import ResponseIndex
from tests.core.test_index import asked_of, histories, recordings
from tests.helpers import conversation


def as_in_another_process(index: ResponseIndex) -> ResponseIndex | None:
    """A copy of the index that is shared; None where there is nothing in the file, which can't be mapped then."""
    copy: ResponseIndex = pickle.loads(pickle.dumps(index))
    with TemporaryFile() as file:
        mapped.share(copy, file)
        if not file.tell():
            return None
        copy = pickle.loads(pickle.dumps(copy))
        mapped.map_file(copy, file)
        return copy


@given(recordings(), histories)
def test_it_answers_as_the_plain_index(conversations: list[Conversation], other: list[bytes]) -> None:
    for plain in (ResponseIndex(conversations), ResponseIndex(conversations, ["a"])):
        if shared := as_in_another_process(plain):
            for messages in asked_of(conversations, other):
                history = plain.compared(wire.join(messages))
                assert shared.compared(wire.join(messages)) == history
                assert list(shared.replies(history)) == list(plain.replies(history))
                assert shared.recorded(history) == plain.recorded(history)
                among, start = plain.following(history), wire.next_start(history)
                assert shared.following(history) == among
                for message in messages:
                    assert shared.neighbours(among, start, message) == plain.neighbours(among, start, message)


@pytest.mark.parametrize("prompt", ["", "x" * 200, "x" * 300, "x" * 65536])
def test_recordings_that_part_before_and_behind_their_heads(prompt: str) -> None:
    talks = [conversation(f"c{number}", prompt, f"reply {number}", "so?", "yes") for number in range(20)]
    plain = ResponseIndex(talks)
    shared = as_in_another_process(plain)
    assert shared
    for talk in talks:
        for end in (1, 3):
            history = wire.join(talk.messages[:end])
            assert list(shared.replies(history)) == list(plain.replies(history))
    assert [shared.conversation_id(each) for each in range(20)] == [plain.conversation_id(each) for each in range(20)]


def test_it_can_not_grow() -> None:
    shared = as_in_another_process(ResponseIndex([conversation("c", "hi", "hello")]))
    assert shared
    with pytest.raises(AttributeError):
        shared.add(conversation("d", "hi", "hello"))
