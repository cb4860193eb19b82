import asyncio
import json
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import BaseTestServer, TestClient
from conftest import SAMPLE, conversation, index_of, request_body

from mockchat import app, wire
from mockchat.dataset import load
from mockchat.index import ResponseIndex

BIG = "big " * 300_000
INDEX = index_of(
    conversation("one", "hi", "hello", "how are you?", "fine"),
    conversation("big", "write a lot", BIG),
)
MAX_BODY_SIZE = 100_000
GOOD = request_body(("user", "hi"))
MISS = request_body(("user", "hix"))

Client = TestClient


class Chat(app.ChatCompletions):
    """Counts the requests that go aiohttp's way, through a task of their own."""

    tasks = 0

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        self.tasks += 1
        return await super().__call__(request)


class MockServer(BaseTestServer):
    """The server of `app.serve` on a free port of the test's loop."""

    def __init__(self, index: ResponseIndex, api_keys: Sequence[str] = (), max_body_size: int = MAX_BODY_SIZE) -> None:
        super().__init__()
        self.chat = Chat(index, max_body_size, api_keys)

    async def _make_runner(self, **options: Any) -> web.ServerRunner:
        return web.ServerRunner(app.ChatServer(self.chat), shutdown_timeout=0.5)


@pytest.fixture
async def client(aiohttp_client: Any) -> Client:
    return await aiohttp_client(MockServer(INDEX))


@pytest.fixture
async def raw(client: Client) -> AsyncIterator["Raw"]:
    connection = Raw(*await asyncio.open_connection(client.host, client.port))
    yield connection
    connection.writer.close()


class Raw:
    """A connection on which every byte is ours."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """One answer: status, headers, body."""
        async with asyncio.timeout(10):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            status, *lines = head.rstrip().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
            return int(status.split()[1]), headers, body

    async def closed(self) -> bool:
        async with asyncio.timeout(10):
            return await self.reader.read() == b""


def post(body: bytes, headers: str = "", version: str = "1.1") -> bytes:
    head = f"POST {app.PATH} HTTP/{version}\r\nHost: x\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body


def content(body: bytes) -> str:
    found: str = json.loads(body)["choices"][0]["message"]["content"]
    return found


# The route


async def test_every_reply_of_the_sample_is_answered(aiohttp_client: Any) -> None:
    conversations = load(SAMPLE).conversations
    index = ResponseIndex(conversations)
    client = await aiohttp_client(MockServer(index))
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
async def test_keys(aiohttp_client: Any, authorization: str | None, status: int, path: str) -> None:
    client = await aiohttp_client(MockServer(INDEX, api_keys=["one", "zwei-ü"]))
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


# HTTP


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
        ("1.0", "Connection: keep-alive\r\n", "keep-alive"),
    ],
)
async def test_connection_header(raw: Raw, version: str, headers: str, connection: str) -> None:
    await raw.send(post(GOOD, headers, version))
    status, answered, body = await raw.answer()
    assert (status, answered["connection"], content(body)) == (200, connection, "hello")
    if connection == "close":
        assert await raw.closed()
    else:
        await raw.send(post(GOOD, headers, version))
        assert (await raw.answer())[0] == 200


async def test_pipelined_requests_are_answered_in_order(raw: Raw) -> None:
    bodies = [GOOD, MISS, b"no json", request_body(("user", "write a lot")), GOOD] * 10
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
    await asyncio.sleep(0.02)
    await raw.send(GOOD[-5:] + post(MISS) + post(GOOD))
    assert [(await raw.answer())[0] for _ in range(3)] == [200, 404, 200]


async def test_a_chunked_body(raw: Raw) -> None:
    await raw.send(f"POST {app.PATH} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
    for start in range(0, len(GOOD), 7):
        chunk = GOOD[start : start + 7]
        await raw.send(b"%x;note=1\r\n%b\r\n" % (len(chunk), chunk))
        await asyncio.sleep(0)
    await raw.send(b"0\r\nTrailer: x\r\n\r\n")
    assert content((await raw.answer())[2]) == "hello"


async def test_a_bad_chunk_is_a_400(raw: Raw, caplog: Any) -> None:
    await raw.send(f"POST {app.PATH} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
    await asyncio.sleep(0.05)
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


async def test_an_unknown_expectation_is_a_417(raw: Raw) -> None:
    await raw.send(post(GOOD, "Expect: miracles\r\n")[: -len(GOOD)])
    assert (await raw.answer())[0] == 417


@pytest.mark.parametrize("headers", ["", "Expect: 100-continue\r\n"])
async def test_a_body_declared_too_large_is_refused_unread(raw: Raw, headers: str) -> None:
    await raw.send(post(b"x" * (MAX_BODY_SIZE + 1), headers)[: -MAX_BODY_SIZE - 1])
    status, answered, body = await raw.answer()
    assert (status, answered["connection"]) == (413, "close")
    assert "--max-body-mb" in json.loads(body)["error"]["message"]


async def test_a_body_that_grows_too_large_is_refused_before_its_end(raw: Raw) -> None:
    await raw.send(f"POST {app.PATH} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
    await raw.send(b"%x\r\n" % (10 * MAX_BODY_SIZE) + b"x" * (MAX_BODY_SIZE + 1))
    assert (await raw.answer())[0] == 413


async def test_a_body_of_the_largest_size_is_read(client: Client) -> None:
    body = GOOD[:-1] + b" " * (MAX_BODY_SIZE - len(GOOD)) + b"}"
    async with client.post(app.PATH, data=body) as response:
        assert response.status == 200
    async with client.post(app.PATH, data=body + b" ") as response:
        assert response.status == 413


async def test_head_has_no_body(raw: Raw) -> None:
    await raw.send(f"HEAD {app.PATH} HTTP/1.1\r\nHost: x\r\n\r\n".encode() + post(GOOD))
    head = (await raw.reader.readuntil(b"\r\n\r\n")).decode()
    assert head.startswith("HTTP/1.1 405 ")
    assert content((await raw.answer())[2]) == "hello"


@pytest.mark.parametrize(
    "junk", [b"hello\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET / HTTP/9.9\r\n\r\n", b"\0" * 100]
)
async def test_what_is_no_http_is_a_400_and_no_traceback(raw: Raw, junk: bytes, caplog: Any) -> None:
    await raw.send(junk)
    status, headers, body = await raw.answer()
    assert (status, headers["connection"]) == (400, "close")
    assert json.loads(body)["error"]["type"] == "invalid_request_error"
    assert await raw.closed()
    assert not caplog.records


@pytest.mark.parametrize("sent", [1, 60, len(post(GOOD)) - 1, len(post(GOOD))])
async def test_a_client_that_goes_away_is_forgotten(client: Client, raw: Raw, sent: int, caplog: Any) -> None:
    await raw.send(post(GOOD)[:sent])
    await asyncio.sleep(0.02)
    raw.writer.transport.abort()
    await asyncio.sleep(0.02)
    async with client.post(app.PATH, data=GOOD) as response:
        assert response.status == 200
    assert not caplog.records


@pytest.fixture
def made(monkeypatch: Any) -> list[int]:
    """The sizes of the answers made so far."""
    sizes: list[int] = []
    completion = app.protocol.completion

    def counting(*arguments: Any) -> bytes:
        answer = completion(*arguments)
        sizes.append(len(answer))
        return answer

    monkeypatch.setattr(app.protocol, "completion", counting)
    return sizes


async def test_a_reader_that_does_not_read_holds_back_the_writer(aiohttp_client: Any, made: list[int]) -> None:
    """Twenty answers of 2.4 MB are asked for: all but the first few wait until the client reads.

    So does what is asked for later, and a body that is larger than what aiohttp keeps of one that nobody takes.
    """
    client = await aiohttp_client(MockServer(INDEX, max_body_size=10_000_000))
    stalled = Raw(*await asyncio.open_connection(client.host, client.port, limit=1000))
    stalled.writer.write(post(request_body(("user", "write a lot"))) * 20)
    await asyncio.sleep(0.3)
    assert 1 <= len(made) < 10
    stalled.writer.write(post(GOOD[:-1] + b" " * 5_000_000 + b"}") + post(GOOD) * 20)
    await asyncio.sleep(0.1)
    assert len(made) < 10
    for number in range(41):
        status, _, body = await stalled.answer()
        assert (status, content(body)) == (200, BIG if number < 20 else "hello")
    assert len(made) == 41
    stalled.writer.close()


async def test_what_is_asked_while_an_answer_waits_for_its_reader_waits_too(client: Client, made: list[int]) -> None:
    stalled = Raw(*await asyncio.open_connection(client.host, client.port, limit=1000))
    asked = 0
    while len(made) == asked:  # Until one is not answered, the sockets' buffers being full.
        asked += 1
        await stalled.send(post(request_body(("user", "write a lot"))))
        await asyncio.sleep(0.1)
    await stalled.send(post(GOOD) * 3)
    await asyncio.sleep(0.1)
    assert len(made) == asked - 1
    for number in range(asked + 3):
        assert content((await stalled.answer())[2]) == (BIG if number < asked else "hello")
    stalled.writer.close()


async def test_an_unforeseen_error_is_a_500_error_object(client: Client, monkeypatch: Any, caplog: Any) -> None:
    def broken(*arguments: Any) -> bytes:
        raise ZeroDivisionError

    monkeypatch.setattr(app.protocol, "completion", broken)
    async with client.post(app.PATH, data=GOOD) as response:
        assert response.status == 500
        assert (await response.json())["error"]["type"] == "server_error"
    assert "ZeroDivisionError" in caplog.text


# What is answered at once: these tests tell when a new aiohttp breaks what `_PromptConnection` relies on


prompt = pytest.mark.skipif(not app._PromptConnection.POSSIBLE, reason="this aiohttp queues requests otherwise")


async def test_where_aiohttp_changed_requests_go_its_way(raw: Raw, client: Client, monkeypatch: Any) -> None:
    monkeypatch.setattr(app._PromptConnection, "POSSIBLE", False)
    other = Raw(*await asyncio.open_connection(client.host, client.port))
    await other.send(post(GOOD) + post(STREAMED) + post(MISS))
    assert content((await other.answer())[2]) == "hello"
    assert (await other.answer())[0] == 200
    assert (await chunked(other)).endswith(b"data: [DONE]\n\n")
    assert (await other.answer())[0] == 404
    assert tasks(client) == 3
    other.writer.close()


def tasks(client: Client) -> int:
    """How many requests went aiohttp's way so far."""
    assert isinstance(client.server, MockServer)
    return client.server.chat.tasks


@prompt
async def test_a_request_that_is_there_to_its_end_needs_no_task(client: Client, raw: Raw) -> None:
    for body, status in ((GOOD, 200), (MISS, 404), (b"{", 400), (GOOD, 200)):
        await raw.send(post(body))
        assert (await raw.answer())[0] == status
    await raw.send(post(GOOD).replace(b"/v1/", b"/v2/"))
    assert (await raw.answer())[0] == 404
    await raw.send(post(STREAMED))
    assert (await raw.answer())[0] == 200
    assert (await chunked(raw)).endswith(b"data: [DONE]\n\n")
    assert tasks(client) == 0


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ((post(GOOD)[:-5], GOOD[-5:]), 200),
        ((post(GOOD)[:50], post(GOOD)[50:-5], GOOD[-5:]), 200),
        ((post(GOOD, "Connection: close\r\n"),), 200),
        ((post(GOOD, version="1.0"),), 200),
        ((post(MISS, "Connection: close\r\n"),), 404),
        ((post(GOOD, "Connection: Upgrade\r\nUpgrade: websocket\r\n"),), 200),
    ],
)
async def test_what_must_wait_or_closes_goes_through_a_task(
    client: Client, raw: Raw, parts: Sequence[bytes], status: int
) -> None:
    for part in parts:
        await raw.send(part)
        await asyncio.sleep(0.02)
    assert (await raw.answer())[0] == status
    assert tasks(client) == 1


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


@prompt
async def test_answers_keep_a_connection_from_being_idle(client: Client, raw: Raw) -> None:
    """As seldom as it is: aiohttp closes a connection on which nothing has come for an hour."""
    await raw.send(post(GOOD))
    await raw.answer()
    (connection,) = client.server.runner.server.connections
    before = connection._next_keepalive_close_time
    await raw.send(post(GOOD))
    await raw.answer()
    assert connection._next_keepalive_close_time > before
    assert tasks(client) == 0


@pytest.mark.parametrize("size", [200_000, 600_000, 5_000_000])
@pytest.mark.parametrize("headers", ["Content-Length: {}\r\n", "Transfer-Encoding: chunked\r\n"])
async def test_bodies_larger_than_any_buffer(aiohttp_client: Any, size: int, headers: str) -> None:
    """Long enough for aiohttp to pause reading, several times, and in one piece as far as the socket takes it."""
    client = await aiohttp_client(MockServer(INDEX, max_body_size=10_000_000))
    raw = Raw(*await asyncio.open_connection(client.host, client.port))
    body = GOOD[:-1] + b" " * (size - len(GOOD)) + b"}"
    head = f"POST {app.PATH} HTTP/1.1\r\nHost: x\r\n{headers.format(size)}\r\n".encode()
    blocks = [body] if "{" in headers else [b"%x\r\n%b\r\n" % (len(body), body), b"0\r\n\r\n"]
    for _ in range(3):
        await raw.send(head + b"".join(blocks))
        assert content((await raw.answer())[2]) == "hello"
    raw.writer.close()


# Streams


async def chunked(raw: Raw) -> bytes:
    """The body of a chunked answer whose head has been read."""
    body = b""
    async with asyncio.timeout(10):
        while size := int(await raw.reader.readline(), 16):
            body += await raw.reader.readexactly(size)
            assert await raw.reader.readline() == b"\r\n"
        assert await raw.reader.readline() == b"\r\n"
    return body


STREAMED = request_body(("user", "hi"), stream=True)
STREAMED_BIG = request_body(("user", "write a lot"), stream=True)


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
        events = (await response.read()).split(b"\n\n")
    pieces = [json.loads(event[6:])["choices"][0]["delta"].get("content", "") for event in events[:-2]]
    assert "".join(pieces) == BIG


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


# Shutdown


async def test_shutdown_answers_a_request_that_has_begun_to_arrive(client: Client, raw: Raw) -> None:
    request = post(GOOD)
    await raw.send(request[:-5])
    idle = Raw(*await asyncio.open_connection(client.host, client.port))
    await asyncio.sleep(0.05)
    closing = asyncio.create_task(client.server.close())
    assert await idle.closed()
    await raw.send(request[-5:])
    status, headers, body = await raw.answer()
    assert (status, headers["connection"], content(body)) == (200, "close", "hello")
    await closing
    idle.writer.close()
