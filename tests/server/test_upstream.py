import asyncio
import fcntl
import gzip
import io
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientPayloadError, web
from aiohttp.test_utils import TestClient as Client
from yarl import URL

from mockchat.core.answer import read_stream
from mockchat.core.dataset import load
from mockchat.core.index import ResponseIndex
from mockchat.server.memory import Memory
from mockchat.server.record_file import RecordFile
from mockchat.server.route import PATH
from mockchat.server.upstream import Upstream
from tests.helpers import Clock, Connect, conversation, index_of, request_body
from tests.server.test_recorder import streamed, whole
from tests.serving import PATIENCE, MockServer, Raw, content, post

ASKED = request_body(("user", "new"), model="m", temperature=0.5)
STREAM = request_body(("user", "new"), stream=True)
KEY = {"Authorization": "Bearer sk-secret"}
EVENTS = "text/event-stream; charset=utf-8"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Recorder(Client[Any, Any]):
    """A client of a server that records, the upstream that it asks, and what that was asked."""

    index: ResponseIndex
    file: Path
    record_file: RecordFile
    handler: Handler
    asked: list[tuple[dict[str, str], bytes]]

    def recorded(self) -> int:
        return len(load(self.file).conversations) if self.file.stat().st_size else 0

    async def ask(self, body: bytes, **headers: str) -> tuple[int, bytes]:
        async with (
            asyncio.timeout(PATIENCE),
            self.post(PATH, data=io.BytesIO(body), headers=KEY | headers) as response,
        ):
            answered = response.status, await response.read()
        await self.written()
        return answered

    async def written(self) -> None:
        """Wait until what was answered is in the file."""
        async with asyncio.timeout(PATIENCE):
            while self.server.chat.upstream.busy:  # type: ignore[union-attr]
                await asyncio.sleep(0.001)


async def begun(recorder: Recorder, connect: Connect, handler: Handler, body: bytes) -> Raw:
    """A connection on which this was asked, and so was the upstream."""
    recorder.handler = handler
    raw: Raw = await connect(recorder)
    await raw.send(post(body))
    async with asyncio.timeout(PATIENCE):
        while not recorder.asked:
            await asyncio.sleep(0.01)
    return raw


def says(body: bytes, status: int = 200, **headers: str) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(body=body, status=status, headers={"Content-Type": "application/json"} | headers)

    return handler


@pytest.fixture
async def recorder(aiohttp_server: Any, tmp_path: Path) -> AsyncIterator[Recorder]:
    async def upstream(request: web.Request) -> web.StreamResponse:
        client.asked.append((dict(request.headers), await request.read()))
        return await client.handler(request)

    application = web.Application(client_max_size=2**30)
    application.router.add_post("/base/chat/completions", upstream)
    asked = await aiohttp_server(application)
    index = index_of(conversation("one", "hi", "hello"))
    server = MockServer(index, max_body_size=2**25)
    client = Recorder(server)
    client.index = index
    client.file, client.handler, client.asked = tmp_path / "f", says(whole()), []
    client.record_file = RecordFile(client.file, print)
    url = str(asked.make_url("/base/"))
    server.chat.upstream = Upstream(url, index, client.record_file, PATIENCE)
    await client.start_server()
    yield client
    await client.close()
    await server.chat.upstream.close()


# What is asked, and what is handed on


async def test_a_miss_is_asked_once_and_recorded(recorder: Recorder) -> None:
    assert content((await recorder.ask(request_body(("user", "hi"))))[1]) == "hello"
    assert recorder.asked == []
    answer = whole({"content": "from afar"}, usage={"total_tokens": 3})
    recorder.handler = says(answer, **{"x-request-id": "req_1", "x-ratelimit-remaining-requests": "9"})
    sent = {"OpenAI-Organization": "us", "X-Team": "search", "TE": "trailers", "Connection": "X-Hop", "X-Hop": "1"}
    async with recorder.post(PATH, data=ASKED, headers=KEY | sent | {"User-Agent": "me"}) as response:
        assert (response.status, response.content_type) == (200, "application/json")
        assert (response.headers["x-request-id"], response.headers["x-ratelimit-remaining-requests"]) == ("req_1", "9")
        assert await response.read() == answer
    ((headers, body),) = recorder.asked
    assert body == ASKED
    assert headers.items() >= {**KEY, "OpenAI-Organization": "us", "X-Team": "search", "User-Agent": "me"}.items()
    assert headers["Host"] != f"{recorder.host}:{recorder.port}"
    assert not headers.keys() & {"TE", "X-Hop", "Expect"}
    again = request_body(("user", "new"), model="another")
    assert content((await recorder.ask(again))[1]) == "from afar"
    assert len(recorder.asked) == 1
    await recorder.written()
    (line,) = recorder.file.read_text().splitlines()
    assert json.loads(line)["messages"] == [
        {"role": "user", "content": "new"},
        {"role": "assistant", "content": "from afar"},
    ]


LOGPROBS = {
    "content": [{"token": "from", "logprob": -0.5, "bytes": [102], "top_logprobs": []}] * 2,
    "refusal": None,
}
NAMES = {"model": "m-2026-01-01", "service_tier": "default", "system_fingerprint": "fp_1"}


def with_logprobs(stream: bool) -> bytes:
    if not stream:
        answer = json.loads(whole({"content": "from afar"}, **NAMES))
        answer["choices"][0]["logprobs"] = LOGPROBS
        return json.dumps(answer).encode()
    chunks: list[Any] = [{"choices": [], "model": ""}]
    for number, piece in enumerate(("from ", "afar")):
        one = {"content": [LOGPROBS["content"][number]], "refusal": None}  # type: ignore[index]
        chunks.append(NAMES | {"choices": [{"index": 0, "delta": {"content": piece}, "logprobs": one}]})
    chunks.append({"choices": [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}]})
    return b"".join([b"data: %b\n\n" % json.dumps(each).encode() for each in chunks]) + b"data: [DONE]\n\n"


@pytest.mark.parametrize("recorded_stream", [False, True])
async def test_names_and_logprobs_are_answered_as_they_were(recorder: Recorder, recorded_stream: bool) -> None:
    asked = {"model": "m", "logprobs": True, "stream": recorded_stream}
    content_type = "text/event-stream" if recorded_stream else "application/json"
    recorder.handler = says(with_logprobs(recorded_stream), **{"Content-Type": content_type})
    await recorder.ask(request_body(("user", "new"), **asked))
    for request in (asked, {"model": "other"}, {"stream": True}, {"stream": True, "n": 2}):
        status, answer = await recorder.ask(request_body(("user", "new"), **request))
        assert status == 200
        if request.get("stream"):
            chunks = [json.loads(event[6:]) for event in answer.split(b"\n\n")[:-2]]
            assert all(chunk.items() >= NAMES.items() for chunk in chunks)
            choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == 0]
            (first,) = [choice for choice in choices if choice["logprobs"]]
            assert (first["delta"], first["logprobs"]) == ({"content": "from"}, LOGPROBS)
        else:
            parsed = json.loads(answer)
            assert parsed.items() >= NAMES.items()
            assert parsed["choices"][0]["logprobs"] == LOGPROBS
    assert len(recorder.asked) == 1


async def test_odd_names_are_not_recorded_but_the_answer_is(recorder: Recorder) -> None:
    recorder.handler = says(whole(model=5, service_tier=["x"], system_fingerprint="f" * 257))
    await recorder.ask(ASKED)
    answer = json.loads((await recorder.ask(ASKED))[1])
    assert (answer["model"], "service_tier" in answer, "system_fingerprint" in answer) == ("m", False, False)
    assert len(recorder.asked) == 1


@pytest.mark.parametrize("content", [None, ""])
async def test_a_refused_stream_has_the_content_that_it_had(recorder: Recorder, content: str | None) -> None:
    deltas = [{"role": "assistant", "content": content}, {"refusal": "I "}, {"refusal": "can't"}]
    recorder.handler = says(streamed(*deltas), **{"Content-Type": "text/event-stream"})
    asked = request_body(("user", "new"), stream=True)
    sent = [read_stream((await recorder.ask(asked))[1]).message for _ in range(2)]
    assert sent == [{"role": "assistant", "content": content, "refusal": "I can't"}] * 2
    assert len(recorder.asked) == 1


async def test_secrets_and_people_are_not_recorded(recorder: Recorder) -> None:
    secret = dict.fromkeys(("user", "api_key", "metadata", "vertex_credentials", "safety_identifier"), "hush")
    secret |= {"extra_headers": {"x": "hush"}, "aws_session_token": "hush", "n": 1, "seed": 2, "store": True}
    kept = {
        "model": "m",
        "temperature": 0.5,
        "max_tokens": 5,
        "tool_choice": "auto",
        "response_format": {"type": "text"},
    }
    await recorder.ask(request_body(("user", "new"), **kept, **secret, stop=None))
    assert json.loads(recorder.file.read_text())["request"] == kept


async def test_the_query_is_handed_on(recorder: Recorder) -> None:
    asked = []

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.append(request.rel_url.raw_query_string)
        return await says(whole())(request)

    recorder.handler = handler
    query = "api-version=2024-10-21&x=%2Fa%20b%26&flag"
    async with recorder.post(URL(f"{PATH}?{query}", encoded=True), data=request_body(("user", "q"), n=2)) as response:
        assert response.status == 200
    async with recorder.post(PATH, data=ASKED) as response:
        assert response.status == 200
    assert asked == [query, ""]


async def test_a_stream_is_handed_on_as_it_comes(recorder: Recorder, connect: Connect) -> None:
    go_on = asyncio.Event()
    answer = streamed({"role": "assistant", "content": ""}, {"content": "a"}, {"content": "b"})
    size = answer.index(b"\n\n", 100) + 2
    beginning, end = answer[:size], answer[size:]

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": EVENTS})
        await response.prepare(request)
        await response.write(beginning)
        await go_on.wait()
        await response.write(end)
        return response

    recorder.handler = handler
    async with recorder.post(PATH, data=STREAM) as response:
        assert response.headers["Content-Type"] == EVENTS
        assert await response.content.readexactly(size) == beginning
        go_on.set()
        assert await response.read() == end
    assert content((await recorder.ask(ASKED))[1]) == "ab"
    assert len(recorder.asked) == 1


async def test_a_stream_to_http_1_0(recorder: Recorder, connect: Connect) -> None:
    recorder.handler = says(streamed({"content": "a"}), **{"Content-Type": EVENTS})
    raw: Raw = await connect(recorder)
    await raw.send(post(STREAM, "Connection: keep-alive\r\n", "1.0"))
    status, headers, _ = await raw.answer()
    assert (status, headers["connection"]) == (200, "close")
    assert await raw.reader.read() == streamed({"content": "a"})


async def test_a_stream_that_nobody_asked_for_is_a_stream_too(recorder: Recorder) -> None:
    recorder.handler = says(streamed({"content": "a"}), **{"Content-Type": EVENTS})
    assert await recorder.ask(ASKED) == (200, streamed({"content": "a"}))
    assert recorder.recorded() == 1


async def test_a_body_of_many_megabytes(recorder: Recorder) -> None:
    body = request_body(("user", "new " * 2_000_000))
    assert (await recorder.ask(body))[0] == 200
    assert recorder.asked[0][1] == body


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (401, {}, b'{"error": {"message": "Incorrect API key"}}'),
        (429, {"Retry-After": "20", "x-should-retry": "true"}, b'{"error": {"message": "Rate limit"}}'),
        (500, {"Content-Type": "text/html"}, b"<h1>Oh no"),
        (529, {}, b"overloaded"),
        (307, {"Location": "/elsewhere"}, b""),
    ],
)
@pytest.mark.parametrize("asked", [ASKED, STREAM])
async def test_errors_of_the_upstream_are_handed_on(
    recorder: Recorder, status: int, headers: dict[str, str], body: bytes, asked: bytes
) -> None:
    recorder.handler = says(body, status, **headers)
    async with recorder.post(PATH, data=asked, allow_redirects=False) as response:
        assert (response.status, await response.read()) == (status, body)
        assert response.headers.items() >= headers.items()
    assert recorder.recorded() == 0
    await recorder.ask(asked)
    assert len(recorder.asked) == 2


# What is not recorded

TWO_CHOICES = json.dumps({"choices": json.loads(whole())["choices"] * 2}).encode()


@pytest.mark.parametrize(
    ("asked", "answer", "told"),
    [
        (request_body(("user", "new"), n=2), TWO_CHOICES, "several choices"),
        (b"no JSON", whole(), "can't be read here"),
        (b"7", whole(), "can't be read here"),
        (ASKED, whole(usage={"prompt_tokens": float("nan")}), "not strict JSON"),
        (ASKED, whole({"tool_calls": [{"id": "call_1"}]}, "tool_calls"), "not messages of the API"),
    ],
)
async def test_what_is_not_recorded_is_handed_on_and_told_once(
    recorder: Recorder, caplog: Any, asked: bytes, answer: bytes, told: str
) -> None:
    recorder.handler = says(answer)
    for _ in range(2):
        assert await recorder.ask(asked) == (200, answer)
    assert recorder.recorded() == 0
    assert [body for _, body in recorder.asked] == [asked, asked]
    (record,) = caplog.records
    assert told in record.getMessage()


@pytest.mark.parametrize(
    "body", [b'{"messages":[' + b"[]," * 1_000_001 + b"[]]}", b"[" * 1_000_001, b" " * 2**25 + b"{"]
)
async def test_what_is_too_large_is_not_asked(recorder: Recorder, body: bytes) -> None:
    """60 MB of `[]` were parsed for 11 seconds, and took 1.5 GB."""
    assert (await recorder.ask(body))[0] == 413
    assert recorder.asked == []


async def test_what_is_refused_here_is_not_asked(recorder: Recorder) -> None:
    async with recorder.get("/v1/models") as response:
        assert response.status == 404
    assert (await recorder.ask(b"{}", **{"Content-Encoding": "gzip"}))[0] == 415
    assert recorder.asked == []


async def test_a_file_that_can_t_be_written_is_told(recorder: Recorder, caplog: Any) -> None:
    recorder.file.unlink()
    recorder.file.mkdir()
    for _ in range(2):
        assert (await recorder.ask(ASKED))[0] == 200
    (record,) = caplog.records
    assert f"Passed on but not recorded: {recorder.file}: is not a regular file" in record.getMessage()


async def test_keys_are_nowhere_to_be_found(recorder: Recorder, caplog: Any, capfd: Any) -> None:
    for handler in (says(b"{"), says(b"", 401), says(whole({"role": "user"})), says(whole())):
        recorder.handler = handler
        await recorder.ask(ASKED)
    printed = "".join(capfd.readouterr()) + caplog.text
    assert "not messages of the API" in printed
    assert "secret" not in printed + recorder.file.read_text()


# Several at once


async def test_equal_questions_at_the_same_time_are_all_asked_and_recorded_once(recorder: Recorder) -> None:
    waiting = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        said = f"answer {len(recorder.asked)}"
        await waiting.wait()
        return await says(whole({"content": said}))(request)

    recorder.handler = handler
    bodies = [request_body(("user", f"new {number}")) for number in range(3)]
    asking = [asyncio.create_task(recorder.ask(body)) for body in bodies * 10]
    async with asyncio.timeout(PATIENCE):
        while len(recorder.asked) < 30:
            await asyncio.sleep(0.01)
    waiting.set()
    answers = await asyncio.gather(*asking)
    assert sorted(body for _, body in recorder.asked) == sorted(bodies * 10)
    assert {status for status, _ in answers} == {200}
    assert len({content(body) for _, body in answers}) == 30
    assert recorder.recorded() == 3  # Which of two different answers was first stands.
    for body in bodies:
        assert (await recorder.ask(body))[0] == 200
    assert len(recorder.asked) == 30


async def test_an_exchange_is_finished_and_recorded_when_its_client_has_gone(
    recorder: Recorder, connect: Connect, caplog: Any
) -> None:
    waiting = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        await waiting.wait()
        return web.Response(body=streamed({"content": "a"}), headers={"Content-Type": EVENTS})

    raw = await begun(recorder, connect, handler, STREAM)
    raw.reset()
    waiting.set()
    async with asyncio.timeout(PATIENCE):
        while not recorder.recorded():
            await asyncio.sleep(0.01)
    assert content((await recorder.ask(ASKED))[1]) == "a"
    assert not caplog.records


async def test_shutdown_ends_what_is_under_way(recorder: Recorder, connect: Connect, caplog: Any) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(3600)
        raise AssertionError

    raw = await begun(recorder, connect, handler, ASKED)
    upstream = recorder.server.chat.upstream  # type: ignore[attr-defined]
    async with asyncio.timeout(PATIENCE):
        await upstream.close()
        assert (await raw.answer())[0] == 503
    assert not caplog.records


# What goes wrong


SILENCE = b"..."  # Said at the end, it is that of who stays and says nothing more, and takes nothing either.

Speak = Callable[..., Awaitable[None]]


@pytest.fixture
async def broken(recorder: Recorder) -> AsyncIterator[Speak]:
    """Let the upstream be a server that says the given bytes, and then closes the connection or falls silent."""
    over = asyncio.Event()
    servers: list[asyncio.Server] = []
    speaking: set[asyncio.Task[None] | None] = set()

    async def speak(answer: bytes, timeout: float = PATIENCE) -> None:
        async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            speaking.add(asyncio.current_task())
            with suppress(OSError, asyncio.IncompleteReadError):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(answer.removesuffix(SILENCE))
                await writer.drain()
                if answer.endswith(SILENCE):
                    await over.wait()
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

        server = await asyncio.start_server(answering, "127.0.0.1")
        servers.append(server)
        url = "http://{}:{}/v1".format(*server.sockets[0].getsockname())
        chat = recorder.server.chat  # type: ignore[attr-defined]
        await chat.upstream.close()
        chat.upstream = Upstream(url, recorder.index, recorder.record_file, timeout)

    yield speak
    over.set()
    for server in servers:
        server.close()
    await asyncio.gather(*filter(None, speaking))


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
EVENTS_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b'data: {"choices": [{"index": 0, "delta": {"content": "a"}}]}\n\n'
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)


@pytest.mark.parametrize(
    ("said", "status", "told"),
    [
        (b"", 502, "closed connection"),
        (SILENCE, 504, "no answer in time"),
        (b"HTTP/1.1 200 OK\r\nConte" + SILENCE, 504, "no answer in time"),
        (b"HTTP/1.1 200 OK\r\nConte", 502, "closed connection"),
        (HEAD + b'{"choi' + SILENCE, 504, "no answer in time"),
        (HEAD + b'{"choi', 502, "cut-off answer"),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", 502, "no HTTP"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", 502, "an answer with the status 101"),
        (HEAD.replace(b"1000", b"7") + b"<html/>", 502, "an answer that is not JSON, <html/>"),
        (EVENTS_HEAD + b"7\r\ndata: {\r\n" + SILENCE, 504, "no answer in time"),
        (EVENTS_HEAD + b"7\r\ndata: {\r\n", 502, "cut-off answer"),
        (EVENTS_HEAD + b"0\r\n\r\n", 502, "a stream that broke off in the middle"),
        (HEAD.replace(b"1000", b"4") + b"true", 502, "an answer without choices[0].message, true"),
        (HEAD.replace(b"Content-L", b"Content-Encoding: gzip\r\nContent-L"), 502, "cut-off answer"),
    ],
)
@pytest.mark.parametrize("asked", [ASKED, STREAM])
async def test_an_upstream_that_fails(
    recorder: Recorder, broken: Speak, said: bytes, status: int, told: str, asked: bytes, caplog: Any
) -> None:
    # Who falls silent is given up in the end, sooner or later; who doesn't must not be.
    await broken(said, timeout=0.1 if said.endswith(SILENCE) else PATIENCE)
    answered, body = await recorder.ask(asked)
    error = json.loads(body)["error"]
    assert (answered, error["type"]) == (status, "server_error")
    assert told in error["message"]
    assert content((await recorder.ask(request_body(("user", "hi"))))[1]) == "hello"
    assert recorder.recorded() == 0
    assert not caplog.records


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (EVENTS_HEAD + CHUNK + SILENCE, "no answer in time"),
        (EVENTS_HEAD + CHUNK, "cut-off answer"),
        (EVENTS_HEAD + CHUNK + b"7\r\ndata: {\r\n", "cut-off answer"),
        (EVENTS_HEAD + CHUNK + b"0\r\n\r\n", "a stream that broke off in the middle"),
        (EVENTS_HEAD + CHUNK + b"7\r\ndata: {\r\n0\r\n\r\n", "an answer that is not JSON"),
    ],
)
async def test_a_stream_that_fails_after_its_beginning(
    recorder: Recorder, broken: Speak, connect: Connect, clock: Clock, said: bytes, told: str
) -> None:
    await broken(said)
    raw: Raw = await connect(recorder)
    await raw.send(post(STREAM))
    answered, headers, _ = await raw.answer()
    assert (answered, headers["transfer-encoding"], headers["connection"]) == (200, "chunked", "close")
    assert await raw.reader.readexactly(len(CHUNK)) == CHUNK
    if said.endswith(SILENCE):
        await clock.passes(2 * PATIENCE)
    async with asyncio.timeout(PATIENCE):
        rest = await raw.reader.read()
    error = json.loads(rest.rpartition(b"data: ")[2])["error"]
    assert (error["type"], told in error["message"]) == ("server_error", True)
    assert not rest.endswith(b"0\r\n\r\n")
    assert b"[DONE]" not in rest
    assert recorder.recorded() == 0


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 9_000_000,
        EVENTS_HEAD + CHUNK * 20_000,
        b"HTTP/1.1 500 Oh\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(bytes(9_000_000), mtime=0),
    ],
)
@pytest.mark.parametrize("asked", [ASKED, STREAM])
async def test_an_answer_that_is_too_large_is_given_up(
    recorder: Recorder, broken: Speak, said: bytes, asked: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mockchat.client.MAX_ANSWER_MB", 1)
    await broken(said + SILENCE)
    try:
        status, body = await recorder.ask(asked)
    except ClientPayloadError:  # A stream that has begun can only break off.
        assert said.startswith(EVENTS_HEAD)
    else:
        assert (status, "larger than 1 MB" in body.decode()) == (502, True)
    assert not recorder.server.chat.upstream.busy  # type: ignore[attr-defined]
    assert recorder.recorded() == 0


async def test_an_answer_beyond_what_the_server_may_hold_is_given_up(recorder: Recorder, broken: Speak) -> None:
    await broken(b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 3_000_000 + SILENCE)
    memory = recorder.server.chat.memory = Memory(2)  # type: ignore[attr-defined]
    status, body = await recorder.ask(ASKED)
    assert (status, b"The server's memory for requests" in body) == (503, True)
    assert memory.held == 0


async def test_bodies_for_an_upstream_that_does_not_answer_are_counted(recorder: Recorder, connect: Connect) -> None:
    """15 of 30 MB, whose clients had gone, took 1.8 GB with a limit of 64 MB."""
    waiting = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        await waiting.wait()
        return await says(whole())(request)

    memory = recorder.server.chat.memory = Memory(2)  # type: ignore[attr-defined]
    body = request_body(("user", "x" * 1_200_000))
    raw = await begun(recorder, connect, handler, body)
    raw.reset()
    other: Raw = await connect(recorder)
    await other.send(post(body))
    assert (await other.answer())[0] == 503
    assert memory.held == len(body)
    memory.held += 1_000_000
    await other.close()
    other = await connect(recorder)
    await other.send(post(request_body(("user", "hi"))) + post(ASKED))
    assert [(await other.answer())[0] for _ in range(2)] == [200, 503]
    memory.held -= 1_000_000
    assert len(recorder.asked) == 1
    waiting.set()
    await recorder.written()
    assert (memory.held, recorder.recorded()) == (0, 1)


@pytest.mark.parametrize("is_stream", [True, False])
@pytest.mark.parametrize("is_reset", [False, True])
async def test_an_answer_that_its_client_does_not_read_is_counted(
    recorder: Recorder, connect: Connect, is_stream: bool, is_reset: bool
) -> None:
    """15 of 30 MB took 570 MB with a limit of 64 MB: only the exchange was counted, and not its client."""
    memory = recorder.server.chat.memory  # type: ignore[attr-defined]
    long = {"content": "long " * 2_400_000}
    answer = streamed(*[{"content": "long " * 20_000}] * 120) if is_stream else whole(long)
    headers = {"Content-Type": EVENTS if is_stream else "application/json"}
    raw = await begun(recorder, connect, says(answer, **headers), ASKED)
    await recorder.written()
    assert memory.held > len(answer)
    if is_reset:
        raw.reset()
    else:
        assert len(await raw.reader.readuntil(b"\r\n\r\n")) < 1000
        received = await raw.reader.readexactly(len(answer))
        assert received if is_stream else received == answer
        raw.writer.close()
    async with asyncio.timeout(PATIENCE):
        while memory.held:
            await asyncio.sleep(0.01)


async def test_an_upstream_that_never_ends_is_given_up(
    recorder: Recorder, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": EVENTS})
        await response.prepare(request)
        with suppress(ConnectionError):
            while True:
                await response.write(EVENT)
                await asyncio.sleep(0.01)
        return response

    monkeypatch.setattr("mockchat.server.upstream._LONGEST_EXCHANGE", 0.5)
    recorder.server.chat.upstream._timeout = 0.4  # type: ignore[attr-defined]
    raw = await begun(recorder, connect, handler, STREAM)
    async with asyncio.timeout(PATIENCE):
        rest = await raw.reader.read()
    assert b"no answer in time" in rest
    assert recorder.recorded() == 0


async def test_a_file_that_another_process_keeps_locked_holds_up_nobody(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """Each answer held the server for two seconds."""
    upstream = recorder.server.chat.upstream  # type: ignore[attr-defined]
    monkeypatch.setattr("mockchat.server.record_file._LOCK_ATTEMPTS", 10**6)
    with recorder.file.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for number in range(3):
            for _ in range(2):  # The second time from memory.
                async with recorder.post(PATH, data=request_body(("user", f"new {number}"))) as response:
                    assert response.status == 200
        assert (len(recorder.asked), recorder.recorded(), upstream.lost) == (3, 0, 3)
    await recorder.written()
    assert (upstream.recorded, upstream.lost) == (3, 0)
    lines = [json.loads(line) for line in recorder.file.read_text().splitlines()]
    assert [line["messages"][0]["content"] for line in lines] == ["new 0", "new 1", "new 2"]
    monkeypatch.setattr("mockchat.server.record_file._LOCK_ATTEMPTS", 2)
    with recorder.file.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for number in range(3, 5):
            assert (await recorder.ask(request_body(("user", f"new {number}"))))[0] == 200
    assert (recorder.recorded(), upstream.recorded, upstream.lost) == (3, 3, 2)
    (record,) = caplog.records
    assert "another process keeps it locked" in record.getMessage()


async def test_a_compressed_answer_is_handed_on_unpacked(recorder: Recorder, broken: Speak) -> None:
    packed = gzip.compress(whole({"content": "small"}))
    await broken(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed) + packed)
    status, body = await recorder.ask(ASKED)
    assert (status, content(body), recorder.recorded()) == (200, "small", 1)


async def test_an_upstream_that_never_reads(recorder: Recorder, broken: Speak) -> None:
    await broken(SILENCE, timeout=0.1)
    status, _ = await recorder.ask(request_body(("user", "new " * 5_000_000)))
    assert status == 504


async def test_no_upstream(recorder: Recorder) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        chat = recorder.server.chat  # type: ignore[attr-defined]
        await chat.upstream.close()
        port = bound.getsockname()[1]
        chat.upstream = Upstream(f"http://127.0.0.1:{port}/v1", recorder.index, recorder.record_file)
        status, body = await recorder.ask(ASKED)
    message = json.loads(body)["error"]["message"]
    assert status == 502
    assert f"no connection, to 127.0.0.1:{port}" in message
    assert "does a server listen there?" in message


async def test_a_server_that_is_its_own_upstream(recorder: Recorder) -> None:
    chat = recorder.server.chat  # type: ignore[attr-defined]
    await chat.upstream.close()
    chat.upstream = Upstream(str(recorder.make_url("/v1")), recorder.index, recorder.record_file)
    for asked in (ASKED, STREAM, b"no JSON"):
        for via in ({}, {"Via": "1.1 a-gateway"}):
            status, body = await recorder.ask(asked, **via)
            assert (status, "another base URL" in json.loads(body)["error"]["message"]) == (508, True)


@pytest.mark.parametrize("hurried", [False, True])
async def test_what_is_under_way_at_the_end_is_finished_though_its_client_has_gone(
    recorder: Recorder, connect: Connect, hurried: bool
) -> None:
    go_on = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        await go_on.wait()
        return await says(whole())(request)

    raw = await begun(recorder, connect, handler, ASKED)
    server = recorder.server.chat_server  # type: ignore[attr-defined]
    raw.reset()
    async with asyncio.timeout(PATIENCE):
        while server.connections:
            await asyncio.sleep(0.01)
    server.finish()
    if hurried:
        server.abort()
    else:
        asyncio.get_running_loop().call_later(0.1, go_on.set)
    await server.shutdown(PATIENCE)
    go_on.set()
    assert (recorder.recorded(), server.cut) == ((0, 1) if hurried else (1, 0))


async def test_odd_headers_reach_nobody(recorder: Recorder, connect: Connect) -> None:
    raw: Raw = await connect(recorder)
    request = post(ASKED, "X-Odd: 1\r\nX-Fine: 2\r\n").replace(b": 1\r\n", b": \xff\xfe\r\n")
    await raw.send(request)
    assert (await raw.answer())[0] == 200
    assert "X-Odd" not in recorder.asked[0][0]
    assert recorder.asked[0][0]["X-Fine"] == "2"
