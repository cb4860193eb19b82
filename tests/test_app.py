import asyncio
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestClient as Client
from conftest import SAMPLE, request_body
from serving import BIG, GOOD, MISS, STREAMED, STREAMED_BIG, MockServer, Raw, chunked, content, post

from mockchat import app, wire
from mockchat.dataset import load
from mockchat.index import ResponseIndex

# The same for both servers


@pytest.fixture(params=[False, True], ids=["server.py", "gunicorn"])
def served(request: Any) -> Callable[..., MockServer]:
    return partial(MockServer, worker=request.param)


@pytest.fixture
async def client(aiohttp_client: Any, served: Callable[..., MockServer]) -> Client:
    return await aiohttp_client(served())


# The route


async def test_every_reply_of_the_sample_is_answered(aiohttp_client: Any, served: Callable[..., MockServer]) -> None:
    conversations = load(SAMPLE).conversations
    index = ResponseIndex(conversations)
    client = await aiohttp_client(served(index))
    asked = 0
    for found in conversations:
        for number, message in enumerate(found.messages):
            if wire.is_assistant(message):
                prefix, _ = index.find(found.messages[:number])
                body = b'{"model":"m","messages":%b}' % wire.join(found.messages[:number])
                async with client.post(app.PATH, data=body) as response:
                    assert response.status == 200
                    assert response.content_type == "application/json"
                    answered = wire.message("assistant", content(await response.read()))
                assert answered in [reply.message for reply in index.replies(prefix)]
                asked += 1
    assert asked == 169


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "application/x-www-form-urlencoded", None])
async def test_any_content_type(client: Client, content_type: str | None) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    async with client.post(app.PATH, data=GOOD, headers=headers) as response:
        assert content(await response.read()) == "hello"


@pytest.mark.parametrize("path", [app.PATH + "?api-version=1", "/v1/%63hat/completions"])
async def test_other_spellings_of_the_path(client: Client, path: str) -> None:
    async with client.post(aiohttp.client.URL(path, encoded=True), data=GOOD) as response:
        assert response.status == 200


@pytest.mark.parametrize("accept", [None, "*/*", "text/plain"])
async def test_a_miss_is_plain_text(client: Client, accept: str | None) -> None:
    headers = {"Accept": accept} if accept else {}
    async with client.post(app.PATH, data=MISS, headers=headers) as response:
        assert response.status == 404
        assert response.content_type == "text/plain"
        assert await response.text() == "No valid response exists for the given request"


@pytest.mark.parametrize("accept", ["application/json", "Application/JSON, text/plain", "application/problem+json"])
async def test_a_miss_is_an_error_object_for_who_asks_for_json(client: Client, accept: str) -> None:
    async with client.post(app.PATH, data=MISS, headers={"Accept": accept}) as response:
        assert response.status == 404
        assert (await response.json())["error"]["type"] == "not_found_error"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("POST", "/", 404),
        ("POST", "/v1/completions", 404),
        ("POST", "/v1/chat/completions/", 404),
        ("GET", app.PATH, 405),
        ("PUT", app.PATH, 405),
        ("DELETE", app.PATH, 405),
        ("OPTIONS", app.PATH, 405),
    ],
)
async def test_other_routes_are_errors(client: Client, method: str, path: str, status: int) -> None:
    async with client.request(method, path) as response:
        assert response.status == status
        assert app.PATH in (await response.json())["error"]["message"]
        assert response.headers.get("Allow") == ("POST" if status == 405 else None)


async def test_every_answer_has_a_request_id_of_its_own(client: Client) -> None:
    found = set()
    for method, path, body in (
        ("POST", app.PATH, GOOD),
        ("POST", app.PATH, MISS),
        ("GET", "/", b""),
        ("POST", app.PATH, b""),
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
@pytest.mark.parametrize("path", [app.PATH, "/"])
async def test_keys(
    aiohttp_client: Any, served: Callable[..., MockServer], authorization: str | None, status: int, path: str
) -> None:
    client = await aiohttp_client(served(api_keys=["one", "zwei-ü"]))
    headers = {"Authorization": authorization} if authorization else {}
    async with client.post(path, data=GOOD, headers=headers) as response:
        assert response.status == (status if path == app.PATH or status == 401 else 404)
        if status == 401:
            error = (await response.json())["error"]
            assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
            assert response.headers["WWW-Authenticate"] == "Bearer"


async def test_without_keys_any_is_welcome(client: Client) -> None:
    async with client.post(app.PATH, data=GOOD, headers={"Authorization": "Bearer whatever"}) as response:
        assert response.status == 200


async def test_a_body_that_is_no_json_is_a_400(client: Client) -> None:
    async with client.post(app.PATH, data=b"hello") as response:
        assert response.status == 400
        assert "not JSON" in (await response.json())["error"]["message"]


async def test_a_compressed_body_is_a_415(client: Client) -> None:
    async with client.post(app.PATH, data=GOOD, headers={"Content-Encoding": "gzip"}) as response:
        assert response.status == 415
    async with client.post(app.PATH, data=GOOD, headers={"Content-Encoding": "Identity"}) as response:
        assert response.status == 200


async def test_an_unforeseen_error_is_a_500_error_object(client: Client, monkeypatch: Any, caplog: Any) -> None:
    def broken(*arguments: Any) -> bytes:
        raise ZeroDivisionError

    monkeypatch.setattr(app.protocol, "completion", broken)
    async with client.post(app.PATH, data=GOOD) as response:
        assert response.status == 500
        assert (await response.json())["error"]["type"] == "server_error"
    assert "ZeroDivisionError" in caplog.text


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
    async with client.post(app.PATH, data=STREAMED_BIG) as response:
        pieces = re.findall(rb'"delta":{"content":"([^"]*)"', await response.read())
    assert b"".join(pieces).decode() == BIG


async def test_a_miss_is_no_stream(client: Client) -> None:
    body = request_body(("user", "hix"), stream=True)
    async with client.post(app.PATH, data=body, headers={"Accept": "text/event-stream"}) as response:
        assert (response.status, response.content_type) == (404, "application/json")
        assert (await response.json())["error"]["param"] == "messages[0]"


async def test_a_stream_whose_client_goes_away_ends_quietly(client: Client, raw: Raw, caplog: Any) -> None:
    await raw.send(post(STREAMED_BIG))
    await raw.reader.readexactly(1000)
    raw.writer.transport.abort()
    await asyncio.sleep(0.05)
    async with client.post(app.PATH, data=GOOD) as response:
        assert response.status == 200
    assert not caplog.records


async def test_a_stream_to_a_slow_reader_waits_and_others_do_not(client: Client, monkeypatch: Any) -> None:
    made = 0
    events = app.protocol.stream

    def counting(*arguments: Any) -> Any:
        nonlocal made
        for block in events(*arguments):
            made += len(block)
            yield block

    monkeypatch.setattr(app.protocol, "stream", counting)
    slow = Raw(*await asyncio.open_connection(client.host, client.port, limit=1000))
    await slow.send(post(STREAMED_BIG))
    await asyncio.sleep(0.3)
    assert 0 < made < 20_000_000  # Of some 50 MB.
    async with client.post(app.PATH, data=GOOD) as response:
        assert response.status == 200
    slow.writer.transport.abort()
