import gzip
import tracemalloc
import zlib

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mockchat.core.answer import BadAnswer
from mockchat.core.coding import MB, Decoder


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
    bomb = pack(bytes(100 * MB))
    tracemalloc.start()
    with pytest.raises(BadAnswer, match=r"larger than 1 MB"):
        Decoder(coding, max_mb=1).feed(bomb)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 4 * MB
