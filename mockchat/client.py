"""HTTP client helpers of the requester and of the server's proxy: decode bodies, explain errors."""

import zlib
from collections.abc import AsyncIterator, Mapping

import aiohttp

from mockchat.core.answer import BadAnswer
from mockchat.core.text import excerpt

ACCEPTED = "gzip"  # The value of `Accept-Encoding`.
MAX_ANSWER_MB = 64
MB = 1024 * 1024  # bytes


def explain(error: Exception) -> tuple[str, str]:
    """Why a request has no answer: the cause, by which equal failures are grouped, and a detail for people."""
    match error:
        case BadAnswer():
            return error.cause, error.detail
        case TimeoutError():
            return "no answer in time", str(error)
        case aiohttp.ClientConnectorError():
            detail = f"to {error.host}:{error.port} ({error.strerror or error})"
            if isinstance(error, aiohttp.ClientConnectorSSLError):
                detail += ": if it serves http, try http://"
            elif isinstance(error.os_error, ConnectionRefusedError):
                detail += ": does a server listen there?"
            return "no connection", detail
        case aiohttp.ServerDisconnectedError() | OSError():
            return "closed connection", "the server closed it before it answered: check its log"
        case aiohttp.ClientPayloadError():
            return "cut-off answer", "the body is incomplete or damaged: check the server and any proxy"
    return "no HTTP, or no connection", excerpt(str(error) or type(error).__name__)


async def decoded(headers: Mapping[str, str], body: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Decode the blocks of a body, of at most `MAX_ANSWER_MB` (https://www.rfc-editor.org/rfc/rfc9110#section-8.4.1).

    aiohttp's own decoding takes a gzip body that is cut off for a whole one. Raises `BadAnswer` beyond the limit and
    for a coding that was not asked for, and `aiohttp.ClientPayloadError` for a damaged body.
    """
    coding = (headers.get("Content-Encoding") or "identity").lower()
    if coding not in ("identity", "gzip", "x-gzip"):
        raise BadAnswer(f"an answer in the coding {coding!r}, which was not asked for")
    unpacking = None
    room = MAX_ANSWER_MB * MB
    async for sent in body.iter_any():
        block = sent
        if coding != "identity":
            unpacking = unpacking or zlib.decompressobj(zlib.MAX_WBITS | 16)
            try:
                block = unpacking.decompress(sent, room + 1)
            except zlib.error:
                raise aiohttp.ClientPayloadError from None
            if unpacking.unused_data:  # Another member, or what is no part of the body.
                raise aiohttp.ClientPayloadError
        room -= max(len(block), len(sent))  # Some bytes unpack to nothing.
        if room < 0:
            raise BadAnswer(f"an answer larger than {MAX_ANSWER_MB} MB")
        yield block
    if unpacking is not None and not unpacking.eof:
        raise aiohttp.ClientPayloadError
