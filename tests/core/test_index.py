import sys
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mockchat.core import entries, wire
from mockchat.core.dataset import load
from mockchat.core.entries import Conversation
from mockchat.core.index import Reply, ResponseIndex
from tests.helpers import SAMPLE, conversation, index_of

# Few texts, so that recordings share beginnings, repeat and part; among them what looks like the wire form's joints.
TEXTS = ["", "a", "b", '"', "\\", '"},{"role":"', '"}]', "\ud800", 'user","content":"a"']
messages = st.builds(wire.message, st.sampled_from(["user", "assistant", "system"]), st.sampled_from(TEXTS))
histories = st.lists(messages, max_size=5)


@st.composite
def recordings(draw: st.DrawFn) -> list[Conversation]:
    talks = draw(st.lists(histories, max_size=8))
    return [Conversation(f"c{number}", messages) for number, messages in enumerate(talks)]


def asked_of(conversations: list[Conversation], other: list[bytes]) -> list[list[bytes]]:
    """Every recorded history, and each with `other` behind it."""
    recorded = [talk.messages[:end] for talk in conversations for end in range(len(talk.messages) + 1)]
    return [*recorded, other, *(history + other for history in recorded)]


def walk(index: ResponseIndex, history: list[bytes], after: bytes = b"") -> tuple[int, int, bool]:
    """What `walk` says of the array of a history: the prefix, the number of messages in it, and if these are all."""
    before = b"before" + wire.OPENING
    body = before + wire.join(history).removeprefix(wire.OPENING)
    prefix, position, to_the_end = index.walk(body + after, len(before))
    if to_the_end:
        assert position == len(body)
        return prefix, len(history), True
    starts = [len(before)]
    for message in history:
        starts.append(starts[-1] + len(message + wire.BETWEEN))
    return prefix, starts.index(position), False


def naive_replies(conversations: list[Conversation], history: list[bytes]) -> list[Reply]:
    position = len(history)
    return [
        Reply(talk.messages[position], wire.text(talk.id))
        for talk in conversations
        if talk.messages[:position] == history
        and len(talk.messages) > position
        and wire.is_assistant(talk.messages[position])
    ]


def naive_known(conversations: list[Conversation], history: list[bytes]) -> int:
    """How many leading messages of the history are recorded in this order."""
    return max(
        number
        for number in range(len(history) + 1)
        if number == 0 or any(talk.messages[:number] == history[:number] for talk in conversations)
    )


@given(recordings(), histories)
def test_the_index_agrees_with_a_search(conversations: list[Conversation], other: list[bytes]) -> None:
    index = ResponseIndex(conversations)
    for history in asked_of(conversations, other):
        prefix, known = index.find(history)
        assert known == naive_known(conversations, history)
        assert index.find(history[:known]) == (prefix, known)
        for part in range(known + 1):
            assert index.find(history[part:], index.find(history[:part])[0]) == (prefix, known - part)
        if known == len(history):
            assert index.replies(prefix) == naive_replies(conversations, history)


@given(recordings(), histories, st.binary(max_size=12))
def test_the_walk_is_the_search(conversations: list[Conversation], other: list[bytes], after: bytes) -> None:
    index = ResponseIndex(conversations)
    for history in filter(None, asked_of(conversations, other)):
        prefix, known, to_the_end = walk(index, history, after)
        assert index.find(history[:known]) == (prefix, known)
        # Only a text that looks like the array's end leads the walk astray, and only where recordings part.
        assert known == index.find(history)[1] or b'\\"}]' in wire.join(history)
        assert to_the_end == (known == len(history))


@given(recordings(), st.integers(0, 8))
def test_an_index_may_grow(conversations: list[Conversation], first: int) -> None:
    grown = ResponseIndex(conversations[:first])
    for talk in conversations[first:]:
        grown.add(talk)
    # All that it knows, so that whatever is asked of it is answered the same.
    assert vars(grown) == vars(ResponseIndex(conversations))


@given(recordings())
def test_ambiguous_counts_the_histories_with_different_replies(conversations: list[Conversation]) -> None:
    recorded = {tuple(talk.messages[:end]) for talk in conversations for end in range(len(talk.messages))}
    replies = [{message for message, _, _ in naive_replies(conversations, list(history))} for history in recorded]
    expected = sum(len(different) > 1 for different in replies)
    assert ResponseIndex(conversations).ambiguous == expected


def test_every_reply_of_the_sample_is_walked_to() -> None:
    conversations = load(SAMPLE).conversations
    index = ResponseIndex(conversations)
    walked = 0
    for talk in conversations:
        for number, message in enumerate(talk.messages):
            if wire.is_assistant(message) and number:
                prefix, _, to_the_end = walk(index, talk.messages[:number])
                assert to_the_end
                assert Reply(message, wire.text(talk.id)) in index.replies(prefix)
                walked += 1
    assert walked > 100


def test_a_message_with_more_to_it_than_the_wire_form_ends_the_walk() -> None:
    index = index_of(conversation("c", "1", "2", "3", "4"), conversation("d", "5", "6"))
    for history in (b'user","content":"1","name":"x"}]', b'user","content":"5","name":"x"}]'):
        assert index.walk(history, 0) == (0, 0, False)
    first = b'user","content":"1"},{"role":"'
    assert index.walk(first + b'assistant","content":"2","name":"x"}]', 0) == (1, len(first), False)


def test_messages_are_never_joined_by_accident() -> None:
    index = index_of(conversation("c", "ab", "c", "d"))
    assert index.find([wire.message("user", "a"), wire.message("assistant", "bc")])[1] == 0
    assert index.find([wire.message("user", "ab"), wire.message("assistant", "c")])[1] == 2
    assert walk(index, [wire.message("user", "abc")]) == (0, 0, False)


def test_a_longer_message_is_another() -> None:
    index = index_of(conversation("c", "hello", "hi"))
    for content in ("hell", "hello ", 'hello"', ""):
        assert walk(index, [wire.message("user", content)]) == (0, 0, False)


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


def test_a_call_has_an_id_of_its_own_unless_it_is_all_that_is_asked_for() -> None:
    calling = {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": ""}}]}
    hi = {"role": "user", "content": "hi"}
    answers = [{"role": "tool", "content": "x", "tool_call_id": "1"}, {"role": "assistant", "content": "y"}]
    whole = entries.conversation({"messages": [hi, calling, *answers]}, "c")
    cut = entries.conversation({"messages": [hi, calling]}, "d")
    index = index_of(whole, cut)
    first, second = index.replies(1)
    assert (first.conversation_id, second.conversation_id) == (b'"c_1"', b'"d"')
    (last,) = index.replies(3)
    assert last.conversation_id == b'"c"'


def test_messages_that_say_more_are_followed_beside_texts_and_branches() -> None:
    def talk(name: str, *arguments: str) -> Conversation:
        messages: list[Any] = [{"role": "user", "content": "hi"}]
        for each in arguments:
            messages.append({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": each}}]})
            messages.append({"role": "tool", "content": each})
        return entries.conversation({"messages": [*messages, {"role": "assistant", "content": name}]}, name)

    talks = [talk("a", "{}"), talk("b", "{}", "[]"), talk("c", "[]"), talk("d", "{}", "[1]"), talk("e")]
    index = ResponseIndex([])
    for each in talks:
        index.add(each)
    for found in (index, ResponseIndex(talks)):
        for each in talks:
            prefix, known = found.find(each.messages[:-1])
            assert known == len(each.messages) - 1
            assert each.messages[-1] in [reply.message for reply in found.replies(prefix)]
            assert found.conversation_id(prefix) == each.id or each.id in "e"
