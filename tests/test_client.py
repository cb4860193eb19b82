import asyncio
import gzip
import ssl
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mockchat import client
from mockchat.client import MAX_ANSWER_MB, MB, explain
from mockchat.core.answer import BadAnswer

PACKERS = {"identity": bytes, "gzip": gzip.compress}


class Body:
    """A body that arrives in blocks of the given size."""

    def __init__(self, sent: bytes, at_once: int) -> None:
        self.blocks = [sent[start : start + at_once] for start in range(0, len(sent), at_once)]

    async def iter_any(self) -> AsyncIterator[bytes]:
        for block in self.blocks:
            yield block


def blocks(coding: str, body: Any) -> list[bytes]:
    async def read() -> list[bytes]:
        return [block async for block in client.decoded({"Content-Encoding": coding}, body)]

    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:  # It leaves pytest's own loop as it is.
        return runner.run(read())


def unpacked(coding: str, sent: bytes, at_once: int = 65536) -> bytes:
    return b"".join(blocks(coding, Body(sent, at_once)))


@given(st.binary(max_size=200), st.sampled_from(sorted(PACKERS)), st.integers(1, 300))
def test_a_body_is_what_it_was_however_it_is_cut(body: bytes, coding: str, at_once: int) -> None:
    sent = PACKERS[coding](body)
    assert unpacked(coding, sent, at_once) == unpacked(coding.upper(), sent, at_once) == body


def test_an_event_is_unpacked_as_soon_as_it_arrives() -> None:
    packer, body = zlib.compressobj(wbits=zlib.MAX_WBITS | 16), Body(b"", 1)
    events = [b"data: %d\n\n" % number for number in range(3)]
    body.blocks = [packer.compress(event) + packer.flush(zlib.Z_SYNC_FLUSH) for event in events] + [packer.flush()]
    assert blocks("gzip", body) == [*events, b""]


def test_a_body_without_bytes_is_not_cut_off() -> None:
    assert unpacked("gzip", b"") == unpacked("", b"") == b""


@given(st.binary(max_size=50), st.data())
def test_what_is_cut_off_is_told(body: bytes, data: st.DataObject) -> None:
    packed = gzip.compress(body)
    with pytest.raises(aiohttp.ClientPayloadError):
        unpacked("gzip", packed[: data.draw(st.integers(1, len(packed) - 1))], 7)


@pytest.mark.parametrize(
    "sent",
    [
        b"hello",
        gzip.compress(b"hello", mtime=0)[:-6] + b"oh dear",
        gzip.compress(b"a", mtime=0) + b"rest",
        gzip.compress(b"", mtime=0) * 1_000_000,
    ],
    ids=["not packed", "wrong check", "more", "members"],
)
@pytest.mark.parametrize("at_once", [1, 65536])
def test_what_is_damaged_is_told(sent: bytes, at_once: int) -> None:
    with pytest.raises(aiohttp.ClientPayloadError):
        unpacked("gzip", sent[: 100 * at_once], at_once)


@pytest.mark.parametrize("coding", ["br", "zstd", "deflate", "gzip, gzip", "é"])
def test_another_coding_is_told(coding: str) -> None:
    with pytest.raises(BadAnswer, match="which was not asked for"):
        unpacked(coding, b"")


@pytest.mark.parametrize("coding", PACKERS)
def test_beyond_the_limit_nothing_is_unpacked(coding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_ANSWER_MB", 1)
    pack = PACKERS[coding]
    assert unpacked(coding, pack(bytes(MB))) == bytes(MB)
    bomb = pack(bytes(20 * MB))
    with in_memory_of(mb=4), pytest.raises(BadAnswer, match="larger than 1 MB"):
        unpacked(coding, bomb, len(bomb))


def test_of_ten_gigabytes_only_the_limit_is_unpacked() -> None:
    packer = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    begun, again = [packer.compress(bytes(20 * MB)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2)]
    bomb = begun + again * 499
    assert len(bomb) < 11 * MB
    with in_memory_of(mb=2.3 * MAX_ANSWER_MB), pytest.raises(BadAnswer, match=f"larger than {MAX_ANSWER_MB} MB"):
        unpacked("gzip", bomb)


@contextmanager
def in_memory_of(mb: float) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < mb * MB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("flags", "more"),
    [
        (b"\x08", b"name"),  # Of a file, in the header, which ends with a zero.
        (b"\x00", b"\x00\x00\x00\xff\xff"),  # Stored blocks without bytes.
    ],
)
def test_what_unpacks_to_nothing_is_given_up(flags: bytes, more: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The packed bytes count too."""
    monkeypatch.setattr(client, "MAX_ANSWER_MB", 1)
    with pytest.raises(BadAnswer, match="larger than 1 MB"):
        unpacked("gzip", b"\x1f\x8b\x08" + flags + bytes(6) + more * 300_000)


# Why there was none


KEY: Any = type("Key", (), {"host": "h", "port": 1, "ssl": True})()


class Refused(aiohttp.ClientConnectorError):
    def __init__(self, error: OSError) -> None:
        super().__init__(KEY, error)


class NoTls(aiohttp.ClientConnectorSSLError):
    def __init__(self, error: OSError) -> None:
        super().__init__(KEY, error)


@pytest.mark.parametrize(
    ("error", "cause", "detail"),
    [
        (TimeoutError("none within 3 s"), "no answer in time", "none within 3 s"),
        (Refused(ConnectionRefusedError(111, "refused")), "no connection", "to h:1 (refused): does a server listen"),
        (Refused(OSError(113, "No route to host")), "no connection", "to h:1 (No route to host)"),
        (NoTls(ssl.SSLError(1, "[SSL] record layer failure")), "no connection", "if it serves http, try http://"),
        (aiohttp.ServerDisconnectedError(), "closed connection", "check its log"),
        (aiohttp.ClientOSError(104, "reset"), "closed connection", "check its log"),
        (ConnectionResetError(), "closed connection", "check its log"),
        (aiohttp.ClientPayloadError(), "cut-off answer", "check the server and any proxy"),
        (aiohttp.http.HttpProcessingError(message="a\nb"), "no HTTP, or no connection", r"'0, message:\n  a\n  b'"),
        (ValueError(), "no HTTP, or no connection", "ValueError"),
    ],
)
def test_why_there_was_no_answer(error: Exception, cause: str, detail: str) -> None:
    explained = explain(error)
    assert explained[0] == cause
    assert detail in explained[1]
    assert explained[1].isprintable()
