from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mockchat.core import entries, wire
from mockchat.core.diagnosis import Diagnosis, diagnose
from mockchat.core.entries import Conversation
from mockchat.core.index import ResponseIndex
from mockchat.core.text import common_length
from tests.core.test_index import histories, naive_known, recordings
from tests.helpers import conversation, index_of

INDEX = index_of(
    conversation("one", "hi", "hello", "how are you?", "fine"),
    conversation("two", "hi", "hello", "how do you do?", "well"),
    conversation("three", "good morning", "good evening", "user:x"),
    conversation("four", "system:be kind"),
)


def explain(index: ResponseIndex, messages: list[bytes]) -> Diagnosis:
    return diagnose(index, wire.join(messages), range(len(messages)))


def said(*turns: str) -> Diagnosis:
    return explain(INDEX, conversation("", *turns).messages)


@pytest.mark.parametrize(
    ("turns", "param", "text"),
    [
        (["hi", "hello", "how are you!"], "messages[2]", "messages[2] differs at character 11: sent 'how are you!' "),
        (["hi", "hello", "how are you!"], "messages[2]", "recorded 'how are you?' (U+003F)"),
        (["hi", "hello", "how are you!"], "messages[2]", "the closest recording is conversation one"),
        (["hi", "hello", "how do"], "messages[2]", "the closest recording is conversation two"),
        (["hi", "hello", "zzz"], "messages[2]", "differs at character 0"),
        (
            ["good night"],
            "messages[0]",
            "recorded 'good morning' (U+006D); the closest recording is conversation three",
        ),
        (["hi", "good evening"], "messages[1]", "recorded 'hello'"),
        (
            ["assistant:hi"],
            "messages[0].role",
            "messages[0] has the role assistant, recorded is user (conversation one)",
        ),
        (["user:be kind"], "messages[0].role", "messages[0] has the role user, recorded is system (conversation four)"),
        (["hi", "tool:hell"], "messages[1]", "messages[1] has the role tool, recorded is assistant; "),
        (["tool:be cruel"], "messages[0]", "messages[0] has the role tool, recorded is system; "),
        (["tool:be cruel"], "messages[0]", "sent 'be cruel' (U+0063), recorded 'be kind' (U+006B)"),
        (["hi", "hello"], "messages", "'how are you?', the next of conversation one, is no reply: its role is user"),
        (
            ["hi", "hello", "how are you?", "fine"],
            "messages",
            "the recording ends there (conversation one, 4 messages)",
        ),
        (
            ["hi", "hello", "how are you?", "fine", "x"],
            "messages[4]",
            "messages[4] is one too many: the recording ends",
        ),
        (
            ["system:be kind", "hi"],
            "messages[1]",
            "messages[1] is one too many: the recording ends there (conversation four",
        ),
        ([], "messages", "but 'be kind', the next of conversation four, is no reply: its role is system"),
    ],
)
def test_a_diagnosis_says_where_and_how(turns: list[str], param: str, text: str) -> None:
    diagnosis = said(*turns)
    assert diagnosis[0] == param
    assert text in diagnosis[1]


def test_what_is_shown_is_printable_and_short() -> None:
    calls = [{"id": str(number), "function": {"name": "weather", "arguments": "{}"}} for number in range(5000)]
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": None, "tool_calls": calls}]
    recorded = entries.conversation({"id": "a\n\x1b[2J", "messages": messages}, "")
    told = explain(index_of(recorded), [*recorded.messages[:1], wire.message("assistant", "hello")]).text
    assert told.endswith(r"conversation 'a\n\x1b[2J'")
    assert told.isprintable()
    assert len(told) < 300


def test_nothing_recorded() -> None:
    assert explain(index_of(), []) == ("messages", "nothing is recorded")
    history = [wire.message("user", "hi"), wire.message("assistant", "hello"), wire.message("user", "How warm is it?")]
    assert explain(index_of(), history) == ("messages", "nothing is recorded; the last message is 'How warm is it?'")


@given(recordings(), histories)
def test_the_position_is_the_first_that_no_recording_has(
    conversations: list[Conversation], history: list[bytes]
) -> None:
    index = ResponseIndex(conversations)
    if not index.replies(wire.join(history)):
        diagnosis = explain(index, history)
        expected = naive_known(conversations, history)
        place = f"messages[{expected}]" if conversations and expected < len(history) else "messages"
        assert diagnosis.param.startswith(place)
        assert diagnosis.text.isprintable()


@given(st.lists(st.text("ab", max_size=4), min_size=1, max_size=8), st.text("abc", max_size=4))
def test_the_closest_recording_has_the_longest_beginning_in_common(texts: list[str], sent: str) -> None:
    index = index_of(*(conversation(str(number), text, "reply") for number, text in enumerate(texts)))
    if sent not in texts:
        longest = max(common_length(text, sent) for text in texts)
        assert f"differs at character {longest}: " in explain(index, [wire.message("user", sent)]).text


def test_a_beginning_that_is_recorded_nowhere_is_not_compared_with_another() -> None:
    index = index_of(conversation("moons", "How many moons does Mars have?", "Two."))
    nowhere = explain(index, [wire.message("user", "Hello! What can you do?")])
    assert nowhere.param == "messages[0]"
    assert nowhere.text == (
        "no recording begins with 'Hello! What can you do?', or nearly so: "
        "the closest begins with 'How many moons does Mars have?', conversation moons"
    )
    near = explain(index, [wire.message("user", "How many miles to Babylon?")])
    assert "differs at character 10: " in near.text
    later = [wire.message("user", "How many moons does Mars have?"), wire.message("assistant", "Some other answer.")]
    assert "differs at character 0: " in explain(index, later).text


# What is recorded but is no text


def test_calls_and_parts_are_not_told_as_an_empty_text() -> None:
    calls = [{"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{}"}}]
    image = {"type": "image_url", "image_url": {"url": "http://x/y.png"}}
    talk = [
        {"role": "user", "content": [{"type": "text", "text": "What is in this picture?"}, image]},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c", "content": "rain"},
        {"role": "assistant", "content": "Rain."},
    ]
    index = index_of(entries.conversation({"messages": talk}, "talk"))

    def text(*messages: dict[str, Any]) -> str:
        sent, count = entries.read({"messages": list(messages)}, "sent")
        return diagnose(index, sent.recording, range(count)).text

    user = talk[0]
    assert "messages[1] differs: sent 'It rains', recorded a call of weather; " in text(
        user, {"role": "assistant", "content": "It rains"}
    )
    assert 'sent "What is in this picture?", recorded ["What is in this picture?", {"image_url": ' in text(
        {"role": "user", "content": "What is in this picture?"}
    )
    respelled = [{"type": "text", "text": "What is on this picture?"}, image]
    assert "messages[0].content[0] differs at character 8: sent 'What is on this picture?' (U+006F), " in text(
        {"role": "user", "content": respelled}
    )


# System prompts

PROMPTED = index_of(
    conversation("moons", "system:Be terse.", "user:How many moons does Mars have?", "assistant:Two."),
    conversation("rain", "system:You are a poet. Rhyme.", "user:What is rain?", "assistant:Pain."),
    conversation("bare", "user:How many stars are in the sky?", "assistant:Many."),
)
MOONS = "user:How many moons does Mars have?"
STARS = "user:How many stars are in the sky?"


@pytest.mark.parametrize(
    ("turns", "text"),
    [
        (
            ["system:Be terse.", STARS],
            "messages[1] differs at character 9: ",  # The prompt itself is recorded.
        ),
        (
            ["system:Be kind.", STARS],
            "messages[0], a system prompt, is not recorded; without it the history is conversation bare",
        ),
        (
            ["system:", STARS, "assistant:Many.", "user:Thanks"],
            "messages[0], a system prompt, is not recorded; without it the history begins like conversation bare",
        ),
        (
            [MOONS],
            "the system prompt is missing: with 'Be terse.' before messages[0] the history is conversation moons",
        ),
        (
            ["user:How many moons does Mars own?"],
            "messages[0] differs at character 9: sent 'How many moons does Mars own?' (U+006D), ",
        ),
        (
            ["user:What is rain?"],
            "with 'You are a poet. Rhyme.' before messages[0] the history is conversation rain",
        ),
        (
            ["system:You are a pirate. Curse.", MOONS],
            "messages[0], a system prompt, differs at character 0: sent 'You are a pirate. Curse.' (U+0059), "
            "recorded 'Be terse.' (U+0042); with the recorded one the history is conversation moons",
        ),
        (
            ["system:Be terse!", "user:How many moons does Mars own?"],
            "messages[0] differs at character 8: sent 'Be terse!' (U+0021), recorded 'Be terse.' (U+002E); "
            "the closest recording is conversation moons",
        ),
        (["user:How many stars are there?"], "messages[0] differs at character 19: "),
        (["system:Be terse!", "user:Something else entirely"], "messages[0] differs at character 8: "),
    ],
)
def test_what_is_wrong_with_the_system_prompt_is_told(turns: list[str], text: str) -> None:
    assert text in explain(PROMPTED, conversation("", *turns).messages).text


def test_no_more_than_some_prompts_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    talks = [
        conversation(str(number), f"system:{number}", f"user:question {number}", "assistant:x")
        for number in range(1000)
    ]
    index = index_of(*talks)
    looked_up = []
    before = index.before
    monkeypatch.setattr(index, "before", lambda key: looked_up.append(key) or before(key))
    assert "is missing" in explain(index, [wire.message("user", "question 0")]).text
    text = explain(index, [wire.message("system", "9999"), wire.message("user", "question 999")]).text
    assert "with the recorded one the history is conversation 999" in text
    explain(index, [wire.message("user", "question 500")])
    assert len(looked_up) < 100


def test_a_text_that_two_recordings_begin_alike_is_not_told_as_a_missing_prompt() -> None:
    index = index_of(
        conversation("bare", "user:How many stars are there in all?", "assistant:Many."),
        conversation("prompted", "system:Be terse.", "user:How many stars are there, then?", "assistant:Many."),
    )
    assert "conversation bare" in explain(index, [wire.message("user", "How many stars are there")]).text


def test_nothing_is_recorded_and_prompts_alone() -> None:
    for index in (index_of(), index_of(conversation("one", "system:Be terse."))):
        for turns in (["system:x"], ["system:x", "user:y"], ["user:y"]):
            assert explain(index, conversation("", *turns).messages)
