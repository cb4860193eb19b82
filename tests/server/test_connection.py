"""HTTP as clients of every kind speak it, to a server of the test's own loop."""

import asyncio
import json
import math
import random
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp.test_utils import TestClient as Client
from hypothesis import given
from hypothesis import strategies as st

from mockchat.server import completion
from mockchat.server.connection import REQUEST_TIMEOUT as LIMIT
from mockchat.server.http import Answer, Part
from mockchat.server.route import PATH
from tests.fuzz import inputs, properties
from tests.helpers import Clock, Connect, request_body
from tests.serving import (
    ASK_BIG,
    BIG,
    GOOD,
    HEAD,
    MAX_BODY_SIZE,
    MISS,
    PATIENCE,
    STREAMED_BIG,
    MockServer,
    Raw,
    content,
    post,
)

# Requests


async def gone(client: Client) -> None:
    """Wait until the server has no connection left."""
    async with asyncio.timeout(PATIENCE):
        while client.server.chat_server.connections:  # type: ignore[attr-defined]
            await asyncio.sleep(0.001)


async def test_keep_alive(raw: Raw) -> None:
    for body, status in ((GOOD, 200), (MISS, 404), (b"{", 400), (GOOD, 200)):
        await raw.send(post(body))
        answered, headers, _ = await raw.answer()
        assert answered == status
        assert "connection" not in headers
        assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", headers["date"])


@pytest.mark.parametrize(
    ("version", "headers", "connection"),
    [
        ("1.1", "Connection: close\r\n", "close"),
        ("1.0", "", "close"),
        ("1.0", "Connection: keep-alive\r\n", "close"),
    ],
)
async def test_connection_header(raw: Raw, version: str, headers: str, connection: str) -> None:
    await raw.send(post(GOOD, headers, version))
    status, answered, body = await raw.answer()
    assert (status, answered["connection"], content(body)) == (200, connection, "hello")
    assert await raw.closed()


async def test_pipelined_requests_are_answered_in_order(raw: Raw) -> None:
    bodies = [GOOD, MISS, b"no json", ASK_BIG, GOOD] * 10
    await raw.send(b"".join(post(body) for body in bodies))
    for number in range(len(bodies)):
        status, _, body = await raw.answer()
        assert status == (200, 404, 400, 200, 200)[number % 5]
        if status == 200:
            assert content(body) == ("hello" if number % 5 != 3 else BIG)


@pytest.mark.parametrize("headers", ["", "Connection: close\r\n"])
@pytest.mark.parametrize("count", [1, 10])
async def test_a_client_that_only_stops_sending_is_answered(raw: Raw, headers: str, count: int) -> None:
    await raw.send(post(GOOD) * (count - 1) + post(GOOD, headers))
    raw.writer.write_eof()
    for _ in range(count):
        assert content((await raw.answer())[2]) == "hello"
    assert await raw.closed()


@pytest.mark.parametrize("sent", [0, 30, len(post(GOOD)) - 1])
async def test_a_client_that_stops_in_the_middle_is_let_go(raw: Raw, sent: int) -> None:
    await raw.send(post(GOOD)[:sent])
    raw.writer.write_eof()
    assert await raw.closed()


async def test_a_body_that_arrives_in_pieces(raw: Raw) -> None:
    for byte in post(GOOD):
        await raw.send(bytes([byte]))
        await asyncio.sleep(0)
    assert content((await raw.answer())[2]) == "hello"


async def test_the_end_of_a_body_may_bring_the_next_request(raw: Raw) -> None:
    await raw.send(post(GOOD)[:-5])
    await raw.arrived()
    await raw.send(GOOD[-5:] + post(MISS) + post(GOOD))
    assert [(await raw.answer())[0] for _ in range(3)] == [200, 404, 200]


async def test_a_chunked_body(raw: Raw) -> None:
    await raw.send(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
    for start in range(0, len(GOOD), 7):
        chunk = GOOD[start : start + 7]
        await raw.send(b"%x;note=1\r\n%b\r\n" % (len(chunk), chunk))
        await asyncio.sleep(0)
    await raw.send(b"0\r\nTrailer: x\r\n\r\n")
    assert content((await raw.answer())[2]) == "hello"


async def test_a_bad_chunk_is_a_400(raw: Raw, caplog: Any) -> None:
    await raw.send(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
    await raw.arrived()
    await raw.send(b"zz\r\nhello\r\n")
    status, headers, _ = await raw.answer()
    assert (status, headers["connection"]) == (400, "close")
    assert await raw.closed()
    assert not caplog.records


async def test_expect_100_continue(raw: Raw) -> None:
    head, body = post(GOOD, "Expect: 100-continue\r\n").split(b"\r\n\r\n")
    await raw.send(head + b"\r\n\r\n")
    assert (await raw.answer())[0] == 100
    await raw.send(body)
    assert content((await raw.answer())[2]) == "hello"


@pytest.mark.parametrize("cut", [len(GOOD), 0])
async def test_an_unknown_expectation_is_ignored(raw: Raw, cut: int) -> None:
    request = post(GOOD, "Expect: miracles\r\n")
    await raw.send(request[: len(request) - cut])
    await raw.arrived()
    await raw.send(request[len(request) - cut :])
    assert (await raw.answer())[0] == 200


@pytest.mark.parametrize("headers", ["", "Expect: 100-continue\r\n"])
async def test_a_body_declared_too_large_is_refused_unread(raw: Raw, headers: str) -> None:
    await raw.send(post(b"x" * (MAX_BODY_SIZE + 1), headers)[: -MAX_BODY_SIZE - 1])
    status, answered, body = await raw.answer()
    assert (status, answered["connection"]) == (413, "close")
    assert "100000 bytes" in json.loads(body)["error"]["message"]


async def test_a_body_that_grows_too_large_is_refused_before_its_end(raw: Raw) -> None:
    await raw.send(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
    await raw.send(b"%x\r\n" % (10 * MAX_BODY_SIZE) + b"x" * (MAX_BODY_SIZE + 1))
    assert (await raw.answer())[0] == 413


async def test_a_body_of_the_largest_size_is_read(client: Client) -> None:
    body = GOOD[:-1] + b" " * (MAX_BODY_SIZE - len(GOOD)) + b"}"
    async with client.post(PATH, data=body) as response:
        assert response.status == 200
    async with client.post(PATH, data=body + b" ") as response:
        assert response.status == 413


async def test_head_has_no_body(raw: Raw) -> None:
    await raw.send(f"HEAD {PATH} HTTP/1.1\r\nHost: x\r\n\r\n".encode() + post(GOOD))
    head = (await raw.reader.readuntil(b"\r\n\r\n")).decode()
    assert head.startswith("HTTP/1.1 405 ")
    assert content((await raw.answer())[2]) == "hello"


LENGTH = b"Content-Length: %d\r\n" % len(GOOD)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNK = b"%x\r\n%b\r\n" % (len(GOOD), GOOD)


@pytest.mark.parametrize(
    "sent",
    [
        b"hello\r\n\r\n",
        b"\0" * 100,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://[::/v1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /%b HTTP/1.1\r\nHost: x\r\n\r\n" % (b"x" * 1_000_000),
        HEAD + b"X: %b\r\n\r\n" % (b"x" * 1_000_000),
        HEAD + b"X: y\r\n" * 10_000 + b"\r\n",
        HEAD + b"X: a\0b\r\n\r\n",
        HEAD + b"X : y\r\n\r\n",
        HEAD + b"X: a\r\n b\r\n\r\n",
        HEAD + b"X: a\rb\r\n\r\n",
        (HEAD + LENGTH + b"\r\n").replace(b"\r\n", b"\n") + GOOD,
        # What a proxy before us could take for another number of requests than we do.
        HEAD + LENGTH + CHUNKED + b"\r\n" + GOOD,
        HEAD + CHUNKED + LENGTH + b"\r\n0\r\n\r\n",
        HEAD + LENGTH + b"Content-Length: 5\r\n\r\n" + GOOD,
        HEAD + LENGTH + LENGTH + b"\r\n" + GOOD,
        HEAD + b"Content-Length: 5, 5\r\n\r\n" + GOOD,
        HEAD + b"Content-Length: +5\r\n\r\n" + GOOD,
        HEAD + b"Content-Length: -1\r\n\r\n" + GOOD,
        HEAD + b"Content-Length: 0x5\r\n\r\n" + GOOD,
        HEAD + b"Content-Length: 5_0\r\n\r\n" + GOOD,
        HEAD + b"Content-Length: \r\n\r\n" + GOOD,
        HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n" + GOOD,
        HEAD + b"Transfer-Encoding: xchunked\r\n\r\n" + CHUNK,
        HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n" + CHUNK,
        HEAD + CHUNKED + CHUNKED + b"\r\n" + CHUNK,
        HEAD + CHUNKED + b"\r\nFFFFFFFFFFFFFFFFF\r\n",
        HEAD + CHUNKED + b"\r\n-1\r\n",
        HEAD + CHUNKED + b"\r\n5\nhello\n0\n\n",
        HEAD + CHUNKED + b"\r\n" + CHUNK[:-2] + b"XX0\r\n\r\n",
        HEAD + CHUNKED + b"\r\n" + CHUNK + b"0\r\n" + b"X: y\r\n" * 10_000 + b"\r\n",
        HEAD + b"Host: y\r\n" + LENGTH + b"\r\n" + GOOD,
        b"CONNECT \r\n\r\n",
    ],
    ids=lambda sent: repr(sent[:80]),
)
async def test_what_is_no_http_is_one_400_and_no_traceback(raw: Raw, sent: bytes, caplog: Any) -> None:
    raw.writer.write(sent)
    status, headers, body = await raw.answer()
    assert (status, headers["connection"]) == (400, "close")
    error = json.loads(body)["error"]
    assert error["type"] == "invalid_request_error"
    assert len(error["message"]) < 200
    assert await raw.closed()
    assert not caplog.records


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"POST http://x%b HTTP/1.1\r\nHost: x\r\n" % PATH.encode() + LENGTH + b"\r\n" + GOOD, 200),
        (b"\r\n\r\n" + post(GOOD), 200),
        (post(GOOD, "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n"), 200),
        (post(GOOD, "Connection: Upgrade\r\nUpgrade: websocket\r\n"), 200),
        (HEAD + CHUNKED + b"\r\n%x;%b\r\n%b\r\n0\r\n\r\n" % (len(GOOD), b"x" * 100_000, GOOD), 200),
        (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + CHUNK + b"0\r\n\r\n", 415),
        (post(GOOD, "Content-Encoding: gzip\r\n"), 415),
        (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"POST /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"POST /%0d%0aX:y HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (HEAD + b"\r\n", 400),
    ],
    ids=lambda sent: repr(sent[:80]) if isinstance(sent, bytes) else None,
)
async def test_odd_http_is_answered_and_the_connection_stays(raw: Raw, sent: bytes, status: int, caplog: Any) -> None:
    for _ in range(2):
        await raw.send(sent)
        assert (await raw.answer())[0] == status
        await raw.send(post(MISS))
        assert (await raw.answer())[0] == 404
    assert not caplog.records


async def test_what_stands_before_rubbish_is_answered(raw: Raw) -> None:
    await raw.send(post(GOOD)[:-2])
    await raw.arrived()
    await raw.send(GOOD[-2:] + b"rubbish\r\n\r\n")
    assert [(await raw.answer())[0] for _ in range(2)] == [200, 400]
    assert await raw.closed()


@pytest.mark.parametrize("sent", [1, 60, len(post(GOOD)) - 1, len(post(GOOD))])
async def test_a_client_that_goes_away_is_forgotten(client: Client, raw: Raw, sent: int, caplog: Any) -> None:
    await raw.send(post(GOOD)[:sent])
    await raw.arrived()
    raw.writer.transport.abort()
    await gone(client)
    async with client.post(PATH, data=GOOD) as response:
        assert response.status == 200
    assert not caplog.records


@pytest.fixture
def made(monkeypatch: Any) -> list[int]:
    """The sizes of the answers made so far."""
    sizes: list[int] = []
    make = completion.whole

    def counting(*arguments: Any) -> list[bytes]:
        answer = make(*arguments)
        sizes.append(sum(map(len, answer)))
        return answer

    monkeypatch.setattr(completion, "whole", counting)
    return sizes


async def others_are_served(client: Client, connect: Connect) -> None:
    """Whatever the server had received by now, it has handled: its loop looks at all connections in each turn."""
    other = await connect(client)
    for _ in range(10):
        await other.send(post(MISS))
        assert (await other.answer())[0] == 404
    await other.close()


async def settled(made: list[int]) -> None:
    """Wait until an answer is made, and then until no more are: as many turns of the loop, not as much time."""
    async with asyncio.timeout(PATIENCE):
        while not made:
            await asyncio.sleep(0.01)
        for _ in range(20):
            await asyncio.sleep(0.01)


async def test_a_reader_that_does_not_read_holds_back_the_writer(
    aiohttp_client: Any, made: list[int], connect: Connect
) -> None:
    """Twenty answers of 2.4 MB are asked for: all but the first few wait until the client reads.

    So does what is asked for later, and a body that is larger than what aiohttp keeps of one that nobody takes.
    """
    client = await aiohttp_client(MockServer(max_body_size=10_000_000))
    stalled = await connect(client)
    stalled.writer.write(post(ASK_BIG) * 20)
    await settled(made)
    assert 1 <= len(made) < 10
    stalled.writer.write(post(GOOD[:-1] + b" " * 5_000_000 + b"}") + post(GOOD) * 20)
    await others_are_served(client, connect)
    assert len(made) < 10
    for number in range(41):
        status, _, body = await stalled.answer()
        assert (status, content(body)) == (200, BIG if number < 20 else "hello")
    assert len(made) == 41


async def test_what_is_asked_while_an_answer_waits_for_its_reader_waits_too(
    client: Client, made: list[int], connect: Connect
) -> None:
    stalled = await connect(client)
    asked = 0
    while len(made) == asked:  # Until one is not answered, the sockets' buffers being full.
        asked += 1
        await stalled.send(post(ASK_BIG))
        await settled(made)
    await stalled.send(post(GOOD) * 3)
    await others_are_served(client, connect)
    assert len(made) == asked - 1
    for number in range(asked + 3):
        assert content((await stalled.answer())[2]) == (BIG if number < asked else "hello")


async def test_a_pipeline_after_many_requests(raw: Raw) -> None:
    """More of them than aiohttp queues, which counts those that are not taken from it."""
    for _ in range(40):
        await raw.send(post(GOOD))
        assert (await raw.answer())[0] == 200
    await raw.send(post(GOOD) * 5)
    for _ in range(5):
        assert content((await raw.answer())[2]) == "hello"


async def test_more_pipelined_requests_than_aiohttp_queues(client: Client, raw: Raw) -> None:
    """In one piece, and with one in the middle that must wait: the order stays."""
    streamed = request_body(("user", "how?"), stream=True)
    await raw.send(post(GOOD) * 500 + post(streamed) + post(MISS) * 500 + post(GOOD, "Connection: close\r\n"))
    statuses = [(await raw.answer())[0] for _ in range(1002)]
    assert statuses == [200] * 500 + [404] * 501 + [200]
    assert await raw.closed()


@pytest.mark.parametrize("size", [200_000, 600_000, 5_000_000])
@pytest.mark.parametrize("headers", ["Content-Length: {}\r\n", "Transfer-Encoding: chunked\r\n"])
async def test_bodies_larger_than_any_buffer(aiohttp_client: Any, size: int, headers: str, connect: Connect) -> None:
    """Long enough for aiohttp to pause reading, several times, and in one piece as far as the socket takes it."""
    client = await aiohttp_client(MockServer(max_body_size=10_000_000))
    raw = await connect(client)
    body = GOOD[:-1] + b" " * (size - len(GOOD)) + b"}"
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\n{headers.format(size)}\r\n".encode()
    blocks = [body] if "{" in headers else [b"%x\r\n%b\r\n" % (len(body), body), b"0\r\n\r\n"]
    for _ in range(3):
        await raw.send(head + b"".join(blocks))
        assert content((await raw.answer())[2]) == "hello"


# Time limits


@pytest.fixture
async def limited(clock: Clock, aiohttp_client: Any) -> Client:
    """A client of a server that waits for nobody longer than a minute, which the clock can have pass."""
    return await aiohttp_client(MockServer())


@pytest.mark.parametrize(
    ("answered", "sent"),
    [
        (0, b"POST /"),
        (0, HEAD + b"X: "),
        (0, post(GOOD + b" " * 1000)[:-1000]),
        (0, HEAD + CHUNKED + b"\r\n3e8\r\n"),
        (1, post(GOOD) + HEAD + b"X: "),
        (1, post(GOOD) + post(GOOD + b" " * 1000)[:-1000]),
    ],
)
async def test_a_slow_sender_is_cut_off(
    limited: Client, connect: Connect, clock: Clock, answered: int, sent: bytes
) -> None:
    """Though it goes on sending, a byte at a time."""
    raw = await connect(limited)
    await raw.send(sent)
    for _ in range(answered):
        assert (await raw.answer())[0] == 200
    for _ in range(5):
        await raw.arrived()
        await clock.passes(LIMIT / 4)
        await raw.send(b"x")
    status, headers, body = await raw.answer()
    assert (status, headers["connection"]) == (408, "close")
    assert "within 60 s" in json.loads(body)["error"]["message"]


@pytest.mark.parametrize(
    ("sent", "then"),
    [
        (post(GOOD) + b"P", b"O"),  # A head is seen when more of it arrives,
        (post(GOOD) + HEAD + b"X: ", b"y"),
        (post(GOOD) + HEAD + b"X: %b\r\n" % (b"y" * 4000) * 5, b""),  # or if it is long;
        (post(GOOD) * 3 + post(GOOD)[:-1], b""),  # a body at once.
    ],
    ids=lambda sent: repr(sent[-60:]),
)
async def test_a_part_of_a_request_behind_a_whole_one_is_not_waited_for_for_ever(
    limited: Client, connect: Connect, clock: Clock, sent: bytes, then: bytes
) -> None:
    raw: Raw = await connect(limited)
    await raw.send(sent)
    for _ in range(sent.count(GOOD)):
        assert (await raw.answer())[0] == 200
    await raw.send(then)
    await raw.arrived()
    await clock.passes(2 * LIMIT)
    assert (await raw.answer())[0] == 408


@pytest.mark.parametrize("sent", [b"", b"\r\n"])
async def test_a_client_that_says_nothing_is_let_go(
    limited: Client, connect: Connect, clock: Clock, sent: bytes
) -> None:
    raw = await connect(limited)
    await raw.send(sent)
    await raw.arrived()
    await clock.passes(2 * LIMIT)
    assert await raw.closed()


async def test_a_connection_may_be_idle_between_requests(limited: Client, connect: Connect, clock: Clock) -> None:
    raw = await connect(limited)
    for _ in range(3):
        await raw.send(post(GOOD))
        assert (await raw.answer())[0] == 200
        await clock.passes(2 * LIMIT)


@pytest.mark.parametrize("sent", [[post(GOOD) + b"\r\n"], [post(GOOD), b"\r\n"], [post(GOOD), b"\r\n\r", b"\n"]])
async def test_empty_lines_between_requests_are_no_part_of_one(
    limited: Client, connect: Connect, clock: Clock, sent: list[bytes]
) -> None:
    raw = await connect(limited)
    for _ in range(2):
        for part in sent:
            await raw.send(part)
            await raw.arrived()
        assert (await raw.answer())[0] == 200
        await clock.passes(2 * LIMIT)
    limited.server.chat_server.finish()  # type: ignore[attr-defined]
    assert await raw.closed()


@pytest.mark.parametrize(
    "sent",
    [
        post(GOOD),
        HEAD + CHUNKED + b"\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(GOOD), GOOD),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
async def test_it_may_be_idle_after_a_request_whose_end_came_alone(
    limited: Client, connect: Connect, clock: Clock, sent: bytes
) -> None:
    raw: Raw = await connect(limited)
    await raw.send(sent[:-1])
    await raw.arrived()
    await raw.send(sent[-1:])
    await raw.answer()
    await clock.passes(2 * LIMIT)
    await raw.send(post(GOOD))
    assert (await raw.answer())[0] == 200


async def test_a_reader_that_never_reads_is_cut_off_and_a_slow_one_is_not(
    limited: Client, connect: Connect, clock: Clock
) -> None:
    never, slow = await connect(limited), await connect(limited)
    for raw in (never, slow):
        await raw.send(post(STREAMED_BIG))
        await raw.arrived()
    for _ in range(20):
        await slow.reader.readexactly(1_000_000)
        await clock.passes(LIMIT / 10)
    assert len(limited.server.chat_server.connections) == 1  # type: ignore[attr-defined]
    await slow.reader.readexactly(10_000_000)  # More than the sockets hold: it is still served.


# Shutdown


Say = Callable[..., None]


@pytest.fixture
def say(client: Client, monkeypatch: Any) -> Say:
    """Have the server answer with these parts."""

    def answer(*parts: Part) -> None:
        route = client.server.chat  # type: ignore[attr-defined]
        monkeypatch.setattr(route, "answer", lambda request, body: Answer(iter(parts), not route.writer.closing, 200))

    return answer


async def test_the_parts_of_an_answer_wait_for_their_time_or_for_a_future(raw: Raw, say: Say) -> None:
    future = asyncio.get_running_loop().create_future()
    begun, now = time.monotonic(), time.monotonic()
    say(b"1", now - 1, b"2", now + 0.05, b"3", future, b"4\n", future, b"5")
    await raw.send(post(GOOD) * 2)
    assert await raw.reader.readexactly(3) == b"123"
    assert time.monotonic() - begun > 0.04
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(raw.reader.read(1), 0.05)
    future.set_result(None)
    # The second request is answered after the first, whose time and future have passed by then.
    assert await raw.reader.readexactly(9) == b"4\n51234\n5"
    say(b"again")
    await raw.send(post(GOOD))
    assert await raw.reader.readexactly(5) == b"again"


@pytest.mark.parametrize("ends", ["close", "shutdown", "abort"])
async def test_a_client_may_go_while_its_answer_waits(client: Client, raw: Raw, say: Say, ends: str) -> None:
    say(b"begun", time.monotonic() + 3600, b"never")
    await raw.send(post(GOOD))
    await raw.reader.readexactly(5)
    server = client.server.chat_server  # type: ignore[attr-defined]
    if ends == "abort":
        raw.reset()
        await gone(client)
    else:
        if ends == "close":
            raw.writer.close()  # No matter: the answer is under way.
        server.finish()
        assert server.connections
        await server.shutdown(0.05)
    assert server.cut == (ends != "abort")


@pytest.mark.parametrize("begun", [b"", b"begun"])
@pytest.mark.parametrize("count", [1, 3])
async def test_nothing_more_may_be_said_until_the_client_gives_up(
    client: Client, connect: Connect, say: Say, clock: Clock, begun: bytes, count: int
) -> None:
    say(begun, math.inf, b"never")
    server = client.server.chat_server  # type: ignore[attr-defined]
    for ends in ("eof", "close", "abort", "shutdown"):
        raw = await connect(client)
        await raw.send(post(GOOD) * count)
        await raw.arrived()
        assert await raw.reader.readexactly(len(begun)) == begun
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(raw.reader.read(1), 0.02)
        await clock.passes(2 * LIMIT)
        assert server.connections
        match ends:
            case "eof":
                raw.writer.write_eof()
            case "close":
                raw.writer.close()
            case "abort":
                raw.reset()
            case "shutdown":
                server.finish()
        await gone(client)
    assert server.cut == 0


async def test_shutdown_answers_a_request_that_has_begun_to_arrive(
    clock: Clock, client: Client, raw: Raw, connect: Connect
) -> None:
    request = post(GOOD)
    await raw.send(request[:-5])
    idle = await connect(client)
    for begun in (raw, idle):
        await begun.arrived()
    closing = asyncio.create_task(client.server.close())
    assert await idle.closed()
    await clock.passes(PATIENCE / 2)  # Of the time that the server gives itself.
    await raw.send(request[-5:])
    status, headers, body = await raw.answer()
    assert (status, headers["connection"], content(body)) == (200, "close", "hello")
    await closing


async def test_shutdown_answers_a_request_that_began_to_arrive_with_the_one_before(client: Client, raw: Raw) -> None:
    request = post(GOOD)
    await raw.send(request + request[:9])
    await raw.answer()
    await raw.send(request[9:20])
    await raw.arrived()
    client.server.chat_server.finish()  # type: ignore[attr-defined]
    await raw.send(request[20:])
    assert (await raw.answer())[1]["connection"] == "close"


# Whatever comes


@given(st.sampled_from(inputs.seeds("connection")), st.integers(0).map(random.Random))
def test_whatever_comes_is_answered_the_same_however_it_is_cut(data: bytes, chance: random.Random) -> None:
    properties.connection(inputs.mutated(data, "connection", chance), chance.getrandbits(32), properties.SAMPLED)


@given(st.lists(st.sampled_from(inputs.seeds("body")), min_size=1, max_size=5), st.integers(0).map(random.Random))
def test_each_of_several_requests_is_answered_as_if_alone(bodies: list[bytes], chance: random.Random) -> None:
    bodies = [inputs.mutated(body, "body", chance) for body in bodies]
    expected = [
        413 if len(body) > properties.MAX_BODY_SIZE else properties.body(body, properties.SAMPLED) for body in bodies
    ]
    sent = b"".join([inputs.http(body, chance.random() < 0.3) for body in bodies])
    assert properties.connection(sent, chance.getrandbits(32), properties.SAMPLED) == expected


ONE_REPLY = request_body(("user", "hi"), seed=1)
FIRST = post(ONE_REPLY, "Accept: application/json\r\n")


@pytest.mark.parametrize(
    "second",
    [
        FIRST,
        post(MISS, "Accept: application/json\r\n"),
        post(ASK_BIG[:-1] + b" " * 40 + b"}", "Accept: application/json\r\n"),
        post(b"", "Accept: application/json\r\n"),
        post(b" " * (properties.MAX_BODY_SIZE + 1), "Accept: application/json\r\n"),
        post(ONE_REPLY),
        post(ONE_REPLY, "Accept: application/json\r\nConnection: close\r\n"),
        post(ONE_REPLY, "Accept: application/json\r\n", version="1.0"),
        FIRST.replace(b"POST", b"PUT"),
        FIRST.replace(b"/v1", b"/v2"),
        FIRST.replace(b"Content-Length: ", b"Content-Length: +"),
        FIRST.replace(b"Content-Length: ", b"Content-Length: 0"),
        FIRST.replace(b"Content-Length: ", b"Content-Length: 1\r\nContent-Length: "),
        FIRST.replace(b"Accept", b"Transfer-Encoding: chunked\r\nAccept"),
        FIRST + FIRST,
        FIRST + FIRST[:20],
        FIRST + b"rubbish\r\n\r\n",
        FIRST[:-5],
        FIRST[:20],
    ],
)
def test_what_follows_a_request_on_its_connection_is_answered_as_if_alone(second: bytes) -> None:
    alone = properties.answers([second], properties.SAMPLED)
    for cut in (0, len(second) // 2, len(second) - 1):
        pieces = [piece for piece in (FIRST, second[:cut], second[cut:]) if piece]
        (status, _, _), *then = properties.answers(pieces, properties.SAMPLED)
        assert status == 200
        assert properties.alike(then, alone), (cut, then, alone)


async def test_a_large_body_with_a_known_head_is_taken_as_it_comes(aiohttp_client: Any, connect: Connect) -> None:
    raw = await connect(await aiohttp_client(MockServer()))
    await raw.send(FIRST)
    assert (await raw.answer())[0] == 200
    large = post(GOOD[:-1] + b" " * 50_000 + b"}", "Accept: application/json\r\n")
    for start in range(0, len(large), 9000):
        await raw.send(large[start : start + 9000])
        await asyncio.sleep(0)
    assert (await raw.answer())[0] == 200
    await raw.send(post(b" " * (MAX_BODY_SIZE + 1), "Accept: application/json\r\n")[:1000])
    status, headers, _ = await raw.answer()
    assert (status, headers["connection"]) == (413, "close")


async def test_a_body_with_a_known_head_that_does_not_come_whole_is_a_408(
    limited: Client, connect: Connect, clock: Clock
) -> None:
    raw = await connect(limited)
    await raw.send(FIRST)
    assert (await raw.answer())[0] == 200
    await raw.send(FIRST[:-1])
    await raw.arrived()
    await clock.passes(2 * LIMIT)
    assert (await raw.answer())[0] == 408
