import gzip
import ssl
import tracemalloc
import zlib
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mockchat.client import MB, Decoder, explain
from mockchat.core.answer import BadAnswer


def raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


def two_members(body: bytes) -> bytes:
    return gzip.compress(body[: len(body) // 2]) + gzip.compress(body[len(body) // 2 :])


PACKERS = {
    "identity": [bytes],
    "gzip": [gzip.compress, two_members],
    "deflate": [zlib.compress, raw_deflate],
}
KINDS = [(coding, pack) for coding, packers in PACKERS.items() for pack in packers]


def decoded(coding: str, sent: bytes, at_once: int) -> bytes:
    decoder = Decoder(coding)
    body = b"".join([decoder.feed(sent[start : start + at_once]) for start in range(0, len(sent), at_once)])
    decoder.end()
    return body


@given(st.binary(max_size=200), st.sampled_from(KINDS), st.integers(1, 300))
def test_a_body_is_what_it_was_however_it_is_cut(body: bytes, kind: tuple[str, type[bytes]], at_once: int) -> None:
    coding, pack = kind
    assert decoded(coding, pack(body), at_once) == body
    assert decoded(coding.upper(), pack(body), at_once) == body


@given(st.binary(max_size=50), st.sampled_from([kind for kind in KINDS if kind[1] is not bytes]), st.data())
def test_what_is_cut_off_is_told(body: bytes, kind: tuple[str, type[bytes]], data: st.DataObject) -> None:
    coding, pack = kind
    packed = pack(body)
    size = data.draw(st.integers(1, len(packed) - 1))
    if pack is two_members and size == len(gzip.compress(body[: len(body) // 2])):
        return  # It ends where a body may end.
    with pytest.raises(aiohttp.ClientPayloadError, match="cut off"):
        decoded(coding, packed[:size], 7)


@pytest.mark.parametrize(
    "sent", [b"hello", gzip.compress(b"hello", mtime=0)[:-6] + b"oh dear", gzip.compress(b"a", mtime=0) + b"rest"]
)
def test_what_is_damaged_is_told(sent: bytes) -> None:
    with pytest.raises(aiohttp.ClientPayloadError, match="the gzip body is damaged: "):
        decoded("gzip", sent, 1000)


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "é"])
def test_another_coding_is_told(coding: str) -> None:
    with pytest.raises(BadAnswer, match="which was not asked for"):
        Decoder(coding)


@pytest.mark.parametrize("coding", PACKERS)
def test_beyond_the_limit_nothing_is_unpacked(coding: str) -> None:
    pack = PACKERS[coding][0]
    decoder = Decoder(coding, max_mb=1)
    assert decoder.feed(pack(bytes(MB))) == bytes(MB)
    bomb = pack(bytes(20 * MB))
    tracemalloc.start()
    with pytest.raises(BadAnswer, match="larger than 1 MB"):
        Decoder(coding, max_mb=1).feed(bomb)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 4 * MB


@pytest.mark.parametrize(
    ("coding", "first", "more"),
    [
        ("gzip", b"\x1f\x8b\x08\x08" + bytes(6), b"name"),  # Of a file, in the header, which ends with a zero.
        ("deflate", b"\x78\x9c", b"\x00\x00\x00\xff\xff"),  # Stored blocks without bytes.
    ],
)
def test_what_unpacks_to_nothing_is_given_up(coding: str, first: bytes, more: bytes) -> None:
    """The packed bytes count too."""
    decoder = Decoder(coding, max_mb=1)
    block = more * (200_000 // len(more))
    assert decoder.feed(first + block) == b""
    with pytest.raises(BadAnswer, match="larger than 1 MB"):
        for _ in range(10):
            decoder.feed(block)


@pytest.mark.parametrize(
    ("coding", "member"),
    [
        ("deflate", b"\x03\x00"),
        ("deflate", zlib.compress(b"")),
        ("gzip", gzip.compress(b"")),
        ("gzip", gzip.compress(b"a")),
    ],
    ids=["raw", "zlib", "empty", "gzip"],  # A name of gzip's bytes would have the time in it.
)
@pytest.mark.parametrize("at_once", [1, 7, 10**6])
def test_members_without_end_are_given_up(coding: str, member: bytes, at_once: int) -> None:
    assert decoded(coding, member * 1000, at_once) in (b"", b"a" * 1000)
    with pytest.raises(BadAnswer, match="of more than 1,000 compressed members"):
        decoded(coding, member * 1001, at_once)


def test_short_members_between_long_ones() -> None:
    long = bytes(range(256)) * 400
    bodies = [b"", b"a", long, b"", b"", long[:1500], b"z"]
    packed = b"".join([gzip.compress(body, 0, mtime=0) for body in bodies])
    for at_once in (1, 1023, 1024, 1025, len(packed)):
        assert decoded("gzip", packed, at_once) == b"".join(bodies)


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
    told = explain(error)
    assert told.cause == cause
    assert detail in told.detail
    assert told.detail.isprintable()
