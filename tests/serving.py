"""A server of the test's own loop, and connections to it on which every byte is the test's."""

import asyncio
import json
import socket
import struct
from collections.abc import Sequence
from typing import Any

from aiohttp import web
from aiohttp.test_utils import BaseTestServer

from mockchat.core.index import ResponseIndex
from mockchat.server.app import ChatServer
from mockchat.server.connection import REQUEST_TIMEOUT, Runner
from mockchat.server.route import PATH, ChatCompletions
from mockchat.server.simulation import Simulation
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


class MockServer(BaseTestServer):
    """The server of `app.serve`, which is that of a worker of gunicorn's, on a free port of the test's loop."""

    def __init__(
        self,
        index: ResponseIndex = INDEX,
        api_keys: Sequence[str] = (),
        max_body_size: int = MAX_BODY_SIZE,
        request_timeout: float = REQUEST_TIMEOUT,
        simulation: Simulation | None = None,
    ) -> None:
        super().__init__()
        self.chat = ChatCompletions(index, max_body_size, api_keys, simulation)
        self.chat_server = ChatServer(self.chat, request_timeout)

    async def _make_runner(self, **options: Any) -> web.BaseRunner:
        return Runner(self.chat_server, shutdown_timeout=0.5)


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

    def reset(self) -> None:
        """Close the connection as a client does that crashes: what was on its way is lost."""
        linger = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()

    async def closed(self) -> bool:
        async with asyncio.timeout(10):
            return await self.reader.read() == b""


def post(body: bytes, headers: str = "", version: str = "1.1") -> bytes:
    head = f"POST {PATH} HTTP/{version}\r\nHost: x\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body


def content(body: bytes) -> str:
    found: str = json.loads(body)["choices"][0]["message"]["content"]
    return found


async def chunked(raw: Raw) -> bytes:
    """The body of a chunked answer whose head has been read."""
    body = b""
    async with asyncio.timeout(10):
        while size := int(await raw.reader.readline(), 16):
            body += await raw.reader.readexactly(size)
            assert await raw.reader.readline() == b"\r\n"
        assert await raw.reader.readline() == b"\r\n"
    return body
