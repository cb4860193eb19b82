import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from typing import Any
from weakref import WeakSet

import pytest
from aiohttp.test_utils import TestClient as Client

from mockchat.server.memory import Memory
from mockchat.server.parser import RequestParser
from tests.helpers import Connect, Pause, conversation, index_of, request_body
from tests.serving import GOOD, HEAD, PATIENCE, STREAMED_BIG, MockServer, content, post

BIG = index_of(conversation("one", "hi", "hello"), conversation("big", "write a lot", "big " * 300_000))
HALF = post(b" " * 1_500_000)[:600_000]  # Of a body, so much that two of them are more than 1 MB.


@pytest.fixture
async def client() -> AsyncIterator[Client[Any, Any]]:
    """A client of a server that may hold 1 MB."""
    made: Client[Any, Any] = Client(MockServer(BIG, max_body_size=2**26, max_memory_mb=1))
    await made.start_server()
    yield made
    await made.close()


def of(client: Client[Any, Any]) -> Any:
    return client.server


async def test_beyond_the_limit_bodies_are_refused_and_small_requests_are_not(
    client: Client[Any, Any], connect: Connect, caplog: Any
) -> None:
    first, second, small = [await connect(client) for _ in range(3)]
    for begun in (HALF, HEAD + b"Transfer-Encoding: chunked\r\n\r\n7a120\r\n" + b" " * 500_000):
        await first.send(HALF)
        await first.arrived()
        await second.send(begun)
        status, headers, body = await second.answer()
        assert (status, headers["retry-after"], headers["connection"]) == (503, "1", "close")
        assert b"The server's memory for requests" in body
        await second.close()
        await small.send(post(GOOD))
        status, _, body = await small.answer()
        assert (status, content(body)) == (200, "hello")
        await first.close()
        first, second = await connect(client), await connect(client)
    async with asyncio.timeout(PATIENCE):
        while of(client).chat.memory.held:
            await asyncio.sleep(0.01)
    await first.send(post(b" " * 900_000))
    status, _, _ = await first.answer()
    assert status == 400
    (record,) = caplog.records
    assert "more than 1 MB (see --max-memory-mb)" in record.getMessage()


async def test_beyond_the_limit_who_does_not_read_is_cut_off_and_who_does_is_not(
    client: Client[Any, Any], connect: Connect
) -> None:
    reading = await connect(client)
    idle = [await connect(client) for _ in range(40)]
    for raw in idle:  # Each has some 100 kB waiting for it.
        await raw.send(post(STREAMED_BIG))
    async with asyncio.timeout(PATIENCE):
        while len(of(client).chat_server.connections) > 30:
            await asyncio.sleep(0.01)
    assert of(client).chat.memory.held <= 2_000_000
    await reading.send(post(GOOD))
    assert content((await reading.answer())[2]) == "hello"


async def test_a_long_body_that_waits_to_be_read_is_held(client: Client[Any, Any], connect: Connect) -> None:
    of(client).chat.memory = Memory(64)
    raw, gone = await connect(client), await connect(client)
    long = request_body(("user", "long " * 400_000))
    await gone.send(post(long))
    await gone.arrived()
    await gone.close()
    await raw.send(post(long, "Accept: application/json\r\n") + post(GOOD))
    status, _, body = await raw.answer()
    assert (status, b"messages[0] differs at character 0: sent" in body) == (404, True)
    assert content((await raw.answer())[2]) == "hello"


async def until(condition: Any) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


def head(size: int) -> bytes:
    """A head that is not complete, of about this size."""
    return HEAD + b"".join([b"X-%d: %b\r\n" % (number, b"x" * 3990) for number in range(size // 4000)])


@pytest.mark.parametrize("begun", [b"", post(GOOD), post(GOOD) + b"\r\n"])
@pytest.mark.parametrize("end", [b"", b"Content-Length: 2\r\n\r\n{}"])
async def test_a_head_of_more_than_64_kb_is_refused(
    client: Client[Any, Any], connect: Connect, begun: bytes, end: bytes
) -> None:
    for size, status in ((60_000, 400), (120_000, 431), (480_000, 431)):
        raw = await connect(client)
        if begun:
            await raw.send(begun)
            assert (await raw.answer())[0] == 200
        raw.writer.write(head(size) + end)
        if not end:
            await asyncio.sleep(0.05)
            raw.writer.write(b"X: y\r\n" if status == 431 else b"Content-Length: 2\r\n\r\n{}")
        answered, headers, body = await raw.answer()
        assert (answered, headers["connection"]) == (status, "close")
        assert (b"larger than the 65536 bytes" in body) == (status == 431)
        assert await raw.closed()


@pytest.mark.parametrize(
    ("headers", "connection"),
    [
        (f"X: {'x' * 3800}\r\n", None),
        ("X: x\r\n" * 60, None),
        (f"X: {'x' * 4200}\r\n", "close"),
        (f"X: {'x' * 4200}\r\n" * 5, "close"),
    ],
)
async def test_a_connection_is_kept_only_after_a_head_of_4_kb(
    client: Client[Any, Any], connect: Connect, headers: str, connection: str | None
) -> None:
    """What was parsed of it stays in memory until the next request."""
    raw = await connect(client)
    await raw.send(post(GOOD, headers))
    status, answered, _ = await raw.answer()
    assert (status, answered.get("connection")) == (200, connection)


@pytest.mark.parametrize("begun", [b"", post(GOOD)])
async def test_heads_and_queued_requests_are_counted(client: Client[Any, Any], connect: Connect, begun: bytes) -> None:
    memory = of(client).chat.memory = Memory(64)
    pipeline = post(STREAMED_BIG) + post(GOOD) * 500
    for sent, least in ((head(40_000), 30_000), (post(GOOD)[:-1], 100), (pipeline, 2_000_000)):
        raw = await connect(client)
        await raw.send(begun + sent)
        await raw.arrived()
        assert memory.held >= least
        await raw.close()
        await until(lambda: memory.held == 0)


async def test_small_requests_in_two_pieces_are_answered_when_it_is_full(
    client: Client[Any, Any], connect: Connect
) -> None:
    full, small = await connect(client), await connect(client)
    of(client).chat.memory.held += 2_000_000
    await small.send(post(GOOD)[:-5])
    await small.arrived()
    await small.send(GOOD[-5:])
    assert (await small.answer())[0] == 200
    await full.send(post(b" " * 100_000)[:-5])
    assert (await full.answer())[0] == 503
    of(client).chat.memory.held -= 2_000_000


@pytest.fixture
def parsers(monkeypatch: pytest.MonkeyPatch) -> Iterator[WeakSet[RequestParser]]:
    """The parsers that are alive, while the garbage collector does not run."""
    made: WeakSet[RequestParser] = WeakSet()

    class Known(RequestParser):
        def __init__(self) -> None:
            super().__init__()
            made.add(self)

    monkeypatch.setattr("mockchat.server.connection.RequestParser", Known)
    gc.disable()
    yield made
    gc.enable()


@pytest.mark.parametrize(
    "sent",
    [
        post(b" " * 500_000)[:-1],
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n7a120\r\n" + b" " * 400_000,
        head(60_000),
        head(120_000),
        b"no HTTP\r\n\r\n",
        post(GOOD) + post(b" " * 500_000)[:-1],
        post(STREAMED_BIG) + post(GOOD) * 100,
    ],
    ids=lambda sent: repr(sent[:60]),
)
@pytest.mark.parametrize("aborts", [True, False])
async def test_what_is_begun_is_freed_with_its_connection(
    client: Client[Any, Any], connect: Connect, parsers: WeakSet[RequestParser], sent: bytes, aborts: bool
) -> None:
    """At once: uploads that were aborted one after the other took 1.5 GB until the garbage collector came."""
    raw = await connect(client)
    raw.writer.write(sent)
    await until(lambda: parsers or of(client).chat_server.requests_count)
    await asyncio.sleep(0.05)
    if aborts:
        raw.reset()
    else:
        raw.writer.close()
    await until(lambda: not of(client).chat_server.connections)
    await asyncio.sleep(0.01)
    assert not parsers


async def test_a_refused_body_is_freed_though_its_client_stays(
    client: Client[Any, Any], connect: Connect, parsers: WeakSet[RequestParser]
) -> None:
    held = await connect(client)
    await held.send(post(b" " * 1_500_000)[:1_000_000])
    await held.arrived()
    refused = await connect(client)
    await refused.send(post(b" " * 1_500_000)[:600_000])
    assert (await refused.answer())[0] == 503
    assert len(of(client).chat_server.connections) == 2
    assert sum(len(thing) for thing in gc.get_objects() if isinstance(thing, bytearray)) < 100_000
    assert len(parsers) == 1


async def test_long_bodies_whose_clients_have_gone_are_freed_but_for_the_one_that_is_read(
    client: Client[Any, Any], connect: Connect, paused_reading: Pause
) -> None:
    memory = of(client).chat.memory = Memory(64)
    begun, go_on = paused_reading
    body = request_body(("user", "long " * 400_000))
    clients = [await connect(client) for _ in range(4)]
    for raw in clients:
        await raw.send(post(body))
        await raw.arrived()
    assert await asyncio.to_thread(begun.wait, PATIENCE)
    assert memory.held == 4 * len(body)
    for raw in clients:
        raw.reset()  # A client that only closes may be waiting for its answer.
    await until(lambda: memory.held == len(body))
    go_on.set()
    await until(lambda: memory.held == 0)
