import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp.test_utils import TestClient as Client

from mockchat.server.memory import Memory
from tests.helpers import Connect, conversation, index_of, request_body
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
        assert b"The server holds as much as it may" in body
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
