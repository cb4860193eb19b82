import asyncio
import gc
import json
import re
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestClient as Client

from mockchat.core import wire
from mockchat.core.dataset import load
from mockchat.core.index import ResponseIndex
from mockchat.server import completion
from mockchat.server.route import PATH
from mockchat.server.simulation import FAULT_HEADER, Simulation
from tests.helpers import SAMPLE, Connect, Pause, conversation, faults, index_of, request_body
from tests.serving import (
    ASK_BIG,
    BIG,
    GOOD,
    MISS,
    PATIENCE,
    STREAMED,
    STREAMED_BIG,
    MockServer,
    Raw,
    chunked,
    content,
    post,
)


async def test_every_reply_of_the_sample_is_answered(aiohttp_client: Any) -> None:
    conversations = load(SAMPLE).conversations
    index = ResponseIndex(conversations)
    client = await aiohttp_client(MockServer(index))
    asked = 0
    for found in conversations:
        for number, message in enumerate(found.messages):
            if wire.is_assistant(message):
                history = wire.join(found.messages[:number])
                body = b'{"model":"m","messages":%b}' % wire.array(history)
                async with client.post(PATH, data=body) as response:
                    assert response.status == 200
                    assert response.content_type == "application/json"
                    answered = wire.message("assistant", content(await response.read()))
                assert answered in [reply.message for reply in index.replies(history)]
                asked += 1
    assert asked == 169


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "application/x-www-form-urlencoded", None])
async def test_any_content_type(client: Client, content_type: str | None) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    async with client.post(PATH, data=GOOD, headers=headers) as response:
        assert content(await response.read()) == "hello"


@pytest.mark.parametrize("path", [PATH + "?api-version=1", "/v1/%63hat/completions"])
async def test_other_spellings_of_the_path(client: Client, path: str) -> None:
    async with client.post(aiohttp.client.URL(path, encoded=True), data=GOOD) as response:
        assert response.status == 200


@pytest.mark.parametrize("accept", [None, "*/*", "text/plain"])
async def test_a_miss_is_plain_text(client: Client, accept: str | None) -> None:
    headers = {"Accept": accept} if accept else {}
    async with client.post(PATH, data=MISS, headers=headers) as response:
        assert response.status == 404
        assert response.content_type == "text/plain"
        assert await response.text() == "No valid response exists for the given request"
        assert response.headers["X-Mockchat-Miss"].startswith("messages[0] differs at character 2: sent 'hix' (U+0078)")


async def test_the_header_of_a_miss_is_one_line_of_ascii(client: Client) -> None:
    body = request_body(("user", "hi\r\nX: é\U0001f600 \x00" + "long" * 1000))
    async with client.post(PATH, data=body) as response:
        told = response.headers["X-Mockchat-Miss"]
    assert "hi\\r\\nX: \\xe9\\U0001f600 \\x00" in told
    assert len(told) <= 2000


@pytest.mark.parametrize("text", ["\U0001f600" * 2000, "é" * 4000, "\x1b" * 3000])
@pytest.mark.parametrize("accept", ["application/json", "text/plain"])
async def test_every_client_gets_the_header_of_a_miss_in_2000_bytes(client: Client, accept: str, text: str) -> None:
    """aiohttp's clients refuse an answer with a header of more than 8,190 bytes."""
    for asked in (
        request_body(("user", "hi"), ("assistant", text)),
        request_body(("user", text)),
        request_body(("user", "hi"), ("user", text)),
    ):
        async with client.post(PATH, data=asked, headers={"Accept": accept}) as response:
            told = response.headers["X-Mockchat-Miss"]
            assert told.startswith("messages[")
            assert len(told) <= 2000
            assert told.isascii()
            assert told.isprintable()


@pytest.mark.parametrize("name", ["api-key", "X-API-Key"])
async def test_a_key_in_another_header_is_told(aiohttp_client: Any, name: str) -> None:
    client = await aiohttp_client(MockServer(api_keys=["k"]))
    async with client.post(PATH, data=GOOD, headers={name: "k"}) as response:
        message = (await response.json())["error"]["message"]
    assert (response.status, message) == (
        401,
        f"No API key provided: send Authorization: Bearer KEY, not {name.lower()}",
    )


@pytest.mark.parametrize("accept", ["application/json", "Application/JSON, text/plain", "application/problem+json"])
async def test_a_miss_is_an_error_object_for_who_asks_for_json(client: Client, accept: str) -> None:
    async with client.post(PATH, data=MISS, headers={"Accept": accept}) as response:
        assert response.status == 404
        assert (await response.json())["error"]["type"] == "not_found_error"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("POST", "/", 404),
        ("POST", "/v1/completions", 404),
        ("POST", "/v1/chat/completions/", 404),
        ("GET", PATH, 405),
        ("PUT", PATH, 405),
        ("DELETE", PATH, 405),
        ("OPTIONS", PATH, 405),
    ],
)
async def test_other_routes_are_errors(client: Client, method: str, path: str, status: int) -> None:
    async with client.request(method, path) as response:
        assert response.status == status
        assert PATH in (await response.json())["error"]["message"]
        assert response.headers.get("Allow") == ("POST" if status == 405 else None)


async def test_every_answer_has_a_request_id_of_its_own(client: Client) -> None:
    found = set()
    for method, path, body in (
        ("POST", PATH, GOOD),
        ("POST", PATH, MISS),
        ("GET", "/", b""),
        ("POST", PATH, b""),
    ):
        async with client.request(method, path, data=body) as response:
            found.add(response.headers["x-request-id"])
    assert len(found) == 4
    assert all(re.fullmatch(r"req_[0-9a-f]{20}", request_id) for request_id in found)


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        ("Bearer one", 200),
        ("bearer zwei-ü", 200),
        ("Bearer three", 401),
        ("Bearer", 401),
        ("Basic one", 401),
        ("one", 401),
        ("Bearer one two", 401),
        ("Bearer \x80", 401),
        (None, 401),
    ],
)
@pytest.mark.parametrize("path", [PATH, "/"])
async def test_keys(aiohttp_client: Any, authorization: str | None, status: int, path: str) -> None:
    client = await aiohttp_client(MockServer(api_keys=["one", "zwei-ü"]))
    headers = {"Authorization": authorization} if authorization else {}
    async with client.post(path, data=GOOD, headers=headers) as response:
        assert response.status == (status if path == PATH or status == 401 else 404)
        if status == 401:
            error = (await response.json())["error"]
            assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
            assert response.headers["WWW-Authenticate"] == "Bearer"


async def test_without_keys_any_is_welcome(client: Client) -> None:
    async with client.post(PATH, data=GOOD, headers={"Authorization": "Bearer whatever"}) as response:
        assert response.status == 200


async def test_a_body_that_is_no_json_is_a_400(client: Client) -> None:
    async with client.post(PATH, data=b"hello") as response:
        assert response.status == 400
        assert "not JSON" in (await response.json())["error"]["message"]


async def test_a_compressed_body_is_a_415(client: Client) -> None:
    async with client.post(PATH, data=GOOD, headers={"Content-Encoding": "gzip"}) as response:
        assert response.status == 415
    async with client.post(PATH, data=GOOD, headers={"Content-Encoding": "Identity"}) as response:
        assert response.status == 200


async def test_an_unforeseen_error_is_a_500_error_object(client: Client, monkeypatch: Any, caplog: Any) -> None:
    def broken(*arguments: Any) -> bytes:
        raise ZeroDivisionError

    monkeypatch.setattr(completion, "whole", broken)
    async with client.post(PATH, data=GOOD) as response:
        assert response.status == 500
        assert (await response.json())["error"]["type"] == "server_error"
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("make", [bytes, lambda body: body + b" " * 200_000])
async def test_an_unforeseen_error_in_an_error_is_a_500_too(
    aiohttp_client: Any, make: Callable[[bytes], bytes], monkeypatch: Any, caplog: Any
) -> None:
    """A diagnosis that failed closed the connection."""

    def broken(*arguments: Any) -> Any:
        raise RecursionError("too deep")

    client = await aiohttp_client(MockServer(max_body_size=2**22))
    monkeypatch.setattr("mockchat.server.request.diagnose", broken)
    async with client.post(PATH, data=make(MISS)) as response:
        assert response.status == 500
        assert (await response.json())["error"]["type"] == "server_error"
    assert "RecursionError" in caplog.text


# Streams


async def test_a_stream_is_chunked_and_the_connection_stays(raw: Raw) -> None:
    for _ in range(2):
        await raw.send(post(STREAMED) + post(GOOD))
        status, headers, _ = await raw.answer()
        assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        assert (headers["transfer-encoding"], headers["cache-control"]) == ("chunked", "no-cache")
        body = await chunked(raw)
        assert body.count(b"data: ") == 4
        assert body.endswith(b"data: [DONE]\n\n")
        assert content((await raw.answer())[2]) == "hello"


async def test_a_stream_to_http_1_0_ends_with_the_connection(raw: Raw) -> None:
    await raw.send(post(STREAMED, "Connection: keep-alive\r\n", "1.0"))
    _, headers, _ = await raw.answer()
    assert "transfer-encoding" not in headers
    assert headers["connection"] == "close"
    assert (await raw.reader.read()).endswith(b"data: [DONE]\n\n")


async def test_a_long_stream_is_whole(client: Client) -> None:
    async with client.post(PATH, data=STREAMED_BIG) as response:
        pieces = re.findall(rb'"delta":{"content":"([^"]*)"', await response.read())
    assert b"".join(pieces).decode() == BIG


async def test_a_miss_is_no_stream(client: Client) -> None:
    body = request_body(("user", "hix"), stream=True)
    async with client.post(PATH, data=body, headers={"Accept": "text/event-stream"}) as response:
        assert (response.status, response.content_type) == (404, "application/json")
        assert (await response.json())["error"]["param"] == "messages[0]"


async def test_a_stream_whose_client_goes_away_ends_quietly(client: Client, raw: Raw, caplog: Any) -> None:
    await raw.send(post(STREAMED_BIG))
    await raw.reader.readexactly(1000)
    raw.writer.transport.abort()
    async with asyncio.timeout(PATIENCE):
        while client.server.chat_server.connections:  # type: ignore[attr-defined]
            await asyncio.sleep(0.001)
    async with client.post(PATH, data=GOOD) as response:
        assert response.status == 200
    assert not caplog.records


async def test_a_stream_to_a_slow_reader_waits_and_others_do_not(client: Client, monkeypatch: Any) -> None:
    made = 0
    events = completion.stream

    def counting(*arguments: Any) -> Any:
        nonlocal made
        for block in events(*arguments):
            made += len(block)
            yield block

    monkeypatch.setattr(completion, "stream", counting)
    slow = Raw(*await asyncio.open_connection(client.host, client.port, limit=1000))
    await slow.send(post(STREAMED_BIG))
    async with asyncio.timeout(PATIENCE):
        while not made:
            await asyncio.sleep(0.001)
    for _ in range(20):
        async with client.post(PATH, data=GOOD) as response:
            assert response.status == 200
    assert made < 20_000_000  # Of some 50 MB.
    slow.writer.transport.abort()


# Timing and faults


async def asked(client: Client, body: bytes, fault: str | None = None, patience: float = 20) -> tuple[int, bytes]:
    headers = {FAULT_HEADER: fault} if fault else {}
    async with asyncio.timeout(patience), client.post(PATH, data=body, headers=headers) as response:
        return response.status, await response.read()


async def test_a_stream_comes_in_time_and_the_plain_answer_when_it_would_have_ended(aiohttp_client: Any) -> None:
    index = index_of(conversation("c", "hi", "one two three four"))
    client = await aiohttp_client(MockServer(index, simulation=Simulation(ttft_ms=100, itl_ms=50)))
    plain = await (await aiohttp_client(MockServer(index))).post(PATH, data=STREAMED)
    start = time.monotonic()
    async with client.post(PATH, data=STREAMED) as response:
        blocks = [(time.monotonic() - start, block) async for block in response.content.iter_any()]
    # What comes later than it should is the machine's matter; nothing may come early.
    assert [at > 0.095 + 0.05 * number for number, (at, _) in enumerate(blocks)] == [True] * len(blocks)
    assert re.sub(rb'"created":\d+', b"", b"".join(block for _, block in blocks)) == re.sub(
        rb'"created":\d+', b"", await plain.read()
    )
    start = time.monotonic()
    async with client.post(PATH, data=GOOD) as response:
        assert content(await response.read()) == "one two three four"
    assert time.monotonic() - start > 0.245


async def test_a_status_in_the_place_of_an_answer(aiohttp_client: Any) -> None:
    client = await aiohttp_client(MockServer(simulation=Simulation(faults=faults("429=first:1", "529=first:1"))))
    for body in (GOOD, request_body(("user", "write a lot"), stream=True)):
        async with client.post(PATH, data=body) as response:
            assert (response.status, response.headers["Retry-After"]) == (429, "1")
            assert (await response.json())["error"]["type"] == "rate_limit_error"
        async with client.post(PATH, data=body) as response:
            assert (response.status, response.reason, "Retry-After" in response.headers) == (529, "Unknown", False)
            assert (await response.json())["error"]["type"] == "server_error"
        assert (await asked(client, body))[0] == 200
    assert (await asked(client, MISS))[0] == 404  # What was not recorded has no answer that could fail.


@pytest.mark.parametrize("timing", [{}, {"ttft_ms": 5.0, "itl_ms": 0.001}])
@pytest.mark.parametrize("body", [GOOD, STREAMED, request_body(("user", "hi"), seed=1), ASK_BIG, STREAMED_BIG])
async def test_a_disconnect_comes_before_the_answer_or_in_its_middle(
    aiohttp_client: Any, connect: Connect, body: bytes, timing: Any
) -> None:
    client = await aiohttp_client(
        MockServer(simulation=Simulation(faults=faults("disconnect=1"), random_seed=1, **timing))
    )
    whole = len((await asked(await aiohttp_client(MockServer()), body))[1])
    received = []
    for _ in range(8):
        raw = await connect(client)
        await raw.send(post(body))
        async with asyncio.timeout(20):
            received.append(await raw.reader.read())
    assert b"" in received
    assert any(b"200 OK" in answer for answer in received)
    assert all(len(answer) < 0.6 * whole + 1000 for answer in received)
    assert not any(answer.endswith((b"0\r\n\r\n", b"}")) for answer in received)


async def test_a_stall_lasts_until_the_client_gives_up(aiohttp_client: Any) -> None:
    server = MockServer(simulation=Simulation(faults=faults("stall=first:1")))
    client = await aiohttp_client(server)
    for body in (GOOD, STREAMED_BIG):
        with pytest.raises(TimeoutError):
            await asked(client, body, patience=0.2)
        async with asyncio.timeout(10):
            while server.chat_server.connections:
                await asyncio.sleep(0.01)
        assert (await asked(client, body))[0] == 200


@pytest.mark.parametrize("body", [GOOD, STREAMED, MISS, b"{"])
async def test_a_request_may_name_its_fault(aiohttp_client: Any, body: bytes) -> None:
    client = await aiohttp_client(MockServer(simulation=Simulation(faults=faults("header"))))
    assert (await asked(client, body, "429"))[0] == 429
    with pytest.raises(TimeoutError):
        await asked(client, body, "stall", patience=0.2)
    for _ in range(8):  # In the middle of an answer, where there is one.
        with pytest.raises(aiohttp.ClientError):
            async with client.post(PATH, data=body, headers={FAULT_HEADER: "disconnect"}) as response:
                assert (response.status, body in (GOOD, STREAMED)) == (200, True)
                await response.read()
    status, answer = await asked(client, body, "often")
    assert (status, json.loads(answer)["error"]["message"]) == (
        400,
        "X-Mockchat-Fault: 'often' is not a fault: ask for a status from 400 to 599, disconnect or stall",
    )
    expected = await asked(await aiohttp_client(MockServer()), body)
    assert (await asked(client, body))[0] == expected[0]


@pytest.mark.parametrize("simulation", [None, Simulation(faults=faults("503=first:1"))])
async def test_a_fault_that_is_named_in_vain_is_told(aiohttp_client: Any, simulation: Simulation | None) -> None:
    client = await aiohttp_client(MockServer(simulation=simulation))
    for _ in range(2):
        status, body = await asked(client, GOOD, "429")
        assert (status, b"X-Mockchat-Fault is disabled: start the server with --fault header" in body) == (
            400,
            True,
        )


async def test_with_a_seed_two_runs_are_the_same_whatever_their_order(aiohttp_client: Any) -> None:
    conversations = load(SAMPLE).conversations
    bodies = [
        b'{"messages":%b}' % wire.array(wire.join(found.messages[:number]))
        for found in conversations
        for number, message in enumerate(found.messages)
        if wire.is_assistant(message)
    ]
    bodies = list(dict.fromkeys(bodies))
    runs = []
    for order in (bodies, bodies[::-1]):
        simulation = Simulation(faults=faults("500=0.2"), random_seed=7)
        client = await aiohttp_client(MockServer(ResponseIndex(conversations), simulation=simulation))
        answers = {body: await asked(client, body) for body in order}
        runs.append({body: status if status != 200 else content(answer) for body, (status, answer) in answers.items()})
    assert runs[0] == runs[1]
    assert 10 < sum(found == 500 for found in runs[0].values()) < 60


# Long bodies, which a thread reads

LONG = "long " * 300_000


def longer(body: bytes) -> bytes:
    return body[:-1] + b',"metadata":"%b"}' % LONG.encode()


async def test_a_long_body_is_answered_as_a_short_one(connect: Connect, aiohttp_client: Any) -> None:
    simulation = Simulation(faults=faults("header"))
    client = await aiohttp_client(MockServer(simulation=simulation, max_body_size=2**22))
    raw = await connect(client)
    for make in (bytes, longer):
        await raw.send(post(make(GOOD)) + post(make(STREAMED)) + post(make(MISS), "Accept: application/json\r\n"))
        assert content((await raw.answer())[2]) == "hello"
        await raw.answer()
        assert (await chunked(raw)).endswith(b"data: [DONE]\n\n")
        status, _, body = await raw.answer()
        assert (status, b"messages[0] differs at character 2" in body) == (404, True)
        await raw.send(post(make(GOOD), f"{FAULT_HEADER}: 429\r\n"))
        assert (await raw.answer())[0] == 429
    await raw.send(post(longer(GOOD), f"{FAULT_HEADER}: disconnect\r\n"))
    assert len(await raw.reader.read()) < 500
    other = await connect(client)
    await other.send(post(longer(GOOD), version="1.0"))
    assert (await other.answer())[0] == 200
    assert await other.closed()


async def test_a_long_recorded_history_with_a_wrong_parameter_is_a_400(connect: Connect, aiohttp_client: Any) -> None:
    """It closed a kept connection without an answer."""
    index = index_of(conversation("c", LONG[:140_000], "hello"))
    client = await aiohttp_client(MockServer(index, max_body_size=2**22))
    raw = await connect(client)
    for n, expected in ((1, 200), (0, 400), (1, 200)):
        await raw.send(post(request_body(("user", LONG[:140_000]), n=n)))
        assert (await raw.answer())[0] == expected


async def being_read(connect: Connect, client: Any, paused: Pause, body: bytes) -> Any:
    """A connection whose long body a thread has begun to read."""
    raw = await connect(client)
    await raw.send(post(longer(body)))
    assert await asyncio.to_thread(paused[0].wait, PATIENCE)
    return raw


async def test_while_a_long_body_is_read_others_are_answered(
    connect: Connect, aiohttp_client: Any, paused_reading: Pause
) -> None:
    client = await aiohttp_client(MockServer(max_body_size=2**22))
    long = await being_read(connect, client, paused_reading, GOOD)
    short, gone = await connect(client), await connect(client)
    await gone.send(post(longer(GOOD)))
    await gone.arrived()
    await gone.close()
    await short.send(post(GOOD))
    assert content((await short.answer())[2]) == "hello"
    paused_reading[1].set()
    assert content((await long.answer())[2]) == "hello"


async def test_long_bodies_that_are_not_read_when_the_server_stops_are_told(
    connect: Connect, aiohttp_client: Any, paused_reading: Pause, caplog: Any
) -> None:
    server = MockServer(max_body_size=2**22)
    client = await aiohttp_client(server)
    first, second = await being_read(connect, client, paused_reading, GOOD), await connect(client)
    await second.send(post(longer(GOOD)))
    await second.arrived()
    await server.chat.close()
    status, _, body = await second.answer()
    assert (status, b"The server was stopped before it had read the request" in body) == (503, True)
    paused_reading[1].set()
    assert content((await first.answer())[2]) == "hello"
    assert not caplog.records


async def test_a_long_miss_whose_server_stops_and_whose_client_goes_leaves_no_traceback(
    connect: Connect, aiohttp_client: Any, paused_reading: Pause, caplog: Any
) -> None:
    server = MockServer(max_body_size=2**22)
    await being_read(connect, await aiohttp_client(server), paused_reading, MISS)
    await server.chat.close()
    await asyncio.sleep(0.01)
    server.chat_server.abort()
    await asyncio.sleep(0.01)
    assert server.chat.memory.held > len(LONG)  # The thread still reads it.
    paused_reading[1].set()
    async with asyncio.timeout(PATIENCE):
        while server.chat.memory.held:
            await asyncio.sleep(0.01)
    gc.collect()
    assert not caplog.records


async def test_a_long_body_that_can_not_be_read_is_one_line(connect: Connect, aiohttp_client: Any) -> None:
    client = await aiohttp_client(MockServer(max_body_size=2**22))
    raw = await connect(client)
    for body, status, told in (
        (
            b'{"messages":[' + b"[]," * 1_000_000 + b"[]]}",
            413,
            "more than 1,000,000 brackets, braces and commas",
        ),
        (b"x" * 2_000_000, 400, "is not JSON"),
    ):
        await raw.send(post(body))
        answered, _, sent = await raw.answer()
        assert (answered, told in json.loads(sent)["error"]["message"]) == (status, True)
