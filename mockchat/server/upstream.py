"""A proxy to another server of the API: forwards what is not recorded, and records the answers.

It follows https://www.rfc-editor.org/rfc/rfc9110#name-message-forwarding. Each exchange is a task of its own, so it is
finished and recorded even when its client disconnects.
"""

import asyncio
import io
import secrets
from collections.abc import Iterator
from typing import Any

import aiohttp
import ujson
from aiohttp.log import server_logger
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from mockchat.client import MAX_ANSWER_MB, Decoder, explain
from mockchat.core import wire
from mockchat.core.answer import BLANK_LINE, BadAnswer, endpoint, error_message
from mockchat.core.entries import DatasetError
from mockchat.core.index import ResponseIndex
from mockchat.server import recorder
from mockchat.server.errors import UPSTREAM, ApiError, NotRecorded
from mockchat.server.http import CLOSE, LAST_CHUNK, Answer, AnswerWriter, HttpRequest, Part, Until, chunk
from mockchat.server.memory import Memory, too_much
from mockchat.server.record_file import RecordFile
from mockchat.server.recorder import NotRecordable

TIMEOUT = 600.0  # seconds, as in OpenAI's SDKs
_CONNECT_TIMEOUT = 10.0  # seconds
# Headers that are not forwarded: RFC 9110, section 7.6.1, and those that describe how this body was sent.
_HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer")
    + ("transfer-encoding", "upgrade", "expect", "host", "content-length", "content-encoding", "accept-encoding")
)


class _Exchange:
    """A request to the upstream, and its answer so far."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.held = 0  # Bytes received.
        self.status = 0
        self.reason = ""
        self.headers: CIMultiDict[str] = CIMultiDict()
        self.blocks: list[bytes] = []
        self.streamed = False  # True once a first block of a stream can be forwarded.
        self.over = False  # True once the exchange has ended, well or not.
        self.error: ApiError | None = ApiError(503, "The server was stopped before the upstream had answered")
        self.refusal: ApiError | None = None  # The upstream's own error, if it answered with one.
        self.news: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def count(self, size: int) -> None:
        """Account for received bytes; raises `ApiError` over the limit."""
        self.held += size
        self.memory.held += size
        if self.memory.is_full:
            raise too_much()

    def notify(self) -> None:
        """Wake what waits for more of the answer."""
        self.news.set_result(None)
        self.news = asyncio.get_running_loop().create_future()


class Upstream:
    """Forwards requests to the server at `base_url`, and records good answers in `file` and in `index`.

    `timeout` is in seconds, for the head of an answer and between its parts. A larger answer than `max_answer_mb` is an
    error.
    """

    def __init__(
        self,
        base_url: str,
        index: ResponseIndex,
        file: RecordFile,
        timeout: float = TIMEOUT,
        max_answer_mb: int = MAX_ANSWER_MB,
    ) -> None:
        self._url = URL(endpoint(base_url))
        self._index = index
        self._file = file
        self._timeout = timeout
        self._max_answer_mb = max_answer_mb
        self._session: aiohttp.ClientSession | None = None
        self._exchanges: set[asyncio.Task[None]] = set()
        self._name = f"mockchat-{secrets.token_hex(6)}"
        self.warnings: set[str] = set()  # Warnings logged.
        self.recorded = 0  # Answers recorded.

    def answer(
        self, writer: AnswerWriter, memory: Memory, request: HttpRequest, body: bytes, problem: ApiError
    ) -> "Answer | asyncio.Future[Answer]":
        """The upstream's answer to a request that can't be answered here because of `problem`.

        Failures are errors: 502, 503, 504, or 508 for a request that this very server sent.
        """
        if self._name in ",".join(request.headers.getall("Via", ())):
            looped = ApiError(508, "The upstream is this very server, or asks it: give it another base URL to ask")
            return writer.error(request, looped)
        try:
            parameters = ujson.loads(body)
        except ValueError:
            parameters = None
        history: list[dict[str, Any]] | None = None
        try:
            if not isinstance(problem, NotRecorded):
                raise NotRecordable("requests that can't be read here")
            recorder.check_request(parameters)
            history = parameters["messages"]
        except NotRecordable as reason:
            self._warn_once(f"Passed on but not recorded: {reason}")
        stream = isinstance(parameters, dict) and parameters.get("stream") is True
        exchange = _Exchange(memory)
        task = asyncio.create_task(self._ask(exchange, request, body, stream, history))
        self._exchanges.add(task)
        task.add_done_callback(self._exchanges.discard)
        # Closing the connection is the only sign of a stream that broke off.
        keep_alive = not (stream or not request.keep_alive)
        return asyncio.create_task(_answer(exchange, writer, request, keep_alive))

    async def _ask(
        self,
        exchange: _Exchange,
        request: HttpRequest,
        body: bytes,
        stream: bool,
        history: list[dict[str, Any]] | None,
    ) -> None:
        """Complete the exchange, and record its answer if it is good."""
        try:
            rest, events = await self._talk(exchange, request, body, stream)
            if exchange.status == 200:
                self._record(history, b"".join([*exchange.blocks, rest]), events)
            elif exchange.status >= 400:
                message = f"the upstream answered so: {error_message(rest)}"
                if exchange.status == 404 and not self._url.path.endswith("/v1/chat/completions"):
                    message += f" (it was asked at {self._url.path}: should its base URL end in /v1?)"
                exchange.refusal = ApiError(exchange.status, message, code=UPSTREAM)
            exchange.blocks.append(rest)
            exchange.error = None
        except ApiError as error:
            exchange.error = error
        except TimeoutError as error:
            exchange.error = ApiError(504, f"The upstream took too long: {str(error) or 'no answer'}")
        except BadAnswer as error:
            exchange.error = ApiError(502, f"The upstream sent {error}")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            problem = explain(error)
            exchange.error = ApiError(502, f"The upstream failed: {problem.cause}, {problem.detail}")
        finally:
            exchange.memory.held -= exchange.held
            exchange.over = True
            exchange.notify()

    async def _talk(self, exchange: _Exchange, request: HttpRequest, body: bytes, stream: bool) -> tuple[bytes, bool]:
        """Ask the upstream. Returns what of the answer is not in `blocks`, and whether it is an event stream."""
        headers = _end_to_end(request.headers)
        headers["Accept-Encoding"] = "identity"
        headers.add("Via", f"1.1 {self._name}")
        async with asyncio.timeout(self._timeout):
            url = URL(f"{self._url}?{request.query}", encoded=True) if request.query else self._url
            asking = self._open_session().post(url, data=io.BytesIO(body), headers=headers, allow_redirects=False)
            response = await asking
        async with response:
            if not 200 <= response.status <= 599:
                raise BadAnswer(f"an answer with the status {response.status}")
            exchange.status, exchange.reason = response.status, response.reason or ""
            exchange.headers = _end_to_end(response.headers)
            events = response.content_type == "text/event-stream"
            streamed = stream and events and response.status == 200
            decoder = Decoder(response.headers.get("Content-Encoding"), self._max_answer_mb)
            rest = bytearray()
            async for sent in response.content.iter_any():
                block = decoder.feed(sent)
                exchange.count(len(block))
                rest += block
                # Forward whole events only: an error event after half of another would be lost.
                new = max(0, len(rest) - len(block) - 3)
                if streamed and (ends := [blank.end() for blank in BLANK_LINE.finditer(rest, new)]):
                    exchange.streamed = True
                    exchange.blocks.append(bytes(rest[: ends[-1]]))
                    exchange.notify()
                    del rest[: ends[-1]]
            decoder.end()
        return bytes(rest), events

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # A kept connection may close as it is used, and a request can't be repeated.
                connector=aiohttp.TCPConnector(limit=0, force_close=True),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(sock_connect=_CONNECT_TIMEOUT, sock_read=self._timeout),
                skip_auto_headers=("Accept", "Content-Type", "User-Agent"),
            )
        return self._session

    def _record(self, history: list[dict[str, Any]] | None, answer: bytes, events: bool) -> None:
        """Record a good answer; raises `BadAnswer`."""
        try:
            completion = recorder.read_answer(answer, events)
            if history is None:
                return
            recorded = recorder.conversation(history, completion)
            sent = self._index.compared(wire.join(recorded.messages[:-1]))
            if self._is_new(sent):
                self.recorded += self._file.append(recorded)
                self._index.add(recorded)
        except NotRecordable as reason:
            if history is not None:
                self._warn_once(f"Passed on but not recorded: {reason}")
        except DatasetError as error:
            self._warn_once(f"An answer is not recorded: {error}")

    def _is_new(self, history: bytes) -> bool:
        """False if an equal question was faster."""
        return not self._index.replies(history)

    def _warn_once(self, line: str) -> None:
        """Log a warning, once."""
        if line not in self.warnings:
            self.warnings.add(line)
            server_logger.warning("%s (said once)", line)

    @property
    def busy(self) -> bool:
        """True while an exchange is running."""
        return bool(self._exchanges)

    async def close(self) -> int:
        """Cancel the running exchanges; returns their number."""
        tasks = list(self._exchanges)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()
        return len(tasks)


def _end_to_end(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """The headers that a proxy forwards, without those that aiohttp's client refuses to send."""
    named = {name.strip().lower() for name in ",".join(headers.getall("Connection", ())).split(",")}
    return CIMultiDict(
        (name, value)
        for name, value in headers.items()
        if name.lower() not in _HOP_BY_HOP | named and value.replace("\t", " ").isprintable()
    )


async def _answer(exchange: _Exchange, writer: AnswerWriter, request: HttpRequest, keep_alive: bool) -> Answer:
    """The answer of an exchange, once its first block or its error is known."""
    while not (exchange.streamed or exchange.over):
        await asyncio.wait([exchange.news])
    keep_alive = keep_alive and not writer.closing
    if exchange.streamed:
        return Answer(_streamed(exchange, request, keep_alive), keep_alive, exchange.status, id=_ID)
    if exchange.error:
        return writer.error(request, exchange.error, keep_alive=keep_alive)
    body = b"".join(exchange.blocks)
    bodiless = exchange.status in (204, 304)
    head = _head(exchange, keep_alive, None if bodiless else f"Content-Length: {len(body)}")
    return Answer((head + body,), keep_alive, exchange.status, exchange.refusal, id=_ID)


_ID = b"upstream"  # Stands for the id of a conversation that is not recorded yet.


def _streamed(exchange: _Exchange, request: HttpRequest, keep_alive: bool) -> Iterator[Part]:
    """A stream, from its beginning."""
    chunked = request.is_http_1_1
    yield _head(exchange, keep_alive, "Transfer-Encoding: chunked" if chunked else None)
    handed_on = 0
    while True:
        blocks = exchange.blocks[handed_on:]
        handed_on += len(blocks)
        if block := b"".join(blocks):
            yield chunk(block) if chunked else block
        elif not exchange.over:
            yield Until(exchange.news)
        else:
            break
    if exchange.error:
        event = b"data: %b\n\n" % exchange.error.body()
        yield chunk(event) if chunked else event
    elif chunked:
        yield LAST_CHUNK


def _head(exchange: _Exchange, keep_alive: bool, framing: str | None) -> bytes:
    lines = [f"HTTP/1.1 {exchange.status} {exchange.reason}"]
    lines += [f"{name}: {value}" for name, value in exchange.headers.items()]
    if framing:
        lines.append(framing)
    head = "\r\n".join([*lines, ""]).encode(errors="surrogateescape")
    return b"%b%b\r\n" % (head, b"" if keep_alive else CLOSE)
