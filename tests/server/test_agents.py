"""What real clients send in tool loops: recorded through an upstream, then answered without it, in both ways."""

import json
from typing import Any

import pytest
from aiohttp import web
from hypothesis import example, given
from hypothesis import strategies as st

from mockchat.core import answer
from mockchat.core.dataset import load
from mockchat.core.entries import conversation
from mockchat.core.index import ResponseIndex
from mockchat.requester.plan import places, questions
from mockchat.requester.verify import verify, verify_stream
from mockchat.server import completion, request
from mockchat.server.errors import NotRecorded
from tests.server.clients import RUNS, Exchange
from tests.server.test_recorder import streamed, whole
from tests.server.test_upstream import Recorder, recorder, says

__all__ = ["recorder"]

EVERY_RUN = pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
RUN = RUNS["openai-python-object"]


def answered(exchange: Exchange) -> bytes:
    """The answer that the client was given, streamed if it asked for that: each call in two deltas."""
    body, said, reason = exchange
    if not json.loads(body).get("stream"):
        return whole(said, reason, usage={"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10})
    deltas = [{"role": "assistant", "content": said["content"]}]
    for number, call in enumerate(said.get("tool_calls", ())):
        text = call["function"]["arguments"]
        called = {"name": call["function"]["name"], "arguments": ""}
        deltas.append({"tool_calls": [call | {"index": number, "function": called}]})
        deltas += [
            {"tool_calls": [{"index": number, "function": {"arguments": each}}]} for each in (text[:5], text[5:])
        ]
    return streamed(*deltas, finish_reason=reason)


def as_said(found: answer.Completion) -> dict[str, Any]:
    return {key: value for key, value in found.message.items() if value is not None or key == "content"}


@EVERY_RUN
async def test_a_run_is_recorded_and_answered_without_the_upstream(recorder: Recorder, run: list[Exchange]) -> None:
    for exchange in run:
        event_stream = {"Content-Type": "text/event-stream"} if answered(exchange).startswith(b"data") else {}
        recorder.handler = says(answered(exchange), **event_stream)
        assert (await recorder.ask(exchange.request.encode()))[0] == 200
    assert len(recorder.asked) == recorder.recorded() == len(run)

    async def no_upstream(asked: web.Request) -> web.StreamResponse:
        raise AssertionError("it was asked again")

    recorder.handler = no_upstream
    index = ResponseIndex(load(recorder.file).conversations)
    for exchange in run:
        body = exchange.request.encode()
        for reader in (index, recorder.index):
            for stream in (False, True):
                asked = json.dumps(json.loads(body) | {"stream": stream}).encode()
                found = request.read_request(asked, reader)
                plain = answer.read(b"".join(completion.whole(found, 1, completion.choose(found))))
                assert as_said(plain) == exchange.message
                assert plain.finish_reason == exchange.finish_reason
                both = answer.read_stream(b"".join(completion.stream(found, 1, completion.choose(found))))
                assert as_said(both) == exchange.message
                assert (both.finish_reason, both.flaw) == (exchange.finish_reason, None)
    assert len(recorder.asked) == len(run)


@EVERY_RUN
async def test_the_requester_replays_what_was_recorded(recorder: Recorder, run: list[Exchange]) -> None:
    for exchange in run:
        recorder.handler = says(whole(exchange.message, exchange.finish_reason))
        await recorder.ask(json.dumps(json.loads(exchange.request) | {"stream": False}).encode())
    conversations = load(recorder.file).conversations
    index = ResponseIndex(conversations)
    asked = list(questions(places(conversations), index, None, stream=False))
    assert len(asked) == len(run)
    for question in asked:
        found = request.read_request(question.body, index)
        drawn = completion.choose(found)
        assert verify(200, b"".join(completion.whole(found, 1, drawn)), question.expected) is None
        assert verify_stream(200, b"".join(completion.stream(found, 1, drawn)), question.expected)[0] is None
        history = json.loads(question.body)["messages"]
        call_ids = [call["id"] for message in history for call in message.get("tool_calls", ())]
        assert [message["tool_call_id"] for message in history if message["role"] == "tool"] == call_ids


def recorded() -> ResponseIndex:
    entries = [
        {
            "messages": [*json.loads(each.request)["messages"], each.message],
            "finish_reason": each.finish_reason,
        }
        for each in RUN
    ]
    for entry in entries:
        entry["messages"][:-1] = [
            message | {"weight": 0} if message["role"] == "assistant" else message for message in entry["messages"][:-1]
        ]
    return ResponseIndex([conversation(entry, str(number)) for number, entry in enumerate(entries)])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda call: call["function"].update(name="ping"),
            "messages[2].tool_calls[0].function.name differs at character 0: sent 'ping'",
        ),
        (
            lambda call: call["function"].update(arguments='{"to":"Bern","n":2}'),
            "messages[2].tool_calls[0].function.arguments.to differs at character 0: sent 'Bern' (U+0042)",
        ),
    ],
)
def test_another_call_is_a_miss_that_says_where(change: Any, told: str) -> None:
    index = recorded()
    asked = json.loads(RUN[1].request)
    change(asked["messages"][2]["tool_calls"][0])
    for body in (json.dumps(asked), json.dumps(asked, separators=(",", ":"), ensure_ascii=False)):
        with pytest.raises(NotRecorded) as missed:
            request.read_request(body.encode(), index)
        problem = json.loads(missed.value.body())["error"]
        assert told in problem["message"]
        assert told.startswith(problem["param"])


def test_a_call_or_an_answer_too_many_or_too_few() -> None:
    index = recorded()
    asked = json.loads(RUN[1].request)
    messages = asked["messages"]
    for changed, told in (
        ([*messages, messages[-1]], "messages[5] is an answer too many, or one to no call"),
        (messages[:-1], "is no reply: its role is tool"),
        (messages[:3] + messages[4:], "messages[3]"),
        ([*messages[:3], *messages[2:]], "messages[3]"),
    ):
        with pytest.raises(NotRecorded) as missed:
            request.read_request(json.dumps({"messages": changed}).encode(), index)
        assert told in json.loads(missed.value.body())["error"]["message"]
    request.read_request(json.dumps({"messages": [*messages[:3], *reversed(messages[3:])]}).encode(), index)


ids = st.sampled_from(["a", "b", "", None])
called = st.builds(
    lambda call_id, name, arguments: {"id": call_id, "function": {"name": name, "arguments": arguments}},
    *(ids, st.sampled_from("fg"), st.sampled_from(["", "{}", '{"x":1}', '{"x": 1.0}', "{", '[{"a":1},{"role":"x"}]'])),
)
contents = st.sampled_from(
    [None, "", "x", '"}]', '},{"role":"', [{"type": "text", "text": "x"}], [{"type": "image_url"}]]
)
spoken = st.one_of(
    st.builds(lambda text: {"role": "user", "content": text or ""}, contents),
    st.builds(
        lambda text, calls: {"role": "assistant", "content": text, "tool_calls": calls}, contents, st.lists(called)
    ),
    st.builds(
        lambda text, calls: {"content": text, "tool_calls": calls, "role": "assistant"}, contents, st.lists(called)
    ),
    st.builds(lambda text: {"role": "assistant", "content": text}, st.sampled_from(["", "x"])),
    st.builds(lambda text, call_id: {"role": "tool", "tool_call_id": call_id, "content": text}, contents, ids),
    st.builds(lambda text, call_id: {"role": "tool", "content": text, "tool_call_id": call_id}, contents, ids),
    st.just({"role": "tool", "content": "x"}),
)
END = {"role": "assistant", "content": "end"}


def outcome(reader: Any, body: bytes, index: ResponseIndex) -> Any:
    try:
        asked = reader(body, index)
        return asked and asked._replace(replies=list(asked.replies))
    except NotRecorded as missed:
        return missed.history, json.loads(missed.body())


@given(
    st.lists(st.lists(spoken, max_size=5), min_size=1, max_size=3),
    st.lists(spoken, max_size=5),
    st.sampled_from([(",", ":"), (", ", ": ")]),
    st.booleans(),
)
def test_every_way_to_read_a_history_is_a_full_parse(
    histories: list[Any], other: list[Any], separators: tuple[str, str], ascii_only: bool
) -> None:
    index = ResponseIndex([conversation({"messages": [*history, END]}, "c") for history in histories])
    for history in (*histories, other, histories[0] + other, histories[0][:-1]):
        said = {"messages": history, "model": "m"}
        body = json.dumps(said, separators=separators, ensure_ascii=ascii_only).encode()
        in_full = outcome(request.in_full, body, index)
        in_place = outcome(request.in_place, body, index)
        assert in_place is None or in_place == in_full
    for history in histories:
        found = request.read_request(json.dumps({"messages": history}).encode(), index)
        assert END["content"] in [
            answer.read(b"".join(completion.whole(found, 1, [reply]))).content for reply in found.replies
        ]
        streamed_too = b"".join(completion.stream(found, 1, [found.replies[0]]))
        assert verify_stream(200, streamed_too, found.replies)[0] is None


@example(
    [
        {"role": "assistant", "tool_calls": [{"id": each, "function": {"name": "f"}} for each in "ba"]},
        *[{"role": "tool", "tool_call_id": "a", "content": text} for text in "xy"],
    ]
)
@given(st.lists(spoken, max_size=6))
def test_what_is_sent_is_what_was_recorded(history: list[Any]) -> None:
    talk = conversation({"messages": [*history, END]}, "c")
    index = ResponseIndex([talk])
    for question in questions(places([talk]), index, None, stream=False):
        found = request.read_request(question.body, index)
        assert found.history == question.place.history
        assert verify(200, b"".join(completion.whole(found, 1, completion.choose(found))), question.expected) is None
