"""A test hears of every request that its server has answered, though it was refused before it was read."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest

from mockchat.server.connection import REQUEST_TIMEOUT
from mockchat.testing.server import MockServer, serve
from tests.helpers import Clock, request_body
from tests.serving import HEAD, Raw, post

RECORDED = [[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]]
GOOD = request_body(("user", "hi"))
LARGE = request_body(("user", "hi " * 100_000))
WRONG_KEY = "Authorization: Bearer wrong\r\n"


@asynccontextmanager
async def connection(server: MockServer) -> AsyncIterator[Raw]:
    host, port = server.base_url.split("/")[2].split(":")
    raw = Raw(*await asyncio.open_connection(host, int(port)))
    try:
        yield raw
    finally:
        await raw.close()


def seen(server: MockServer) -> list[tuple[int, bool]]:
    """The statuses of the requests, and whether it was told why."""
    return [(request.status, bool(request.error)) for request in server.requests]


def test_every_refusal_of_a_key_is_seen() -> None:
    sizes = [2, 1_000, 70_000, 300_000] * 10
    with (
        serve(RECORDED, api_key="right") as server,
        openai.OpenAI(base_url=server.base_url, api_key="wrong", max_retries=0) as client,
    ):
        for size in sizes:
            asked: Any = [{"role": "user", "content": "x" * size}]
            with pytest.raises(openai.AuthenticationError):
                client.chat.completions.create(model="m", messages=asked)
        assert seen(server) == [(401, True)] * len(sizes)
        assert server.misses == []
        assert [request.headers["Authorization"] for request in server.requests] == ["Bearer wrong"] * len(sizes)
        right = client.with_options(api_key="right")
        right.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
        assert seen(server)[len(sizes) :] == [(200, False)]


@pytest.mark.parametrize("body", [GOOD, LARGE])
@pytest.mark.parametrize("cut", [0, 1, 20, None])
async def test_whatever_segments_it_came_in(body: bytes, cut: int | None) -> None:
    """The head, and so much of the body with it; None: all at once."""
    request = post(body, WRONG_KEY)
    size = len(request) if cut is None else len(request) - len(body) + cut
    with serve(RECORDED, api_key="right") as server:
        for number in range(1, 4):
            async with connection(server) as raw:
                await raw.send(request[:size])
                if cut == 0:
                    await asyncio.sleep(0.02)  # What comes later may still come with it: then that is tested again.
                await raw.send(request[size:])
                assert (await raw.answer())[0] == 401
            assert seen(server) == [(401, True)] * number


@pytest.mark.parametrize(
    ("options", "sent", "status"),
    [
        ({"max_body_mb": 1}, post(b" " * 2_000_000)[:-2_000_000], 413),
        ({"max_body_mb": 1}, post(b" " * 2_000_000)[:-1_000_000], 413),
        ({"max_body_mb": 1}, HEAD + b"Transfer-Encoding: chunked\r\n\r\n200000\r\n" + b" " * 0x200000, 413),
        ({}, b"rubbish\r\n\r\n", 400),
        ({}, HEAD + b"Content-Length: no number\r\n\r\n", 400),
        ({}, HEAD + b"Transfer-Encoding: chunked\r\n\r\nno number\r\n", 400),
        ({}, post(GOOD, "Content-Encoding: gzip\r\n")[:-5], 415),
        ({}, post(GOOD).replace(b"/completions", b"")[:-5], 404),
        ({}, post(GOOD).replace(b"POST", b"PUT")[:-5], 405),
    ],
    ids=lambda value: repr(value[:40]) if isinstance(value, bytes) else None,
)
async def test_what_is_refused_before_it_is_whole(options: dict[str, Any], sent: bytes, status: int) -> None:
    with serve(RECORDED, **options) as server:
        async with connection(server) as raw:
            await raw.send(sent)
            answered, _, body = await raw.answer()
        (request,) = server.requests
    assert (answered, request.status, request.body, request.is_miss) == (status, status, None, status == 404)
    assert request.error == json.loads(body)["error"]["message"]
    assert server.report() == f"requests[0]: {status}, {request.error}"


async def test_what_does_not_come_whole_in_time(clock: Clock) -> None:
    with serve(RECORDED) as server:
        async with connection(server) as raw:
            await raw.send(post(GOOD, "Expect: 100-continue\r\n")[: -len(GOOD)])
            assert (await raw.answer())[0] == 100
            async with connection(server) as other:  # What the server answers later, it answers after all of that.
                await other.send(post(GOOD))
                assert (await other.answer())[0] == 200
            await clock.passes(2 * REQUEST_TIMEOUT)
            assert (await raw.answer())[0] == 408
        assert seen(server) == [(200, False), (408, True)]
