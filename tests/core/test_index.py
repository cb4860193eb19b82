import pickle
import sys
from collections.abc import Iterator
from tempfile import TemporaryFile

from hypothesis import given
from hypothesis import strategies as st

from mockchat.core import wire
from mockchat.core.dataset import load
from mockchat.core.entries import Conversation
from mockchat.core.index import ResponseIndex
from tests.helpers import SAMPLE, conversation, index_of

# Few texts, so that recordings share beginnings, repeat and part; among them what looks like the wire form's joints.
TEXTS = ["", "a", "b", '"', "\\", '"},{"role":"', '"}]', "\ud800", 'user","content":"a"']
messages = st.builds(wire.message, st.sampled_from(["user", "assistant", "system"]), st.sampled_from(TEXTS))
histories = st.lists(messages, max_size=5)


@st.composite
def recordings(draw: st.DrawFn) -> list[Conversation]:
    found = draw(st.lists(histories, max_size=8))
    return [Conversation(f"c{number}", messages) for number, messages in enumerate(found)]


def indexes(conversations: list[Conversation]) -> Iterator[ResponseIndex]:
    """An index that has its messages, and one as another process has it, that reads them from a file."""
    index = ResponseIndex(conversations)
    yield index
    with TemporaryFile() as file:
        index.write(file)
        if file.tell():  # Recordings without a message are refused before.
            copy: ResponseIndex = pickle.loads(pickle.dumps(index))
            copy.map(file)
            yield copy


def naive_replies(conversations: list[Conversation], history: list[bytes]) -> list[tuple[bytes, bytes]]:
    position = len(history)
    return [
        (found.messages[position], wire.text(found.id))
        for found in conversations
        if found.messages[:position] == history
        and len(found.messages) > position
        and wire.is_assistant(found.messages[position])
    ]


def naive_known(conversations: list[Conversation], history: list[bytes]) -> int:
    """How many leading messages of the history are recorded in this order."""
    return max(
        number
        for number in range(len(history) + 1)
        if number == 0 or any(found.messages[:number] == history[:number] for found in conversations)
    )


@given(recordings(), histories)
def test_the_index_agrees_with_a_search(conversations: list[Conversation], other: list[bytes]) -> None:
    recorded = [found.messages[:end] for found in conversations for end in range(len(found.messages) + 1)]
    asked = [*recorded, other, *(history + other for history in recorded)]
    for index, history in ((index, history) for index in indexes(conversations) for history in asked):
        prefix, known = index.find(history)
        assert known == naive_known(conversations, history)
        assert index.find(history[:known]) == (prefix, known)
        if known == len(history):
            assert index.replies(prefix) == naive_replies(conversations, history)


@given(recordings(), histories, st.binary(max_size=12))
def test_the_walk_is_the_search(conversations: list[Conversation], other: list[bytes], after: bytes) -> None:
    recorded = [found.messages[:end] for found in conversations for end in range(1, len(found.messages) + 1)]
    asked = [*recorded, *(history + other for history in recorded)]
    for index, history in ((index, history) for index in indexes(conversations) for history in asked):
        array = wire.join(history)
        found = index.walk(b"before" + array + after, len(b"before" + wire.OPENING))
        prefix, known = index.find(history)
        if known < len(history):
            assert found is None
        elif found is None:
            # Only a text that looks like the array's end sends the walk astray, and only where recordings part.
            assert b'\\"}]' in array
        else:
            assert found == (prefix, len(b"before" + array))


@given(recordings(), st.integers(0, 8))
def test_an_index_may_grow(conversations: list[Conversation], first: int) -> None:
    grown = ResponseIndex(conversations[:first])
    for found in conversations[first:]:
        grown.add(found)
    # All that it knows, so that whatever is asked of it is answered the same.
    assert vars(grown) == vars(ResponseIndex(conversations))


@given(recordings())
def test_ambiguous_counts_the_histories_with_different_replies(conversations: list[Conversation]) -> None:
    recorded = {tuple(found.messages[:end]) for found in conversations for end in range(len(found.messages))}
    replies = [{message for message, _ in naive_replies(conversations, list(history))} for history in recorded]
    expected = sum(len(different) > 1 for different in replies)
    assert ResponseIndex(conversations).ambiguous == expected


def test_every_reply_of_the_sample_is_walked_to() -> None:
    conversations = load(SAMPLE).conversations
    index = ResponseIndex(conversations)
    walked = 0
    for found in conversations:
        for number, message in enumerate(found.messages):
            if wire.is_assistant(message) and number:
                reached = index.walk(wire.join(found.messages[:number]), len(wire.OPENING))
                assert reached is not None
                assert (message, wire.text(found.id)) in index.replies(reached[0])
                walked += 1
    assert walked > 100


def test_any_length_is_walked() -> None:
    turns = [f"turn {number}" for number in range(70)]
    found, other = conversation("c", *turns), conversation("d", *turns[:40], "elsewhere", *turns)
    for index in indexes([found, other]):
        for messages in (found.messages, other.messages):
            for end in range(1, len(messages)):
                array = wire.join(messages[:end])
                assert index.walk(array, len(wire.OPENING)) == (index.find(messages[:end])[0], len(array))
                assert index.walk(wire.join([*messages[:end], wire.message("user", "x")]), len(wire.OPENING)) is None
        assert index.walk(wire.join([*found.messages, *other.messages[40:]]), len(wire.OPENING)) is None


def test_messages_are_never_joined_by_accident() -> None:
    index = index_of(conversation("c", "ab", "c", "d"))
    assert index.find([wire.message("user", "a"), wire.message("assistant", "bc")])[1] == 0
    assert index.find([wire.message("user", "ab"), wire.message("assistant", "c")])[1] == 2
    assert index.walk(b'[{"role":"user","content":"abc"}]', len(wire.OPENING)) is None


def test_a_longer_message_is_another() -> None:
    index = index_of(conversation("c", "hello", "hi"))
    for content in ("hell", "hello ", 'hello"', ""):
        assert index.walk(wire.join([wire.message("user", content)]), len(wire.OPENING)) is None


def test_the_end_of_one_recording_is_not_the_beginning_of_the_next() -> None:
    index = index_of(conversation("one", "1", "2"), conversation("two", "3", "4"))
    assert index.find([wire.message("user", "1"), wire.message("assistant", "2"), wire.message("user", "3")])[1] == 2


def test_a_conversation_may_begin_with_a_reply() -> None:
    index = index_of(conversation("c", "hello", first="assistant"), conversation("d", "hi", "hello"))
    assert [reply.conversation_id for reply in index.replies(0)] == [b'"c"']


def test_nothing_recorded() -> None:
    assert index_of().replies(0) == []
    assert index_of().find([wire.message("user", "hi")]) == (0, 0)


def test_memory_is_linear_in_the_length_of_a_conversation() -> None:
    def size(turns: int) -> int:
        index = index_of(conversation("c", *(f"turn {number}" for number in range(turns))))
        return sum(sys.getsizeof(part) for part in vars(index).values())

    assert size(20_000) < 2.5 * size(10_000)
