"""What one client may send to make the server slow, or large, for all others: as bytes, and how it is sent."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from tests.helpers import entry
from tests.serving import GOOD, post

MB = 1_000_000
RECORDED = [
    entry("big", "write a lot", "big " * 300_000),  # 1.2 MB
    entry("huge", "write no end", "huge " * 10_800_000),  # 54 MB
]


class Attack(NamedTuple):
    """`connections` clients that send a request again and again; those that do not read only send it once."""

    name: str
    make: Callable[[], bytes]
    connections: int
    reads: bool = True
    options: tuple[str, ...] = ()


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
                    status = (await reader.readline()).split()[1].decode()
                    statuses[status] = statuses.get(status, 0) + 1
            except (OSError, TimeoutError, IndexError):
                statuses["cut"] = statuses.get("cut", 0) + 1
                await asyncio.sleep(0.05)
            finally:
                writer.transport.abort()

    await asyncio.gather(*[one() for _ in range(attack.connections)])
    return statuses
