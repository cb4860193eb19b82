import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from conftest import SAMPLE, conversation, index_of
from test_app import MockServer

from mockchat import wire
from mockchat.dataset import load
from mockchat.index import ResponseIndex
from mockchat.replay import ERROR, MISMATCHED, NOT_FOUND, Question, Result, questions, replay, verify

CONVERSATIONS = [
    conversation("one", "hi", "hello", "how are you?", "fine"),
    conversation("two", "hi", "good day"),
    conversation("none", "user:alone"),
    conversation("start", "welcome", first="assistant"),
]
INDEX = index_of(*CONVERSATIONS)
EXPECTED = [wire.message("assistant", "hello"), wire.message("assistant", 'so "}] long')]


def completion(content: Any) -> bytes:
    return json.dumps({"choices": [{"message": {"content": content}}]}).encode()


# What is asked


def test_a_question_for_every_assistant_message_in_order() -> None:
    asked = list(questions(CONVERSATIONS, INDEX))
    assert [(question.conversation_id, question.message_index) for question in asked] == [
        ("one", 1),
        ("one", 3),
        ("two", 1),
        ("start", 0),
    ]
    assert [json.loads(question.body) for question in asked][1] == {
        "messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "hello"},
            {"role": "user", "content": "how are you?"},
        ]
    }
    assert asked[0].expected == [wire.message("assistant", "hello"), wire.message("assistant", "good day")]
    assert json.loads(asked[3].body) == {"messages": []}


def test_a_model_is_sent_if_given() -> None:
    assert json.loads(next(questions(CONVERSATIONS, INDEX, 'gp"t')).body)["model"] == 'gp"t'


# What is verified


@pytest.mark.parametrize(
    "answer",
    [
        completion("hello"),
        completion('so "}] long'),
        b'{"message": {"role": "Assistant", "content": "hello"}}',
        b' {"choices" : [ {"index": 0, "message": {"content": "h\\u0065llo"}} , 3]}',
    ],
)
def test_right_answers(answer: bytes) -> None:
    assert verify(200, answer, EXPECTED) is None


@pytest.mark.parametrize(
    ("status", "answer", "kind", "detail"),
    [
        (404, b"No valid response", NOT_FOUND, "status 404: No valid response"),
        (404, b'{"error": {"message": "no such history"}}', NOT_FOUND, "no such history"),
        (500, b"", ERROR, "status 500: ''"),
        (500, b"<html>\n\x00", ERROR, "'<html>\\n\\x00'"),
        (503, b'{"error": {"message": "\\u001b[2J \\n"}}', ERROR, "status 503: '\\x1b[2J \\n'"),
        (503, b'{"error": {"message": "' + b"long " * 1000 + b'"}}', ERROR, "long long …"),
        (201, completion("hello"), ERROR, "status 201"),
        (301, b"", ERROR, "status 301"),
        (429, b'{"error": {"message": "slow down"}}', ERROR, "status 429: slow down"),
        (200, b"", ERROR, "not JSON"),
        (200, b"<html>", ERROR, "not JSON: <html>"),
        (200, completion("hello")[:-1], ERROR, "not JSON"),
        (200, b"\xff", ERROR, "not JSON"),
        (200, b"[" * 5000, ERROR, "not JSON"),
        (200, b"{}", ERROR, "no choices[0].message.content"),
        (200, b"null", ERROR, "no choices[0].message.content"),
        (200, b"[3]", ERROR, "no choices[0].message.content"),
        (200, b'{"choices": []}', ERROR, "no choices[0].message.content"),
        (200, b'{"choices": [{"message": {"content": null}}]}', ERROR, "no choices[0].message.content"),
        (200, b'{"choices": {"0": 1}}', ERROR, "no choices[0].message.content"),
        (
            200,
            completion("hello!"),
            MISMATCHED,
            "differs at character 5: got 'hello!' (U+0021), recorded 'hello' (its end)",
        ),
        (200, completion("Hello"), MISMATCHED, "differs at character 0"),
        (200, completion(""), MISMATCHED, "got '' (its end), recorded 'hello' (U+0068)"),
        (
            200,
            completion("so\u00a0long"),
            MISMATCHED,
            "character 2: got 'so\\xa0long' (U+00A0), recorded 'so \"}] long' (U+0020)",
        ),
    ],
)
def test_wrong_answers(status: int, answer: bytes, kind: str, detail: str) -> None:
    problem = verify(status, answer, EXPECTED)
    assert problem is not None
    assert problem[0] == kind
    assert detail in problem[1]
    assert problem[1].isprintable()


def events(*data: Any, newline: str = "\n") -> bytes:
    lines = [f"data: {item if isinstance(item, str) else json.dumps(item)}{newline * 2}" for item in data]
    return "".join(lines).encode()


def delta(content: Any, finish_reason: str | None = None, number: int = 0) -> dict[str, Any]:
    found = {} if content is None else {"content": content}
    return {"choices": [{"index": number, "delta": found, "finish_reason": finish_reason}]}


LAST = delta(None, "stop")


@pytest.mark.parametrize(
    "answer",
    [
        events(delta(""), delta("hel"), delta("lo"), LAST, "[DONE]"),
        events(delta("hello"), LAST, "[DONE]", newline="\r\n"),
        events(delta("hello", "stop"), {"choices": [], "usage": {}}, "[DONE]"),
        b": a comment\n\n" + events(delta("x", None, 1), delta("hello"), delta("y", None, 1), LAST, "[DONE]"),
        b"event: message\nid: 3\n" + events(delta("hello"), LAST, "[DONE]") + b"data: ignored\n\n",
    ],
)
def test_right_streams(answer: bytes) -> None:
    assert verify(200, answer, EXPECTED, stream=True) is None


@pytest.mark.parametrize(
    ("answer", "kind", "detail"),
    [
        (b"", ERROR, "ended without a finish_reason"),
        (events(delta("hello")), ERROR, "ended without a finish_reason"),
        (events(delta("hello"), LAST), ERROR, "ended without [DONE]"),
        (events(delta("hello"), "[DONE]"), ERROR, "ended without a finish_reason"),
        (events(delta("hello"), LAST, "[DONE]")[:-1], ERROR, "ended without [DONE]"),
        (events(delta("hel"), {"error": {"message": "overloaded"}}), ERROR, "broke off with an error: overloaded"),
        (events(delta("hel"), "oops", "[DONE]"), ERROR, "not JSON: oops"),
        (events(delta(3), delta(None), LAST, "[DONE]"), MISMATCHED, "got ''"),
        (events(delta("hel"), LAST, "[DONE]"), MISMATCHED, "differs at character 3"),
        (completion("hello"), ERROR, "ended without a finish_reason"),
    ],
)
def test_wrong_streams(answer: bytes, kind: str, detail: str) -> None:
    problem = verify(200, answer, EXPECTED, stream=True)
    assert problem is not None
    assert problem[0] == kind
    assert detail in problem[1]
    assert problem[1].isprintable()


# A run

Answerer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def answering(answerer: Answerer) -> AsyncIterator[str]:
    """A server that does with each connection what it is told; gives its base URL."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answerer(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


async def read_request(reader: asyncio.StreamReader) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))


def always(answer: bytes) -> Answerer:
    async def answerer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(answer)
        await writer.drain()

    return answerer


def asked() -> list[Question]:
    return list(questions(CONVERSATIONS, INDEX))


async def run(base_url: str, **options: Any) -> Result:
    async with asyncio.timeout(20):
        return await replay(asked(), base_url, **{"concurrency": 2, "keep_going": True, **options})


@pytest.mark.parametrize(("concurrency", "stream"), [(1, False), (3, True), (100, False)])
async def test_the_sample_is_verified(concurrency: int, stream: bool) -> None:
    conversations = load(SAMPLE).conversations
    index = ResponseIndex(conversations)
    server = MockServer(index)
    await server.start_server()
    for slash in ("", "/"):
        url = f"http://127.0.0.1:{server.port}/v1{slash}"
        given = questions(conversations, index, "gpt-4o", stream)
        result = await replay(given, url, concurrency=concurrency, api_key="key", stream=stream)
        assert (result.passed, result.failures, result.interrupted) == (169, [], False)
        assert len(result.latencies) == result.requests == 169
        assert 0 < max(result.latencies) < result.elapsed
        assert len(result.first_tokens) == (169 if stream else 0)
    await server.close()


async def test_no_more_than_allowed_are_in_flight() -> None:
    flying = most = 0

    async def answerer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal flying, most
        await read_request(reader)
        flying += 1
        most = max(most, flying)
        await asyncio.sleep(0.01)
        flying -= 1
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    async with answering(answerer) as url:
        result = await replay(asked() * 10, url, concurrency=5, keep_going=True)
    assert result.count(NOT_FOUND) == 40
    assert most == 5


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        (b"", "closed the connection"),
        (b"garbage\r\n\r\n", "the connection failed, or"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "cut off"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "no HTTP: 400"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<html>", "not JSON"),
        (b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", "status 302"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc", "cut off"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", "the connection failed, or"),
    ],
)
async def test_a_broken_server_is_an_error_each(answer: bytes, detail: str) -> None:
    async with answering(always(answer)) as url:
        result = await run(url)
    assert result.passed == 0
    assert result.count(ERROR) == result.requests == 4
    assert all(detail in failure.detail for failure in result.failures), result.failures
    assert all(failure.detail.isprintable() for failure in result.failures)


async def test_nobody_there() -> None:
    async with answering(always(b"")) as url:
        pass
    result = await run(url)
    assert result.count(ERROR) == 4
    assert "is the server running there?" in result.failures[0].detail


async def test_a_server_that_never_answers() -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with answering(hang) as url:
        result = await run(url, timeout=0.1)
    assert [failure.detail for failure in result.failures] == ["no answer within 0.1 s"] * 4
    assert len(result.latencies) == 0


@pytest.mark.parametrize(
    "options", [{"api_key": "a\nb"}, {"base_url": "http://a..b/v1"}, {"base_url": "http://" + "x" * 300}]
)
async def test_a_request_that_can_not_be_sent_is_an_error(options: dict[str, str]) -> None:
    result = await run(**{"base_url": "http://127.0.0.1:1/v1", **options})
    assert (result.passed, result.count(ERROR)) == (0, 4)
    assert all(failure.detail.isprintable() for failure in result.failures)


async def test_the_time_to_the_first_token_is_that_of_the_first_text() -> None:
    parts = [
        events(delta("")),
        events(delta("hel"))[:10],
        events(delta("hel"))[10:],
        events(delta("lo"), LAST, "[DONE]"),
    ]

    async def answerer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.1)

    async with answering(answerer) as url:
        async with asyncio.timeout(20):
            result = await replay(asked()[:1], url, concurrency=1, stream=True)
    assert result.passed == 1
    assert 0.2 <= result.first_tokens[0] <= result.latencies[0] - 0.1


async def test_it_stops_at_the_first_failure() -> None:
    async with answering(always(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n")) as url:
        result = await run(url, keep_going=False)
    assert len(result.failures) == result.requests == 1
    assert result.failures[0][:3] == ("one", 1, ERROR)


async def test_wrong_answers_are_counted_by_kind_and_place() -> None:
    index = index_of(conversation("one", "hi", "hallo", "how are you?", "fine"), conversation("x", "hi", "good day"))
    server = MockServer(index)
    await server.start_server()
    found = await run(f"http://127.0.0.1:{server.port}/v1")
    await server.close()
    places = {failure[:3] for failure in found.failures} - {("one", 1, MISMATCHED), ("two", 1, MISMATCHED)}
    assert places == {("one", 3, NOT_FOUND), ("start", 0, NOT_FOUND)}
    assert found.passed + len(found.failures) == 4


async def test_cancelled_it_returns_what_was_done() -> None:
    answered = 0

    async def answerer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal answered
        await read_request(reader)
        answered += 1
        if answered <= 2:
            body = completion("hello" if answered == 1 else "fine")
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        else:
            await reader.read()

    async with answering(answerer) as url:
        running = asyncio.create_task(run(url, concurrency=1))
        while answered < 3:
            await asyncio.sleep(0.01)
        running.cancel()
        result = await running
    assert (result.passed, result.failures, result.interrupted) == (2, [], True)
