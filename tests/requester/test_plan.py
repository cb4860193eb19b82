import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mockchat.core import wire
from mockchat.core.entries import Conversation
from mockchat.requester import plan
from mockchat.requester.plan import Load, Schedule, rounds
from tests.helpers import conversation
from tests.requester.common import CONVERSATIONS, asked

# Requests


def test_a_question_for_every_assistant_message_in_order() -> None:
    all_asked = asked()
    assert [(question.place.conversation.id, question.place.number) for question in all_asked] == [
        ("one", 1),
        ("one", 3),
        ("two", 1),
        ("start", 0),
    ]
    assert [json.loads(question.body) for question in all_asked][1] == {
        "messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "hello"},
            {"role": "user", "content": "how are you?"},
        ]
    }
    first, *others = (reply.message for reply in all_asked[0].expected)
    assert first == wire.message("assistant", "hello")
    assert set(others) == {first, wire.message("assistant", "good day")}
    assert json.loads(all_asked[3].body) == {"messages": []}


def test_the_model_and_that_a_stream_is_wanted_are_sent_if_given() -> None:
    for question in asked('gp"t', stream=True):
        body = json.loads(question.body)
        assert (body["model"], body["stream"]) == ('gp"t', True)
    assert json.loads(asked()[0].body).keys() == {"messages"}


def order(count: int, **options: Any) -> list[tuple[str, int]]:
    load = Load(concurrency=1, **options)
    return [(place.conversation.id, place.number) for place in islice(rounds(CONVERSATIONS, load), count)]


def test_rounds() -> None:
    once = order(100)
    assert len(once) == 4
    assert order(10, duration=1.0) == (once * 3)[:10]
    shuffled = order(8, duration=1.0, shuffle=True, random_seed=1)
    assert shuffled == order(8, duration=1.0, shuffle=True, random_seed=1)
    assert sorted(shuffled[:4]) == sorted(shuffled[4:]) == sorted(once)
    assert len({tuple(order(4, shuffle=True, random_seed=seed)) for seed in range(20)}) > 5


# What each process has to do


def dealt(conversations: Sequence[Conversation], load: Load, process: int = 0) -> list[tuple[str, int]]:
    return [(place.conversation.id, place.number) for place in plan.dealt(conversations, load, process)]


@given(
    st.lists(st.lists(st.sampled_from(["user:a", "assistant:b"]), max_size=9), min_size=1, max_size=9),
    st.integers(1, 5),
    st.none() | st.integers(1, 30),
    st.booleans(),
    st.booleans(),
)
def test_every_request_is_one_process_s_and_in_order(
    turns: list[list[str]], count: int, limit: int | None, shuffle: bool, again: bool
) -> None:
    conversations = [conversation(f"c{number}", *given) for number, given in enumerate(turns)]
    replies = dealt(conversations, Load(concurrency=1))
    if not replies:
        return
    duration = 1.0 if again and limit else None
    load = Load(concurrency=1, processes=count, limit=limit, shuffle=shuffle, random_seed=1, duration=duration)
    whole = dealt(conversations, replace(load, processes=1))
    if limit is None:
        assert sorted(whole) == sorted(replies)
    assert set(whole) <= set(replies)
    asked_by_each = [dealt(conversations, load, process) for process in range(count)]
    assert asked_by_each == [whole[process::count] for process in range(count)]


def test_a_shuffled_part_can_be_had_again() -> None:
    conversations = [conversation(f"c{number}", "hi", f"{number}") for number in range(40)]
    load = Load(concurrency=2, processes=2, shuffle=True, random_seed=1)
    first, second = ([dealt(conversations, load, process) for process in (0, 1)] for _ in "ab")
    assert first == second
    assert [sorted(part) == part for part in first] == [False, False]


# When


def taken(schedule: Schedule, *moments: float) -> list[float | None]:
    """From when the latency counts of what is taken at each moment."""
    return [found and found[1] for found in map(schedule.take, moments)]


def scheduled(count: int = 100, process: int = 0, **options: Any) -> Schedule:
    return Schedule(iter(asked() * count), Load(concurrency=1, **options), lambda: 10.0, process)


def test_at_full_speed_everything_is_due_at_once() -> None:
    schedule = scheduled(count=1)
    assert taken(schedule, 10.0, 10.0, 12.5, 12.5, 12.5) == [10.0, 10.0, 12.5, 12.5, None]
    assert schedule.is_over


def test_at_a_rate_each_is_due_at_its_time_and_counts_from_it() -> None:
    schedule = scheduled(rate=2.0)
    assert taken(schedule, 10.0, 10.4, 10.6, 10.9, 30.0, 30.0) == [10.0, None, 10.5, None, 11.0, 11.5]
    assert (schedule.due(), schedule.is_over) == (12.0, False)


def test_that_nothing_is_left_is_known_before_the_next_would_be_due() -> None:
    schedule = scheduled(count=1, rate=0.01)
    assert taken(schedule, 10.0, 110.0, 210.0, 310.0) == [10.0, 110.0, 210.0, 310.0]
    assert not schedule.is_over
    assert taken(schedule, 310.0) == [None]
    assert schedule.is_over


def test_at_a_rate_processes_take_turns() -> None:
    schedule = scheduled(rate=2.0, processes=3, process=2)
    assert taken(schedule, 10.9, 11.0, 99.0, 99.0) == [None, 11.0, 12.5, 14.0]


def test_a_duration_ends_it() -> None:
    schedule = scheduled(duration=3.0)
    assert taken(schedule, 10.0, 12.9, 13.0, 13.1) == [10.0, 12.9, None, None]
    assert schedule.is_over
    late = scheduled(duration=3.0, rate=2.0)
    assert taken(late, 10.0, 13.0) == [10.0, None]
    early = scheduled(duration=3.0, rate=0.1)
    assert (taken(early, 10.0, 10.1), early.is_over) == ([10.0, None], True)


# How long requests were sent, told some seconds after the start


def test_at_full_speed_all_time_is_for_sending_but_what_follows_the_duration() -> None:
    schedule = scheduled(count=1)
    taken(schedule, 10.0, 10.1, 10.2, 10.3, 10.4)
    assert schedule.sending(7.0) == 7.0
    lasting = scheduled(duration=3.0)
    taken(lasting, 10.0, 12.9, 13.0)
    assert lasting.sending(2.0) == 2.0  # It was stopped.
    assert lasting.sending(7.0) == 3.0


@pytest.mark.parametrize("options", [{"count": 1}, {"duration": 2.0}, {"count": 1, "duration": 60.0}])
def test_a_rate_that_was_kept_is_the_requests_over_the_time_for_sending(options: dict[str, Any]) -> None:
    schedule = scheduled(rate=2.0, **options)
    taken(schedule, 10.1, 10.5, 11.0, 11.9, 12.0, 12.5)
    assert schedule.is_over
    assert schedule.sending(1.95) == schedule.sending(7.0) == 4 / 2.0


def test_a_rate_that_was_not_kept_is_less() -> None:
    late = scheduled(count=1, rate=2.0)
    taken(late, 10.0, 10.5, 11.0, 20.0, 20.0)
    assert late.sending(30.0) == 10.0
    stalled = scheduled(rate=2.0, duration=60.0)
    taken(stalled, 10.0, 70.0)
    assert stalled.sending(80.0) == 60.0
    stopped = scheduled(rate=2.0)
    taken(stopped, 10.0)
    assert stopped.sending(8.0) == 8.0


def test_processes_that_take_turns_all_end_when_the_last_request_s_interval_does() -> None:
    """Of three requests, the first process has two."""
    load = Load(concurrency=1, rate=2.0, processes=3)
    first, second = (Schedule(iter(asked()[:n]), load, lambda: 10.0, process) for process, n in ((0, 2), (1, 1)))
    taken(first, 10.0, 11.5, 11.5)
    taken(second, 10.5, 10.5)
    assert (first.sending(1.6), second.sending(0.6)) == (2.0, 1.0)
