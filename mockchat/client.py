"""HTTP client helpers of the requester and of the server's proxy: decode bodies, explain errors. No I/O.

Content codings: https://www.rfc-editor.org/rfc/rfc9110#section-8.4.1
"""

import zlib
from typing import NamedTuple

import aiohttp

from mockchat.core.answer import BadAnswer
from mockchat.core.text import excerpt

ACCEPTED = "gzip, deflate"  # The value of `Accept-Encoding`.
MAX_ANSWER_MB = 64
MB = 1024 * 1024  # bytes

_ZLIB, _RAW_DEFLATE, _GZIP = zlib.MAX_WBITS, -zlib.MAX_WBITS, zlib.MAX_WBITS | 16
_FIRST_PIECE = 1024  # bytes


class NoAnswer(NamedTuple):
    """Why a request has no answer: `cause` groups equal failures, `detail` is for people."""

    cause: str
    detail: str


def explain(error: Exception) -> NoAnswer:
    """Why a request has no answer, and what to check."""
    match error:
        case BadAnswer():
            return NoAnswer(error.cause, error.detail)
        case TimeoutError():
            return NoAnswer("no answer in time", str(error))
        case aiohttp.ClientConnectorError():
            detail = f"to {error.host}:{error.port} ({error.strerror or error})"
            if isinstance(error, aiohttp.ClientConnectorSSLError):
                detail += ": if it serves http, try http://"
            elif isinstance(error.os_error, ConnectionRefusedError):
                detail += ": does a server listen there?"
            return NoAnswer("no connection", detail)
        case aiohttp.ServerDisconnectedError() | OSError():
            return NoAnswer("closed connection", "the server closed it before it answered: check its log")
        case aiohttp.ClientPayloadError():
            return NoAnswer("cut-off answer", "the body is incomplete or damaged: check the server and any proxy")
    return NoAnswer("no HTTP, or no connection", excerpt(str(error) or type(error).__name__))


class Decoder:
    """Decodes one body with the content coding `coding`, of at most `max_mb` megabytes, packed and unpacked."""

    def __init__(self, coding: str | None, max_mb: int = MAX_ANSWER_MB) -> None:
        self._coding = (coding or "identity").strip().lower()
        if self._coding not in ("identity", "gzip", "x-gzip", "deflate"):
            raise BadAnswer(f"an answer in the coding {self._coding!r}, which was not asked for")
        self._max_mb = max_mb
        self._left = self._packed_left = max_mb * MB
        self._unpacking: zlib._Decompress | None = None

    def feed(self, block: bytes) -> bytes:
        """Decode a block of the body.

        Raises `BadAnswer` beyond the limit, and `aiohttp.ClientPayloadError` for a damaged body.
        """
        decoded = block if self._coding == "identity" else self._unpack(block)
        self._left -= len(decoded)
        self._packed_left -= len(block)
        if self._left < 0 or self._packed_left < 0:
            raise BadAnswer(f"an answer larger than {self._max_mb} MB")
        return decoded

    def end(self) -> None:
        """Raise `aiohttp.ClientPayloadError` if the compressed body is incomplete."""
        if self._unpacking is not None and not self._unpacking.eof:
            raise aiohttp.ClientPayloadError(f"the {self._coding} body is cut off")

    def _unpack(self, block: bytes) -> bytes:
        parts = []
        room = self._left + 1
        rest = memoryview(block)
        size = _FIRST_PIECE
        try:
            while rest and room:
                if self._unpacking is None or self._unpacking.eof:  # A gzip body may have several members.
                    self._unpacking = zlib.decompressobj(self._window(rest[0]))
                    size = _FIRST_PIECE
                piece = rest[:size]
                size *= 2  # zlib copies what follows a member: of short ones, that is a short piece.
                part = self._unpacking.decompress(piece, room)
                parts.append(part)
                room -= len(part)
                unread = len(self._unpacking.unused_data or self._unpacking.unconsumed_tail)
                rest = rest[len(piece) - unread :]
        except zlib.error as error:
            raise aiohttp.ClientPayloadError(f"the {self._coding} body is damaged: {error}") from None
        return b"".join(parts)

    def _window(self, first: int) -> int:
        """The window size for zlib: many servers send raw deflate for `deflate`, without zlib's header."""
        if self._coding != "deflate":
            return _GZIP
        return _ZLIB if first & 0x0F == zlib.DEFLATED else _RAW_DEFLATE
