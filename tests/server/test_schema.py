"""Every kind of answer against what OpenAI publishes: the API's schema, and its Python SDK's models."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from mockchat.core import answer, wire
from mockchat.core.dataset import load
from mockchat.core.index import ResponseIndex
from mockchat.server import completion
from mockchat.server.errors import ApiError
from mockchat.server.memory import NO_MEMORY
from mockchat.server.recorder import conversation
from mockchat.server.request import ChatRequest, read_request
from mockchat.server.route import PATH
from mockchat.server.simulation import FAULT_HEADER, Simulation
from mockchat.server.upstream import Upstream
from tests.helpers import SAMPLE, Clock, Connect, faults
from tests.server import kinds, schema, test_recorder
from tests.server.clients import RUNS, Exchange
from tests.server.kinds import KINDS, ask
from tests.server.test_upstream import CHUNK, EVENTS_HEAD, SILENCE, STREAM, Recorder, Speak, begun, broken, recorder
from tests.serving import GOOD, MISS, PATIENCE, MockServer, post

__all__ = ["broken", "recorder"]


def problems(request: ChatRequest) -> list[str]:
    """What is wrong with the answers to a request, plain and streamed, without usage and with it."""
    n = request.settings.n
    found = schema.completion_problems(json.loads(kinds.whole(request)), n)
    for include_usage in (False, True):
        settings = request.settings._replace(stream=True, include_usage=include_usage)
        chunks = schema.chunks_of(kinds.streamed(request._replace(settings=settings)))
        found += schema.stream_problems(chunks, n, include_usage)
    return found


# Answers


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_answer(kind: str) -> None:
    assert problems(ask(kind)) == []
    assert problems(ask(kind, n=3)) == []


@pytest.mark.parametrize("n", [2, len(KINDS)])
def test_kinds_beside_each_other(n: int) -> None:
    assert problems(ask("any", n=n)) == []


def test_every_reply_of_the_sample() -> None:
    index = ResponseIndex(load(SAMPLE).conversations)
    asked = 0
    for found in load(SAMPLE).conversations:
        for number, _ in found.places():
            body = b'{"messages":%b}' % wire.array(wire.join(found.messages[:number]))
            request = read_request(body, index)
            drawn = completion.choose(request)
            assert schema.completion_problems(json.loads(b"".join(completion.whole(request, 1, drawn)))) == []
            chunks = schema.chunks_of(b"".join(completion.stream(request, 1, drawn)))
            assert schema.stream_problems(chunks) == []
            asked += 1
    assert asked == 169


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_what_real_clients_recorded(run: list[Exchange]) -> None:
    recorded = []
    for each in run:
        said = answer.read(test_recorder.whole(each.message, each.finish_reason))
        recorded.append(conversation(json.loads(each.request), said))
    index = ResponseIndex(recorded)
    for each in run:
        assert problems(read_request(each.request.encode(), index)) == []


texts = st.text(st.characters(codec=None, exclude_categories=()), max_size=40)
named = {"name": texts, "arguments": texts | st.none() | st.dictionaries(texts, st.integers(), max_size=2)}
called = st.one_of(
    st.builds(kinds.function, st.none() | texts, named["name"], named["arguments"]),
    st.builds(kinds.custom, texts, texts, texts),
)
messages = st.fixed_dictionaries(
    {"content": st.none() | texts | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": texts}))},
    optional={
        "refusal": st.none() | texts,
        "tool_calls": st.none() | st.lists(called, max_size=3),
        "function_call": st.none() | st.fixed_dictionaries(named),
        "reasoning_content": st.none() | texts,
        "annotations": st.sampled_from([[], [{"type": "url_citation", "url_citation": kinds.CITATION}]]),
        "audio": st.sampled_from([None, kinds.AUDIO]),
        "provider": st.recursive(st.none() | texts, lambda inner: st.dictionaries(texts, inner, max_size=2)),
    },
)
beside = st.fixed_dictionaries(
    {},
    optional={
        "finish_reason": st.sampled_from([None, *schema.FINISH_REASONS]),
        "usage": st.sampled_from([None, kinds.USAGE, kinds.USAGE_IN_DETAIL]),
    },
)


@given(st.lists(st.tuples(messages, beside), min_size=1, max_size=3), texts)
def test_whatever_was_recorded(recorded: list[Any], model: str) -> None:
    index = kinds.indexed({f"kind {number}": each for number, each in enumerate(recorded)})
    assert problems(ask("any", index, n=len(recorded), model=model)) == []


# Errors


@given(st.integers(400, 599), texts, st.none() | texts, st.none() | texts)
def test_error_objects(status: int, message: str, param: str | None, code: str | None) -> None:
    assert schema.error_problems(json.loads(ApiError(status, message, param=param, code=code).body())) == []


KEY = {"Authorization": "Bearer k", "Accept": "application/json"}


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status"),
    [
        ("POST", PATH, KEY, b"no JSON", 400),
        ("POST", PATH, KEY, b"[]", 400),
        ("POST", PATH, KEY, b'{"messages": [{"role": "x", "content": ""}]}', 400),
        ("POST", PATH, KEY, GOOD[:-1] + b', "n": 0}', 400),
        ("POST", PATH, KEY | {FAULT_HEADER: "x"}, GOOD, 400),
        ("POST", PATH, {}, GOOD, 401),
        ("POST", PATH, {"Authorization": "Bearer x"}, GOOD, 401),
        ("POST", PATH, KEY, MISS, 404),
        ("POST", PATH, KEY, MISS[:-1] + b', "stream": true}', 404),
        ("GET", "/v1/models", KEY, b"", 404),
        ("GET", PATH, KEY, b"", 405),
        ("POST", PATH, KEY, b" " * 200_000, 413),
        ("POST", PATH, KEY | {"Content-Encoding": "gzip"}, GOOD, 415),
        *[("POST", PATH, KEY | {FAULT_HEADER: str(status)}, GOOD, status) for status in (408, 429, 500, 503, 529)],
    ],
)
async def test_each_error(aiohttp_client: Any, method: str, path: str, headers: Any, body: bytes, status: int) -> None:
    client = await aiohttp_client(MockServer(api_keys=["k"], simulation=Simulation(faults=faults("header"))))
    async with client.request(method, path, data=body, headers=headers) as response:
        assert response.status == status
        assert schema.error_problems(await response.json()) == []


@pytest.mark.parametrize(("sent", "status"), [(post(GOOD)[:-1], 408), (b"SSH-2.0\r\n\r\n", 400)])
async def test_requests_that_are_not_whole_or_no_http(
    aiohttp_client: Any, connect: Connect, clock: Clock, sent: bytes, status: int
) -> None:
    raw = await connect(await aiohttp_client(MockServer()))
    await raw.send(sent)
    if status == 408:
        await raw.arrived()
        await clock.passes(61)
    answered, _, body = await raw.answer()
    assert answered == status
    assert schema.error_problems(json.loads(body)) == []


def test_a_server_that_holds_too_much() -> None:
    assert schema.error_problems(json.loads(ApiError(503, NO_MEMORY).body())) == []


@pytest.mark.parametrize(("said", "status"), [(b"", 502), (SILENCE, 504)])
async def test_an_upstream_that_fails(recorder: Recorder, broken: Speak, said: bytes, status: int) -> None:
    await broken(said, timeout=0.1 if status == 504 else PATIENCE)
    answered, body = await recorder.ask(STREAM)
    assert answered == status
    assert schema.error_problems(json.loads(body)) == []


async def test_an_upstream_that_breaks_off(recorder: Recorder, broken: Speak, connect: Connect) -> None:
    await broken(EVENTS_HEAD + CHUNK)
    raw = await connect(recorder)
    await raw.send(post(STREAM))
    assert (await raw.answer())[0] == 200
    async with asyncio.timeout(PATIENCE):
        body = await raw.reader.read()
    assert schema.error_problems(json.loads(body.rpartition(b"data: ")[2])) == []


async def test_an_upstream_that_is_the_server_itself(recorder: Recorder) -> None:
    chat = recorder.server.chat  # type: ignore[attr-defined]
    await chat.upstream.close()
    chat.upstream = Upstream(str(recorder.make_url("/v1")), recorder.index, recorder.record_file)
    status, body = await recorder.ask(STREAM)
    assert status == 508
    assert schema.error_problems(json.loads(body)) == []


async def test_a_server_that_is_stopped(recorder: Recorder, connect: Connect) -> None:
    async def never(asked: web.Request) -> web.StreamResponse:
        await asyncio.sleep(3600)
        raise AssertionError

    raw = await begun(recorder, connect, never, STREAM)
    async with asyncio.timeout(PATIENCE):
        await recorder.server.chat.upstream.close()  # type: ignore[attr-defined]
        status, _, body = await raw.answer()
    assert status == 503
    assert schema.error_problems(json.loads(body)) == []


# What would be noticed


Change = Callable[[Any], object]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda said: said.pop("id"), "'id' is a required property"),
        (lambda said: said.update(object="completion"), "object"),
        (lambda said: said.update(created=1.5), "created"),
        (lambda said: said.update(model=None), "model"),
        (lambda said: said.update(usage=None), "usage"),
        (lambda said: said["usage"].pop("total_tokens"), "total_tokens"),
        (lambda said: said["usage"].update(prompt_tokens="7"), "prompt_tokens"),
        (lambda said: said["choices"][0].update(index=1), "indexes [1]"),
        (lambda said: said["choices"][0].pop("logprobs"), "logprobs"),
        (lambda said: said["choices"][0].update(finish_reason=None), "finish_reason"),
        (lambda said: said["choices"][0].update(finish_reason="end"), "finish_reason"),
        (lambda said: said["choices"][0]["message"].pop("refusal"), "'refusal' is a required property"),
        (lambda said: said["choices"][0]["message"].pop("content"), "content"),
        (lambda said: said["choices"][0]["message"].update(role="Assistant"), "role"),
        (lambda said: said["choices"][0]["message"]["tool_calls"][0].pop("id"), "tool_calls[0]"),
        (lambda said: said["choices"][0]["message"]["tool_calls"][0]["function"].update(arguments={}), "tool_calls[0]"),
        (lambda said: said["choices"][0]["message"].update(tool_calls=None), "tool_calls"),
        (lambda said: said["choices"][0]["message"].update(annotations=None), "annotations"),
    ],
)
def test_a_flaw_of_an_answer_is_noticed(change: Change, told: str) -> None:
    said = json.loads(kinds.whole(ask("calls")))
    change(said)
    assert told in "\n".join(schema.completion_problems(said))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda chunks: chunks[1].update(id="x"), "id, created and model"),
        (lambda chunks: chunks[1].update(created=1), "id, created and model"),
        (lambda chunks: chunks[2].update(object="chat.completion"), "object"),
        (lambda chunks: chunks[0]["choices"][0]["delta"].pop("role"), "the role"),
        (lambda chunks: chunks[1]["choices"][0]["delta"].update(role="assistant"), "the role"),
        (lambda chunks: chunks[1]["choices"][0].update(finish_reason="stop"), "finish_reason"),
        (lambda chunks: chunks[1]["choices"][0].pop("finish_reason"), "'finish_reason' is a required property"),
        (lambda chunks: chunks[1]["choices"][0].update(index=1), "not 1 choices"),
        (lambda chunks: chunks[1].pop("usage"), "usage"),
        (lambda chunks: chunks[-1].update(choices=[{"index": 0, "delta": {}, "finish_reason": None}]), "usage"),
        (lambda chunks: chunks.pop(-1), "usage"),
        (lambda chunks: chunks.pop(-2), "finish_reason is not"),
        (lambda chunks: chunks.pop(1), "id, type and name"),
        (lambda chunks: chunks[2]["choices"][0]["delta"]["tool_calls"][0].update(id="call_1"), "id, type and name"),
        (lambda chunks: chunks[2]["choices"][0]["delta"]["tool_calls"][0].pop("index"), "index"),
        (lambda chunks: chunks[1]["choices"][0]["delta"].update(content=1), "content"),
    ],
)
def test_a_flaw_of_a_stream_is_noticed(change: Change, told: str) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = schema.chunks_of(kinds.streamed(ask("calls", **options)))
    change(chunks)
    assert told in "\n".join(schema.stream_problems(chunks, include_usage=True))


@pytest.mark.parametrize("key", ["type", "message", "param", "code"])
def test_a_flaw_of_an_error_is_noticed(key: str) -> None:
    said = json.loads(ApiError(400, "x").body())
    del said["error"][key]
    assert f"'{key}' is a required property" in "\n".join(schema.error_problems(said))
