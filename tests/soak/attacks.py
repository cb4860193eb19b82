"""What one client may send to make the server slow, or large, for all others: as bytes, and how it is sent."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from tests.helpers import entry
from tests.serving import GOOD, HEAD, post

MB = 1_000_000
RECORDED = [
    entry("big", "write a lot", "big " * 300_000),  # 1.2 MB
    entry("huge", "write no end", "huge " * 10_800_000),  # 54 MB
]


MAX_MEMORY_MB = 1024  # The server's default.


class Attack(NamedTuple):
    """`connections` clients that send a request again and again; those that do not read send it once.

    With `hangs_up`, they read nothing, disconnect once all is sent, and begin anew. `largest_mb` is the size of the
    largest body that the server reads, which may take `READING` times its size.
    """

    name: str
    make: Callable[[], bytes]
    connections: int
    reads: bool = True
    options: tuple[str, ...] = ()
    hangs_up: bool = False
    largest_mb: int = 64

    @property
    def allowed_mb(self) -> int:
        """How much memory the server may take: its limit, and what one body takes to be read."""
        limit = int(self.options[1]) if self.options[:1] == ("--max-memory-mb",) else MAX_MEMORY_MB
        return limit + READING * self.largest_mb + _BESIDE


READING = 25
_BESIDE = 32  # MB: connections, their sockets' buffers as Python has them, what malloc keeps


def asking(text: str, **parameters: Any) -> bytes:
    return post(json.dumps({"messages": [{"role": "user", "content": text}]} | parameters).encode())


def with_messages(*messages: Any) -> bytes:
    return post(json.dumps({"messages": messages}).encode())


def calls(count: int) -> bytes:
    """As many calls in one message, answered the last one first."""
    called = [{"id": f"{n}", "type": "function", "function": {"name": "f", "arguments": "{}"}} for n in range(count)]
    answers = [{"role": "tool", "tool_call_id": f"{n}", "content": ""} for n in reversed(range(count))]
    return with_messages({"role": "assistant", "content": None, "tool_calls": called}, *answers)


def arguments(text: str) -> bytes:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": text}}
    return with_messages({"role": "assistant", "content": None, "tool_calls": [call]})


def escaped(text: str) -> bytes:
    return post(b'{"messages":[{"role":"user","content":"%b"}]}' % b"".join([b"\\u%04x" % ord(char) for char in text]))


def image(size: int) -> bytes:
    return with_messages({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "A" * size}}]})


def unfinished_head(size: int) -> bytes:
    return HEAD + b"".join([b"X-%d: %b\r\n" % (number, b"x" * 8000) for number in range(size // 8000)])


LITTLE = ("--max-memory-mb", "64")
PACED = ("--itl-ms", "0.0001", "--jitter", "0.5")
ATTACKS = [
    Attack("none", lambda: post(GOOD), 0),
    Attack("128 choices of 1.2 MB, unread", lambda: asking("write a lot", n=128), 20, reads=False),
    Attack("the same streamed", lambda: asking("write a lot", n=128, stream=True), 20, reads=False),
    Attack("54 MB, unread", lambda: asking("write no end"), 20, reads=False),
    Attack("54 MB streamed, unread", lambda: asking("write no end", stream=True), 20, reads=False),
    Attack("54 MB, paced with jitter", lambda: asking("write no end"), 2, reads=False, options=PACED),
    Attack("60 MB of []", lambda: post(b'{"messages":[' + b"[]," * (20 * MB) + b"[]]}"), 2),
    Attack("200,000 values in 0.6 MB", lambda: post(b'{"messages":[' + b"[]," * 199_000 + b"[]]}"), 2),
    Attack("75,000 messages", lambda: with_messages(*[{"role": "user", "content": ""}] * 75_000), 2),
    Attack("60 MB of messages", lambda: with_messages(*[{"role": "user", "content": ""}] * (2 * MB)), 2),
    Attack("a text of 60 MB", lambda: asking("x y" * (20 * MB)), 2),
    Attack("the same escaped", lambda: escaped("x y" * (3 * MB)), 2),
    Attack("an image of 45 MB", lambda: image(45 * MB), 2),
    Attack("20,000 calls, answered backwards", lambda: calls(20_000), 2),
    Attack("arguments of 18 MB", lambda: arguments("[" + "[]," * (6 * MB) + "[]]"), 2),
    Attack("arguments of 0.7 MB", lambda: arguments("[" + "[]," * 240_000 + "[]]"), 2),
    Attack("nested 5 million times", lambda: post(b"[" * (5 * MB)), 2),
    Attack("30 bodies of 60 MB, not whole", lambda: post(b" " * (60 * MB))[:-1], 30, reads=False),
    Attack("10,000 requests at once", lambda: post(GOOD) * 10_000, 4, reads=False),
    Attack("refused bodies", lambda: post(b" " * (60 * MB))[:-1], 60, reads=False, options=LITTLE, largest_mb=4),
    Attack("aborted uploads", lambda: post(b" " * (30 * MB))[:-1], 1, options=LITTLE, hangs_up=True, largest_mb=4),
    Attack(
        "long bodies, client away", lambda: asking("x y" * (5 * MB)), 4, options=LITTLE, hangs_up=True, largest_mb=15
    ),
    Attack("heads of 960 kB", lambda: unfinished_head(960_000), 1000, reads=False, options=LITTLE, largest_mb=4),
    Attack("heads of 60 kB", lambda: unfinished_head(60_000), 1000, reads=False, options=LITTLE, largest_mb=4),
    Attack(
        "heads behind a request",
        lambda: post(GOOD) + unfinished_head(60_000),
        1000,
        reads=False,
        options=LITTLE,
        largest_mb=4,
    ),
    Attack("unread pipelines", lambda: post(GOOD) * 3000, 50, reads=False, options=LITTLE, largest_mb=4),
    Attack(
        "a model's name of 4 MB",
        lambda: asking("write a lot", model="m" * (4 * MB), n=128, stream=True),
        2,
        options=LITTLE,
    ),
]


async def run(attack: Attack, port: int, seconds: float) -> dict[str, int]:
    """Attack for so long; returns how often each status was answered."""
    request = attack.make()
    end = time.monotonic() + seconds
    statuses: dict[str, int] = {}

    async def one() -> None:
        while (left := end - time.monotonic()) > 0:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                async with asyncio.timeout(max(left, 5)):
                    if not attack.reads:
                        writer.transport.pause_reading()  # type: ignore[attr-defined]
                    writer.write(request)
                    if not attack.reads:
                        await asyncio.sleep(left)
                        return
                    if attack.hangs_up:
                        await writer.drain()
                        statuses["hung up"] = statuses.get("hung up", 0) + 1
                        continue
                    status = (await reader.readline()).split()[1].decode()
                    statuses[status] = statuses.get(status, 0) + 1
            except (OSError, TimeoutError, IndexError):
                statuses["cut"] = statuses.get("cut", 0) + 1
                await asyncio.sleep(0.05)
            finally:
                writer.transport.abort()

    await asyncio.gather(*[one() for _ in range(attack.connections)])
    return statuses
