"""The bytes of an answer as they come: unpacked where they are compressed, and no more of them than a limit. No I/O.

Content codings: https://www.rfc-editor.org/rfc/rfc9110#section-8.4.1. What a small body would unpack to is never in
memory beyond the limit.
"""

import zlib

import aiohttp

from mockchat.core.answer import BadAnswer

ACCEPTED = "gzip, deflate"  # As a client says it in `Accept-Encoding`.
MAX_ANSWER_MB = 64
MB = 1024 * 1024  # bytes

_ZLIB, _RAW_DEFLATE, _GZIP = zlib.MAX_WBITS, -zlib.MAX_WBITS, zlib.MAX_WBITS | 16


class Decoder:
    """Reads the body of one answer, which has the content coding `coding` and may be `max_mb` megabytes long."""

    def __init__(self, coding: str | None, max_mb: int = MAX_ANSWER_MB) -> None:
        self._coding = (coding or "identity").strip().lower()
        if self._coding not in ("identity", "gzip", "x-gzip", "deflate"):
            raise BadAnswer(f"an answer in the coding {self._coding!r}, which was not asked for")
        self._max_mb = max_mb
        self._left = max_mb * MB
        self._unpacking: zlib._Decompress | None = None

    def feed(self, block: bytes) -> bytes:
        """What a block of the body means.

        Raises `BadAnswer` beyond the limit, and `aiohttp.ClientPayloadError` where it is damaged.
        """
        decoded = block if self._coding == "identity" else self._unpack(block)
        self._left -= len(decoded)
        if self._left < 0:
            raise BadAnswer(f"an answer larger than {self._max_mb} MB")
        return decoded

    def end(self) -> None:
        """Raise `aiohttp.ClientPayloadError` where the body is compressed, and ended before its end."""
        if self._unpacking is not None and not self._unpacking.eof:
            raise aiohttp.ClientPayloadError(f"the {self._coding} body is cut off")

    def _unpack(self, block: bytes) -> bytes:
        parts = []
        room = self._left + 1
        try:
            while block and room:
                if self._unpacking is None or self._unpacking.eof:  # A gzip body may have several members.
                    self._unpacking = zlib.decompressobj(self._window(block))
                part = self._unpacking.decompress(block, room)
                parts.append(part)
                room -= len(part)
                block = self._unpacking.unused_data or self._unpacking.unconsumed_tail
        except zlib.error as error:
            raise aiohttp.ClientPayloadError(f"the {self._coding} body is damaged: {error}") from None
        return b"".join(parts)

    def _window(self, block: bytes) -> int:
        """What zlib has to know of the form: many servers send raw deflate for `deflate`, without zlib's header."""
        if self._coding != "deflate":
            return _GZIP
        return _ZLIB if block[0] & 0x0F == zlib.DEFLATED else _RAW_DEFLATE
