import asyncio
import gzip
import re
import shutil
import ssl
import subprocess
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import HttpProcessingError
from hypothesis import given
from hypothesis import strategies as st

from mockchat.client import explain
from mockchat.core import program
from mockchat.core.answer import endpoint
from mockchat.requester.exchange import Answer, Slot
from tests.requester.common import Answerer, answering

URL = "http://mock/v1/chat/completions"


def http(head: str, body: bytes = b"", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return f"HTTP/1.1 {head}\r\nContent-Length: {size}\r\nDate: {size:05} o'clock\r\n\r\n".encode() + body


PLAIN = http("200 OK\r\nContent-Type: application/json", b'{"a": 1}')
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n"
# Whether the server closes the connection after it.
ANSWERS: dict[str, tuple[bytes, bool]] = {
    "plain": (PLAIN, False),
    "longer": (http("200 OK\r\nContent-Type: application/json", b"x" * 99), False),
    "empty": (http("200 OK\r\nContent-Type: application/json"), False),
    "other header": (http("200 OK\r\nContent-Type: text/plain\r\nX: \t", b"text"), False),
    "no ASCII": (http("200 OK\r\nContent-Type: \xe9", b"text").replace("\xe9".encode(), b"\xe9"), False),
    "other case": (PLAIN.lower().replace(b"http", b"HTTP"), False),
    "line feeds": (PLAIN.replace(b"\r\n", b"\n"), False),
    "refusal": (http("429 Slow down\r\nContent-Type: application/json\r\nRetry-After: 7", b"slow"), False),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", False),
    "chunked": (CHUNKED, False),
    "gzip": (http("200 OK\r\nContent-Encoding: gzip", gzip.compress(b"text", mtime=0)), False),
    "bad gzip": (http("200 OK\r\nContent-Encoding: gzip", b"text"), True),
    "shouted": (PLAIN.replace(b"Content-Length", b"CONTENT-LENGTH"), False),
    "keep-alive": (http("200 OK\r\nConnection: keep-alive", b"text"), False),
    "close": (http("200 OK\r\nConnection: close", b"text"), True),
    "close, shouted": (http("200 OK\r\nCONNECTION: CLOSE", b"text"), True),
    "proxy's close": (http("200 OK\r\nProxy-Connection: close", b"text"), True),
    "two lengths, shouted": (PLAIN.replace(b"Date:", b"CONTENT-LENGTH: 9\r\nDate:"), True),
    "chunked with a length": (http("200 OK\r\nTransfer-Encoding: chunked", b"1\r\na\r\n0\r\n\r\n"), True),
    "no header": (PLAIN.replace(b"Date:", b"Date"), True),
    "HTTP 1.0": (PLAIN.replace(b"1.1", b"1.0"), True),
    "to the end": (b"HTTP/1.1 200 OK\r\n\r\ntext", True),
    "announced": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + PLAIN, False),
    "other protocol": (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", True),
    "two lengths": (PLAIN.replace(b"Date:", b"Content-Length: 9\r\nDate:"), True),
    "bad length": (PLAIN.replace(b"Length: 8", b"Length: -8"), True),
    "long length": (PLAIN.replace(b"Length: 8", b"Length: 0000000000008"), False),
    "huge length": (PLAIN.replace(b"Length: 8", b"Length: 99999999999999999999999"), True),
    "cut-off body": (PLAIN[:-1], True),
    "cut-off head": (PLAIN[:40], True),
    "long header": (http("200 OK\r\nContent-Type: " + "x" * 9000, b"text"), True),
    "no HTTP": (b"SSH-2.0-OpenSSH_9.2p1\r\n", True),
    "nothing": (b"", True),
}


AT_ONCE = b"|"  # Stands between segments that come in the same turn of the loop.


class Scripted(asyncio.Transport):
    """A connection whose other end gives the next answer to each request, a segment in each turn of the loop."""

    def __init__(self, answers: deque[tuple[list[bytes], bool]], protocol: Any) -> None:
        super().__init__()
        self.answers, self.protocol = answers, protocol
        self.loop = asyncio.get_running_loop()
        self.sent, self.waiting = b"", deque[Callable[[], object]]()
        self.reading, self.closing = True, False

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def write(self, data: Any) -> None:
        self.sent += bytes(data)
        head, end, body = self.sent.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        if end and length and len(body) == int(length[1]):
            self.sent = b""
            segments, closes = self.answers.popleft()
            self.waiting += [lambda data=segment: self._receive(data) for segment in segments]
            if closes:
                self.waiting.append(self._lose)
            self.loop.call_soon(self._go_on)

    def writelines(self, parts: Iterable[Any]) -> None:
        self.write(b"".join(parts))

    def _go_on(self) -> None:
        if self.waiting and self.reading and not self.closing:
            self.waiting.popleft()()
            self.loop.call_soon(self._go_on)

    def _receive(self, segment: bytes) -> None:
        for data in segment.split(AT_ONCE):
            self.protocol.data_received(data)

    def _lose(self) -> None:
        self.closing = True
        self.protocol.connection_lost(None)

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            self.loop.call_soon(lambda: self.protocol.connection_lost(None))

    abort = close

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True
        self.loop.call_soon(self._go_on)


class ScriptedConnector(aiohttp.BaseConnector):
    def __init__(self, answers: Sequence[tuple[list[bytes], bool]]) -> None:
        super().__init__()
        self.answers = deque(answers)
        self.made = 0

    async def _create_connection(self, *_: Any) -> ResponseHandler:
        self.made += 1
        handler = ResponseHandler(asyncio.get_running_loop())
        handler.connection_made(Scripted(self.answers, handler))
        return handler


Outcome = tuple[int, bytes] | str


async def outcomes(answers: Sequence[tuple[list[bytes], bool]], by_session: bool) -> tuple[list[Outcome], int]:
    """What each request came to, errors by their cause, and the number of connections that it took."""
    connector = ScriptedConnector(answers)
    async with asyncio.timeout(20), aiohttp.ClientSession(connector=connector) as session:
        slot = Slot(session, URL)
        ended: list[Outcome] = []
        for _ in answers:
            try:
                if by_session:
                    async with session.post(URL, data=b"question", allow_redirects=False) as response:
                        ended.append((response.status, await response.read()))
                else:
                    answer = await slot.ask(b"question")
                    ended.append((answer.status, answer.body))
            except Exception as error:
                ended.append(explain(error)[0])
        slot.close()
    return ended, connector.made


async def check(answers: Sequence[tuple[list[bytes], bool]]) -> None:
    assert await outcomes(answers, by_session=False) == await outcomes(answers, by_session=True)


def cut(answer: bytes, places: Iterable[int]) -> list[bytes]:
    """The answer in segments that end at these places."""
    ends = sorted({*places, len(answer)})
    segments = [answer[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    return [segment for segment in segments if segment]


@pytest.mark.parametrize("name", ANSWERS)
async def test_an_answer_is_read_as_aiohttp_reads_it_wherever_it_is_cut(name: str) -> None:
    answer, closes = ANSWERS[name]
    plain = ([PLAIN], False)
    for place in range(len(answer) or 1) if len(answer) < 1000 else (0, 40, 1000, 9000):
        await check([plain, (cut(answer, [place]), closes), plain, plain])


@given(st.lists(st.tuples(st.sampled_from(sorted(ANSWERS)), st.lists(st.integers(0, 250), max_size=4)), max_size=5))
async def test_answers_in_any_order_and_in_any_segments(script: list[tuple[str, list[int]]]) -> None:
    await check([(cut(ANSWERS[name][0], places), ANSWERS[name][1]) for name, places in script])


@pytest.mark.parametrize("answer", [PLAIN, CHUNKED])
@pytest.mark.parametrize("more", [PLAIN, b"more", b"\r\n"])
async def test_what_is_left_over_is_no_part_of_the_next_answer(answer: bytes, more: bytes) -> None:
    """Where it comes in a segment of its own, it may come after the next request: nobody could tell then."""
    plain = ([PLAIN], False)
    for place in {*range(len(answer + more))} - {len(answer)}:
        for before in ([], [plain]):
            ended, connections = await outcomes([*before, (cut(answer + more, [place]), False), plain], False)
            assert ended[-1] == (200, b'{"a": 1}')
            assert connections == 2 or (more == b"\r\n" and connections == 1)


@pytest.mark.parametrize("known", [0, 1])
async def test_two_answers_at_once_end_the_connection(known: int) -> None:
    plain = ([PLAIN], False)
    ended, connections = await outcomes([*[plain] * known, ([PLAIN + AT_ONCE + PLAIN], False), plain], False)
    assert ended == [(200, b'{"a": 1}')] * (known + 2)
    assert connections == 2


async def test_aiohttp_reads_only_what_is_not_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake that sends all answers that way passes every other test."""
    read = 0
    original = ResponseHandler.set_response_params

    def counting(*arguments: Any, **options: Any) -> None:
        nonlocal read
        read += 1
        original(*arguments, **options)

    monkeypatch.setattr(ResponseHandler, "set_response_params", counting)
    plain = [ANSWERS[name][0] for name in ("plain", "longer", "empty", "other case", "keep-alive")]
    answers = [([answer], False) for answer in plain]
    answers += [([answer[:-1], answer[-1:]], False) for answer in (PLAIN, CHUNKED)]
    assert (await outcomes(answers, by_session=False))[1] == 1
    assert read == 1


async def test_the_parts_of_a_timed_answer_have_their_moments() -> None:
    connector = ScriptedConnector([(cut(PLAIN, [len(PLAIN) - 3]), False)] * 2)
    async with aiohttp.ClientSession(connector=connector) as session:
        slot = Slot(session, URL, timed=True)
        for _ in range(2):
            before = time.perf_counter()
            answer = await slot.ask(b"question")
            moments, blocks = zip(*answer.blocks, strict=True)
            assert blocks == (b'{"a":', b" 1}")
            assert before <= moments[0] <= moments[1] <= time.perf_counter()
        slot.close()


@pytest.mark.parametrize(
    ("positions", "moments"),
    [
        ([], []),
        ([1], [0.1]),
        ([3], [0.1]),
        ([4], [0.2]),
        ([1, 2, 3], [0.1]),
        ([1, 4, 5], [0.1, 0.2]),
        ([6, 9], [0.4]),
        ([1, 4, 9], [0.1, 0.2, 0.4]),
    ],
)
def test_when_the_bytes_up_to_a_position_had_come(positions: list[int], moments: list[float]) -> None:
    blocks = [(0.1, b"abc"), (0.2, b"de"), (0.4, b"fghi"), (0.8, b"j")]
    answer = Answer(200, {}, b"abcdefghij", blocks)
    assert answer.arrivals(positions) == moments


# With a real server, on the loop of the programs


def on_own_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @wraps(test)
    def run(*arguments: Any, **options: Any) -> None:
        program.run_on_loop(test(*arguments, **options))

    return run


@asynccontextmanager
async def asking(
    answerer: Answerer,
    host: str = "127.0.0.1",
    user: str = "",
    timed: bool = False,
    tls: tuple[ssl.SSLContext, ssl.SSLContext] | None = None,
    **options: Any,
) -> AsyncIterator[Slot]:
    """A slot that asks a server which does with each connection what it is told."""

    async with (
        asyncio.timeout(20),
        answering(answerer, tls and tls[0], host) as base_url,
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=1, ssl=tls[1] if tls else True), **options
        ) as session,
    ):
        slot = Slot(session, endpoint(base_url.replace("://", f"://{user}")), timed=timed)
        yield slot
        slot.close()


async def some_turns() -> None:
    """Let the loop notice what has happened meanwhile."""
    for _ in range(10):
        await asyncio.sleep(0.001)


async def request(reader: asyncio.StreamReader) -> tuple[list[bytes], bytes]:
    """The lines of a request's head, and its body."""
    lines = (await reader.readuntil(b"\r\n\r\n")).strip().split(b"\r\n")
    (length,) = [int(line[15:]) for line in lines if line.lower().startswith(b"content-length:")]
    return lines, await reader.readexactly(length)


@on_own_loop
async def test_a_connection_is_kept_and_one_that_was_closed_is_made_again() -> None:
    connections = 0
    left: list[int] = []

    async def answerer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        for _ in range(3):
            await request(reader)
            writer.write(PLAIN)
        left.append(connections)

    async with asking(answerer) as slot:
        for number in range(1, 10):
            assert (await slot.ask(b"x" * number)).body == b'{"a": 1}'
            while number % 3 == 0 and len(left) < number // 3:
                await asyncio.sleep(0.01)
            await some_turns()
    assert connections == 3


@on_own_loop
async def test_a_server_that_closes_a_new_connection_unannounced_is_no_error() -> None:
    """It closes it together with the answer: before the next request is written that is known."""

    async def answerer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(PLAIN)

    async with asking(answerer) as slot:
        for _ in range(5):
            assert (await slot.ask(b"x")).status == 200
            await some_turns()


@on_own_loop
async def test_what_comes_unasked_ends_the_connection() -> None:
    connections = 0
    unasked = asyncio.Event()

    async def answerer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        for _ in range(2):
            await request(reader)
            writer.write(PLAIN)
        await unasked.wait()
        writer.write(PLAIN)
        await reader.read()
        unasked.clear()

    async with asking(answerer) as slot:
        await slot.ask(b"x")
        await slot.ask(b"x")
        unasked.set()
        while unasked.is_set():
            await asyncio.sleep(0.01)
        assert (await slot.ask(b"x")).status == 200
    assert connections == 2


@on_own_loop
async def test_a_cancelled_request_ends_its_connection() -> None:
    ended = asyncio.Event()

    async def answerer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            await request(reader)
            writer.write(PLAIN)
        await request(reader)
        await reader.read()
        ended.set()

    async with asking(answerer) as slot:
        await slot.ask(b"x")
        await slot.ask(b"x")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(slot.ask(b"x"), 0.05)
        await ended.wait()


@pytest.mark.parametrize("known", [False, True])
@on_own_loop
async def test_an_answer_before_the_request_is_read_ends_the_connection(known: bool) -> None:
    connections = 0
    answered = asyncio.Event()

    async def answerer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        for _ in range(known):
            await request(reader)
            writer.write(PLAIN)
        await reader.readexactly(100)
        writer.write(PLAIN)
        await writer.drain()
        await answered.wait()

    async with asking(answerer) as slot:
        for _ in range(known):
            await slot.ask(b"x")
        for _ in range(2):
            assert (await slot.ask(b"x" * 30_000_000)).body == b'{"a": 1}'
            known = False
        answered.set()
    assert connections == 2


@on_own_loop
async def test_a_long_request_and_a_long_answer() -> None:
    long = b"x" * 20_000_000

    async def answerer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            _, body = await request(reader)
            writer.write(http("200 OK", body))

    async with asking(answerer) as slot:
        for body in (b"short", long, b"short", long):
            assert (await slot.ask(body)).body == body


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer with the head of the request."""
    while True:
        lines, _ = await request(reader)
        writer.write(http("200 OK", b"\n".join(lines)))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"user": "me:p%C3%A4ss@"},
        {"headers": [("X-Team", "a"), ("x-team", "b"), ("Accept", "x/y"), ("User-Agent", "é"), ("Host", "other")]},
    ],
)
@on_own_loop
async def test_the_headers_are_those_of_a_session(options: dict[str, Any]) -> None:
    options = {"headers": [], **options}
    options["headers"] = [("Content-Type", "application/json"), *options["headers"]]
    async with asking(echo, **options) as slot:
        ours = (await slot.ask(b"x" * 12)).body.split(b"\n")
        slot.close()
        async with slot._session.post(slot._url, data=b"x" * 12) as response:
            theirs = (await response.read()).split(b"\n")
    assert ours[0] == theirs[0]
    assert sorted(ours) == sorted(theirs)


@on_own_loop
async def test_a_user_in_the_url_comes_before_a_header() -> None:
    async with asking(echo, user="me:secret@", headers={"authorization": "Bearer key"}) as slot:
        lines = (await slot.ask(b"x")).body.split(b"\n")
    assert [line for line in lines if line.lower().startswith(b"authorization")] == [
        b"Authorization: Basic bWU6c2VjcmV0"
    ]


@on_own_loop
async def test_a_length_of_one_s_own_is_not_sent() -> None:
    async with asking(echo, headers={"content-length": "3", "Transfer-Encoding": "chunked"}) as slot:
        head = (await slot.ask(b"x" * 12)).body.lower()
    assert head.count(b"content-length: 12") == head.count(b"content-length") == 1
    assert b"transfer-encoding" not in head


@pytest.mark.parametrize(
    ("user", "headers"),
    [("", {"X": "a\nb"}), ("", {"X\r\nY": "a"}), ("%3A:secret@", {})],
)
@on_own_loop
async def test_a_request_that_can_not_be_sent(user: str, headers: dict[str, str]) -> None:
    async with asking(echo, user=user, headers=headers) as slot:
        for _ in range(2):
            with pytest.raises(ValueError) as caught:
                await slot.ask(b"x")
            assert "secret" not in str(caught.value)


@on_own_loop
async def test_errors_do_not_tell_the_password() -> None:
    async def answerer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(b"garbage\r\n\r\n")

    async with asking(answerer, user="me:secret@") as slot:
        with pytest.raises(HttpProcessingError) as caught:
            await slot.ask(b"x")
    assert "secret" not in repr(caught.value)
    assert "secret" not in str(caught.value)


@on_own_loop
async def test_ipv6() -> None:
    try:
        async with asking(echo, host="::1") as slot:
            assert b"Host: [::1]:" in (await slot.ask(b"x")).body
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")


@on_own_loop
async def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with asking(echo) as slot:
        assert (await slot.ask(b"x")).status == 200


@on_own_loop
async def test_cookies_and_redirects_are_left_alone() -> None:
    async def answerer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines, _ = await request(reader)
        assert not any(line.lower().startswith(b"cookie") for line in lines)
        writer.write(http("307 There\r\nSet-Cookie: a=b\r\nLocation: /elsewhere"))
        lines, _ = await request(reader)
        writer.write(http("200 OK", b"cookie" if any(b"a=b" in line for line in lines) else lines[0]))

    async with asking(answerer) as slot:
        first = await slot.ask(b"x")
        assert (first.status, first.headers["location"]) == (307, "/elsewhere")
        assert (await slot.ask(b"x")).body == b"POST /v1/chat/completions HTTP/1.1"


@pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl to make a certificate with")
@on_own_loop
async def test_tls(tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test", "-days", "2"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(certificate), "-keyout", str(key)]
    subprocess.run(command, check=True, capture_output=True)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context(cafile=str(certificate))
    tls[0].load_cert_chain(certificate, key)
    connections = 0

    async def answerer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            _, body = await request(reader)
            writer.write(http("200 OK", body))

    async with asking(answerer, tls=tls) as slot:
        for size in (1, 10, 3_000_000, 10):
            assert (await slot.ask(b"x" * size)).body == b"x" * size
    assert connections == 1
    async with asking(answerer, tls=(tls[0], ssl.create_default_context())) as slot:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await slot.ask(b"x")
