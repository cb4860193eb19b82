"""A server of the test's own loop, and connections to it on which every byte is the test's."""

import asyncio
import json
import socket
import struct
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from aiohttp import web
from aiohttp.test_utils import BaseTestServer

from mockchat.core.index import ResponseIndex
from mockchat.server.app import ChatServer
from mockchat.server.connection import Connection
from mockchat.server.route import PATH, ChatCompletions
from mockchat.server.simulation import Simulation
from mockchat.server.workers import Runner
from tests.helpers import conversation, index_of, request_body

BIG = "big " * 300_000
INDEX = index_of(
    conversation("one", "hi", "hello", "how are you?", "fine"),
    conversation("big", "write a lot", BIG),
)
MAX_BODY_SIZE = 100_000
HEAD = f"POST {PATH} HTTP/1.1\r\nHost: x\r\n".encode()
GOOD = request_body(("user", "hi"))
MISS = request_body(("user", "hix"))
ASK_BIG = request_body(("user", "write a lot"))
STREAMED = request_body(("user", "hi"), stream=True)
STREAMED_BIG = request_body(("user", "write a lot"), stream=True)

# Seconds after which what was waited for is given up: far more than a busy machine needs.
PATIENCE = 30


class _WatchedConnection(Connection):
    """Takes down how many bytes have arrived."""

    def __init__(self, server: "_WatchedServer") -> None:
        super().__init__(server)
        self._arrived = server.arrived
        self._client = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self._client = (transport.get_extra_info("peername") or (None, 0))[1]
        self._arrived[self._client] = 0

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._arrived[self._client] += len(data)


class _WatchedServer(ChatServer):
    """Knows how many bytes have arrived from the port of each client."""

    def __init__(self, route: ChatCompletions) -> None:
        super().__init__(route)
        self.arrived: Counter[int] = Counter()

    def __call__(self) -> Connection:
        return _WatchedConnection(self)


class MockServer(BaseTestServer):
    """The server of `app.serve`, which is that of a worker of gunicorn's, on a free port of the test's loop."""

    def __init__(
        self,
        index: ResponseIndex = INDEX,
        api_keys: Sequence[str] = (),
        max_body_size: int = MAX_BODY_SIZE,
        simulation: Simulation | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.chat = ChatCompletions(index, max_body_size, api_keys, simulation, **options)
        self.chat_server = _WatchedServer(self.chat)

    async def _make_runner(self, **options: Any) -> web.BaseRunner:
        return Runner(self.chat_server, shutdown_timeout=PATIENCE)

    async def close(self) -> None:
        """Stop it. Whatever its clients did, it holds nothing for them any more."""
        await super().close()
        assert self.chat.memory.held == 0


class Raw:
    """A connection on which every byte is ours; with a `server`, it can be waited for that these have arrived there."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, server: MockServer | None = None
    ) -> None:
        self.reader, self.writer, self._server = reader, writer, server
        self._port = writer.get_extra_info("sockname")[1]
        self._sent = 0

    async def send(self, data: bytes) -> None:
        self._sent += len(data)
        self.writer.write(data)
        await self.writer.drain()

    async def arrived(self) -> None:
        """Wait until the server has received, and answered as far as it can, all that was sent.

        What is sent afterwards reaches it in a segment of its own.
        """
        assert self._server, "made without a server"
        arrived = self._server.chat_server.arrived
        async with asyncio.timeout(PATIENCE):
            while self._port not in arrived or arrived[self._port] < self._sent:
                await asyncio.sleep(0.001)

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """One answer: status, headers, body."""
        async with asyncio.timeout(PATIENCE):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            status, *lines = head.rstrip().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
            return int(status.split()[1]), headers, body

    def reset(self) -> None:
        """Close the connection as a client does that crashes: what was on its way is lost."""
        linger = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()

    async def closed(self) -> bool:
        """Wait until the server closes the connection: whether it has said nothing more."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.read() == b""

    async def close(self) -> None:
        """Close the connection, whatever is on its way, and wait until that is done."""
        self.writer.transport.abort()
        with suppress(OSError):
            await self.writer.wait_closed()


def post(body: bytes, headers: str = "", version: str = "1.1") -> bytes:
    """A whole request, as bytes."""
    head = f"POST {PATH} HTTP/{version}\r\nHost: x\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body


def content(body: bytes) -> str:
    """The reply's text in the body of an answer."""
    found: str = json.loads(body)["choices"][0]["message"]["content"]
    return found


async def chunked(raw: Raw) -> bytes:
    """The body of a chunked answer whose head has been read."""
    body = b""
    async with asyncio.timeout(PATIENCE):
        while size := int(await raw.reader.readline(), 16):
            body += await raw.reader.readexactly(size)
            assert await raw.reader.readline() == b"\r\n"
        assert await raw.reader.readline() == b"\r\n"
    return body
