import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mockchat.core import entries, wire
from mockchat.core.dataset import load
from mockchat.core.entries import Conversation
from mockchat.core.index import Reply, ResponseIndex
from tests.helpers import SAMPLE, conversation, index_of

# Few texts, so that recordings share beginnings, repeat and part; among them what looks like the wire form's joints.
# Then messages that say more than a text, with a separator in it.
TEXTS = ["", "a", "b", '"', "\\", '"},{"role":"', '"}]', "\ud800", 'user","content":"a"', "~"]
texts = st.builds(wire.message, st.sampled_from(["user", "assistant", "system"]), st.sampled_from(TEXTS))
MORE = ('{"parts":["a"]}', '{"calls":[{"function":"f","arguments":[{"a":"b"},{"role":"c"}]}]}')
messages = texts | st.builds(wire.with_more, texts, st.sampled_from([each.encode() for each in MORE]))
histories = st.lists(messages, max_size=5)


@st.composite
def recordings(draw: st.DrawFn) -> list[Conversation]:
    talks = draw(st.lists(histories, max_size=8))
    return [Conversation(f"c{number}", wire.join(messages)) for number, messages in enumerate(talks)]


def asked_of(conversations: list[Conversation], other: list[bytes]) -> list[list[bytes]]:
    """Every recorded history, and each with `other` behind it."""
    recorded = [talk.messages[:end] for talk in conversations for end in range(len(talk.messages) + 1)]
    return [*recorded, other, *(history + other for history in recorded)]


def naive_replies(conversations: list[Conversation], history: list[bytes]) -> list[Reply]:
    """The replies after a history, in the order of the conversations; a call in the middle has an id of its own."""
    position, found = len(history), []
    for talk in conversations:
        messages = talk.messages
        if messages[:position] == history and len(messages) > position and wire.is_assistant(messages[position]):
            found.append(Reply(messages[position], wire.text(talk.id)))
    return found


def naive_known(conversations: list[Conversation], history: list[bytes]) -> int:
    """How many leading messages of the history are recorded in this order."""
    return max(
        number
        for number in range(len(history) + 1)
        if number == 0 or any(talk.messages[:number] == history[:number] for talk in conversations)
    )


def in_file_order(index: ResponseIndex, history: list[bytes]) -> list[Reply]:
    replies = index.replies(wire.join(history))
    return list(replies) if isinstance(replies, tuple) else replies.in_file_order()  # type: ignore[attr-defined]


@given(recordings(), histories)
def test_the_index_agrees_with_a_search(conversations: list[Conversation], other: list[bytes]) -> None:
    index = ResponseIndex(conversations)
    for history in asked_of(conversations, other):
        assert index.recorded(wire.join(history)) == len(wire.join(history[: naive_known(conversations, history)]))
        replies = naive_replies(conversations, history)
        assert in_file_order(index, history) == replies
        assert sorted(index.replies(wire.join(history))) == sorted(replies)


@given(recordings(), histories, messages)
def test_the_closest_neighbour_has_the_longest_beginning_in_common(
    conversations: list[Conversation], history: list[bytes], message: bytes
) -> None:
    index = ResponseIndex(conversations)
    for known in asked_of(conversations, history):
        number = len(known)
        going_on = [talk.messages for talk in conversations if talk.messages[:number] == known != talk.messages]
        following = {messages[number] for messages in going_on}
        among = index.following(wire.join(known))
        assert len(among) == len(going_on)
        start = wire.next_start(wire.join(known))
        found = {neighbour for neighbour, _ in index.neighbours(among, start, message)}
        assert found <= following
        assert bool(found) == bool(following)
        if following:
            assert max(shared(each, message) for each in found) == max(shared(each, message) for each in following)


def shared(one: bytes, other: bytes) -> int:
    one, other = one + b"}", other + b"}"
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


@given(recordings(), st.integers(0, 8))
def test_an_index_may_grow(conversations: list[Conversation], first: int) -> None:
    grown = ResponseIndex(conversations[:first])
    for talk in conversations[first:]:
        grown.add(talk)
    whole = ResponseIndex(conversations)
    for name in ("recordings", "said", "ids", "details", "numbers"):
        assert getattr(grown, name) == getattr(whole, name)


def test_what_is_served_while_it_grows_keeps_its_replies() -> None:
    index = index_of(conversation("b", "hi", "two"))
    for name, reply in (("a", "one"), ("c", "three")):
        index.add(conversation(name, "hi", reply))
    index.add(conversation("z", "a", "b"))
    replies = in_file_order(index, [wire.message("user", "hi")])
    assert [reply.conversation_id for reply in replies] == [b'"b"', b'"a"', b'"c"']


def test_every_reply_of_the_sample_is_found() -> None:
    conversations = load(SAMPLE).conversations
    index = ResponseIndex(conversations)
    found = 0
    for talk in conversations:
        for number, message in enumerate(talk.messages):
            if wire.is_assistant(message):
                assert Reply(message, wire.text(talk.id)) in index.replies(wire.join(talk.messages[:number]))
                found += 1
    assert found > 100


def test_messages_are_never_joined_by_accident() -> None:
    index = index_of(conversation("c", "ab", "c", "d"))
    for turns, known in ((["a", "bc"], 0), (["ab", "c"], 2), (["ab", "cd"], 1), (["abc"], 0)):
        messages = conversation("", *turns).messages
        assert index.recorded(wire.join(messages)) == len(wire.join(messages[:known]))


@pytest.mark.parametrize("content", ["hell", "hello ", 'hello"', "", 'hello"},{"role":"assistant","content":"hi'])
def test_the_beginning_of_a_message_is_another_message(content: str) -> None:
    index = index_of(conversation("c", "hello", "hi"), conversation("d", "hello there", "hi"))
    assert not index.replies(wire.join([wire.message("user", content)]))


def test_the_end_of_one_recording_is_not_the_beginning_of_the_next() -> None:
    index = index_of(conversation("one", "1", "2"), conversation("two", "3", "4"))
    assert index.recorded(conversation("", "1", "2", "3").recording) == len(conversation("", "1", "2").recording)


def test_a_recording_may_end_where_another_goes_on() -> None:
    index = index_of(conversation("long", "1", "2", "3", "4"), conversation("short", "1", "2"))
    assert [reply.conversation_id for reply in index.replies(conversation("", "1").recording)] == [
        b'"short"',
        b'"long"',
    ]
    assert [reply.conversation_id for reply in index.replies(conversation("", "1", "2", "3").recording)] == [b'"long"']


def test_a_conversation_may_begin_with_a_reply() -> None:
    index = index_of(conversation("c", "hello", first="assistant"), conversation("d", "hi", "hello"), conversation("e"))
    assert [reply.conversation_id for reply in index.replies(b"")] == [b'"c"']


def test_nothing_recorded() -> None:
    for index in (index_of(), index_of(conversation("c"))):
        assert not index.replies(b"")
        assert not index.replies(wire.join([wire.message("user", "hi")]))
        assert index.recorded(conversation("", "hi").recording) == 0
        assert not index.following(b"")


@pytest.mark.parametrize("prompt", ["", "be kind " * 1250, "be kind " * 8192])
def test_thousands_with_the_same_beginning(prompt: str) -> None:
    talks = [conversation(str(number), f"system:{prompt}", "user:hi", f"assistant:{number}") for number in range(2000)]
    index = index_of(*talks, conversation("other", f"system:{prompt}", "user:bye", "assistant:goodbye"))
    replies = index.replies(wire.join(talks[0].messages[:2]))
    assert [reply.conversation_id for reply in list(replies)[1000:1003]] == [b'"1899"', b'"19"', b'"190"']
    assert len(replies) == 2000
    (reply,) = index.replies(conversation("", f"system:{prompt}", "user:bye").recording)
    assert reply.message == wire.message("assistant", "goodbye")


def test_memory_is_linear_in_the_length_of_a_conversation() -> None:
    def size(turns: int) -> int:
        index = index_of(conversation("c", *(f"turn {number}" for number in range(turns))))
        return sum(map(sys.getsizeof, index.recordings)) + sum(sys.getsizeof(part) for part in vars(index).values())

    assert size(20_000) < 2.5 * size(10_000)


# Messages that say more than a text


def calling(name: str, *arguments: str, **more: Any) -> Conversation:
    """Calls with these arguments, each answered, and then a text."""
    messages: list[Any] = [{"role": "user", "content": "hi"}]
    for each in arguments:
        call = {"id": "1", "function": {"name": "f", "arguments": each}}
        messages.append({"role": "assistant", "tool_calls": [call], **more})
        messages.append({"role": "tool", "content": each})
    return entries.conversation({"messages": [*messages, {"role": "assistant", "content": name}]}, name)


def test_a_call_has_an_id_of_its_own_unless_it_is_all_that_is_asked_for() -> None:
    whole = calling("c", "")
    cut = Conversation("d", wire.join(whole.messages[:2]), {1: whole.details[1]})
    index = index_of(whole, cut)
    replies = in_file_order(index, whole.messages[:1])
    assert [reply.conversation_id for reply in replies] == [b'"c_1"', b'"d"']
    (last,) = index.replies(wire.join(whole.messages[:3]))
    assert last.conversation_id == b'"c"'


def test_messages_that_say_more_are_found_beside_texts() -> None:
    arguments = '[{"a":"b"},{"role":"c"}]'
    talks = [calling("a", "{}"), calling("b", "{}", arguments), calling("c", arguments), calling("d")]
    talks.append(calling("e", "{}", "[1]"))
    index = ResponseIndex([])
    for each in talks:
        index.add(each)
    for found in (index, ResponseIndex(talks)):
        for each in talks:
            for number, _ in each.places():
                replies = found.replies(wire.join(each.messages[:number]))
                assert each.messages[number] in [reply.message for reply in replies]
                assert each.details.get(number) in [reply.details for reply in replies]


def test_what_has_the_weight_0_is_no_reply_among_others() -> None:
    muted = calling("a", "{}", weight=0)
    hi = muted.messages[:1]
    assert not index_of(muted).replies(wire.join(hi))
    index = index_of(muted, calling("b", "{}"), conversation("c", "hi", "hello"), muted)
    assert [reply.conversation_id for reply in in_file_order(index, hi)] == [b'"b_1"', b'"c"']
    assert index.recorded(muted.recording) == len(muted.recording)


def test_a_long_reply_is_one_object_for_all_who_ask() -> None:
    """Clients that do not read it would have as many copies in memory."""
    index = index_of(conversation("one", "hi", "long " * 20_000, "more", "short"))
    history = wire.join([wire.message("user", "hi")])
    (first,), (second,) = index.replies(history), index.replies(history)
    assert first.message is second.message
