"""As people are told of it: through `diagnose`."""

import pytest

from mockchat.core import wire
from mockchat.core.diagnosis import diagnose
from mockchat.core.index import ResponseIndex
from tests.helpers import conversation, index_of


def told(index: ResponseIndex, messages: list[bytes]) -> str:
    return diagnose(index, wire.join(messages), range(len(messages))).text


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
            "with 'Be terse.' before messages[0] the history begins like conversation moons",
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
            "messages[0], a system prompt, differs at character 8: sent 'Be terse!' (U+0021), "
            "recorded 'Be terse.' (U+002E); with the recorded one the history begins like conversation moons",
        ),
        (["user:How many stars are there?"], "messages[0] differs at character 19: "),
        (["system:Be terse!", "user:Something else entirely"], "messages[0] differs at character 8: "),
    ],
)
def test_what_is_wrong_with_the_system_prompt_is_told(turns: list[str], text: str) -> None:
    assert text in told(PROMPTED, conversation("", *turns).messages)


def test_a_prompt_that_is_the_same_but_for_a_date_is_told_with_what_to_ignore() -> None:
    index = index_of(conversation("day", "system:Today is 2024-01-02.", "user:Which day is it?", "assistant:The 2nd."))
    text = told(index, conversation("", "system:Today is 2025-11-30.", "user:Which day is it?").messages)
    assert "with the recorded one the history is conversation day; it would be found but for a date" in text


def test_no_more_than_some_prompts_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    talks = [
        conversation(str(number), f"system:{number}", f"user:question {number}", "assistant:x")
        for number in range(1000)
    ]
    index = index_of(*talks)
    looked_up = []
    before = index.before
    monkeypatch.setattr(index, "before", lambda key: looked_up.append(key) or before(key))
    assert "is missing" in told(index, [wire.message("user", "question 0")])
    text = told(index, [wire.message("system", "9999"), wire.message("user", "question 999")])
    assert "with the recorded one the history is conversation 999" in text
    told(index, [wire.message("user", "question 500")])
    assert len(looked_up) < 100


def test_a_text_that_two_recordings_begin_alike_is_not_told_as_a_missing_prompt() -> None:
    index = index_of(
        conversation("bare", "user:How many stars are there in all?", "assistant:Many."),
        conversation("prompted", "system:Be terse.", "user:How many stars are there, then?", "assistant:Many."),
    )
    assert "conversation bare" in told(index, [wire.message("user", "How many stars are there")])


def test_nothing_is_recorded_and_prompts_alone() -> None:
    for index in (index_of(), index_of(conversation("one", "system:Be terse."))):
        for turns in (["system:x"], ["system:x", "user:y"], ["user:y"]):
            assert told(index, conversation("", *turns).messages)
