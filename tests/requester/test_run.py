import asyncio
import gzip
import shutil
import ssl
import subprocess
import time
import tracemalloc
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from multidict import CIMultiDict

from mockchat import client
from mockchat.core import dataset
from mockchat.core.index import ResponseIndex
from mockchat.requester import exchange
from mockchat.requester.plan import Load, Question, questions
from mockchat.requester.result import Result
from mockchat.requester.run import replay
from mockchat.requester.verify import ERROR, MISMATCHED, NOT_FOUND
from tests.helpers import SAMPLE, WriteDataset, conversation, entry, index_of
from tests.programs import environment, run_requester
from tests.requester.common import CONVERSATIONS, INDEX, Answerer, answering, asked
from tests.requester.test_verify import LAST, completion, delta, events
from tests.serving import MockServer

# A run


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    return await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))


def always(answer: bytes) -> Answerer:
    async def answerer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(answer)
        await writer.drain()

    return answerer


UNKNOWN = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


async def run(
    base_url: str, stopped: asyncio.Event | None = None, *, headers: Mapping[str, str] | None = None, **options: Any
) -> Result:
    def progress(requests: int, failed: int) -> bool:
        return stopped is not None and stopped.is_set()

    async with asyncio.timeout(20):
        load = Load(**{"concurrency": 2, "keep_going": True, **options})
        return await replay(CONVERSATIONS, INDEX, base_url, load, headers=headers, progress=progress)


@pytest.mark.parametrize(("concurrency", "stream"), [(1, False), (3, True), (100, False), (10**9, False)])
async def test_the_sample_is_verified(concurrency: int, stream: bool) -> None:
    conversations = dataset.load(SAMPLE).conversations
    index = ResponseIndex(conversations)
    server = MockServer(index)
    await server.start_server()
    for slash in ("", "/"):
        url = f"http://127.0.0.1:{server.port}/v1{slash}"
        load = Load(concurrency=concurrency, stream=stream)
        result = await replay(conversations, index, url, load, model="gpt-4o", headers={"Authorization": "Bearer key"})
        assert (result.passed, result.failures, result.interrupted) == (169, [], False)
        assert len(result.latencies) == result.requests == 169
        assert 0 < max(result.latencies) < result.elapsed
        assert len(result.first_tokens) == (169 if stream else 0)
    await server.close()


async def test_no_more_than_allowed_are_in_flight() -> None:
    flying = most = 0

    async def answerer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal flying, most
        await read_request(reader)
        flying += 1
        most = max(most, flying)
        await asyncio.sleep(0.01)
        flying -= 1
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    async with answering(answerer) as url:
        result = await run(url, concurrency=5, limit=40, duration=60)
    assert result.counts == {NOT_FOUND: 40}
    assert most == result.most_in_flight == 5
    assert 0 < result.mean_in_flight <= 5


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        (b"", "closed connection: "),
        (b"garbage\r\n\r\n", "no HTTP, or"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "cut-off answer"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 'no HTTP, or no connection: "400'),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<html>", "not JSON"),
        (
            b"HTTP/1.1 429 Slow\r\nRetry-After: 7\r\nContent-Length: 4\r\nConnection: close\r\n\r\nslow",
            "status 429: slow",
        ),
        (b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", "status 302"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc", "cut-off answer"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", "no HTTP, or"),
    ],
)
async def test_a_broken_server_is_an_error_each(answer: bytes, detail: str) -> None:
    async with answering(always(answer)) as url:
        result = await run(url)
    assert result.passed == 0
    assert result.counts == {ERROR: 4}
    assert result.requests == 4
    problems = [f"{failure.problem.cause}: {failure.problem.detail}" for failure in result.failures]
    assert all(detail in problem and problem.isprintable() for problem in problems), problems


def zipped(body: bytes, coding: bytes = b"gzip", cut: int = 0) -> bytes:
    packed = gzip.compress(body)
    packed = packed[: len(packed) - cut]
    return b"HTTP/1.1 200 OK\r\nContent-Encoding: %b\r\nContent-Length: %d\r\n\r\n%b" % (coding, len(packed), packed)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_compressed_answer_is_unpacked_to_its_end(stream: bool) -> None:
    right = events(delta("hello"), LAST, "[DONE]") if stream else completion("hello")
    async with answering(always(zipped(right))) as url:
        result = await run(url, stream=stream)
    assert (result.passed, set(result.counts)) == (2, {MISMATCHED})  # Not every reply is this one.
    for cut in (1, 4, 8):
        async with answering(always(zipped(right, cut=cut))) as url:
            result = await run(url, stream=stream)
        assert {failure.problem.cause for failure in result.failures} == {"cut-off answer"}
        assert result.passed == 0
    async with answering(always(zipped(right, b"br"))) as url:
        result = await run(url, stream=stream)
    assert "coding 'br', which was not asked for" in result.failures[0].problem.cause


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_is_too_large_is_given_up_in_little_memory(
    stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for room in (client, exchange):
        monkeypatch.setattr(room, "MAX_ANSWER_MB", 1)

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not writer.transport.is_closing():
            writer.write(b" " * 65536)
            await writer.drain()

    bomb = zipped(b" " * 60_000_000)
    long = b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n" + b" " * 9_000_000
    known_head = in_turn(http(200, completion("hello")), *[long] * 4)
    for answerer in (endless, always(bomb), always(long), known_head):
        async with answering(answerer) as url:
            tracemalloc.start()
            result = await run(url, stream=stream)
            _, most = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        told = {failure.problem.cause for failure in result.failures}
        assert "an answer larger than 1 MB" in told
        assert most < 40_000_000  # The answers that were made ready here are a part of it.


async def test_nobody_there() -> None:
    async with answering(always(b"")) as url:
        pass
    result = await run(url)
    assert result.counts == {ERROR: 4}
    assert result.failures[0].problem.cause == "no connection"
    assert all(0 < failure.latency < result.elapsed for failure in result.failures)
    assert "does a server listen there?" in result.failures[0].problem.detail


async def test_a_server_that_never_answers() -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with answering(hang) as url:
        result = await run(url, timeout=0.1)
        hurried = await run(url, timeout=0.000001)
    assert [failure.problem.cause for failure in (*result.failures, *hurried.failures)] == ["no answer in time"] * 8
    assert "none within 0.1 s" in result.failures[0].problem.detail
    assert len(result.latencies) == 0
    assert min(failure.latency for failure in result.failures) >= 0.1
    assert not result.interrupted


@pytest.mark.parametrize(
    "options", [{"headers": {"X": "a\nb"}}, {"base_url": "http://a..b/v1"}, {"base_url": "http://" + "x" * 300}]
)
async def test_a_request_that_can_not_be_sent_is_an_error(options: dict[str, Any]) -> None:
    result = await run(**{"base_url": "http://127.0.0.1:1/v1", **options})
    assert (result.passed, result.counts) == (0, {ERROR: 4})
    assert all(failure.problem.detail.isprintable() for failure in result.failures)


async def test_the_times_of_tokens_are_those_of_texts() -> None:
    parts = [
        events(delta("")),
        events(delta("hel"))[:10],
        events(delta("hel"))[10:],
        events(delta("lo"), LAST, "[DONE]"),
    ]

    async def answerer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.1)

    async with answering(answerer) as url:
        result = await run(url, concurrency=1, stream=True, limit=1)
    assert result.passed == 1
    assert 0.2 <= result.first_tokens[0] <= result.latencies[0]
    assert len(result.gaps) == 1
    assert 0 <= result.gaps[0] <= result.latencies[0] - result.first_tokens[0]
    assert result.latencies[0] >= 0.3


async def test_it_stops_at_the_first_failure() -> None:
    async with answering(always(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n")) as url:
        result = await run(url, keep_going=False)
    assert len(result.failures) == result.requests == 1
    assert (*result.failures[0][:2], result.failures[0].problem.kind) == ("one", 1, ERROR)


async def test_wrong_answers_are_counted_by_kind_and_place() -> None:
    index = index_of(conversation("one", "hi", "hallo", "how are you?", "fine"), conversation("x", "hi", "good day"))
    server = MockServer(index)
    await server.start_server()
    result = await run(f"http://127.0.0.1:{server.port}/v1")
    await server.close()
    wrong = {(*failure[:2], failure.problem.kind) for failure in result.failures}
    # Which of the two replies to the same words is given, and so is wrong, is a matter of chance.
    assert wrong - {("one", 1, MISMATCHED), ("two", 1, MISMATCHED)} == {("one", 3, NOT_FOUND), ("start", 0, NOT_FOUND)}
    assert result.passed + len(result.failures) == 4


async def test_stopped_it_returns_what_was_done() -> None:
    answered = 0

    async def answerer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal answered
        await read_request(reader)
        answered += 1
        if answered <= 2:
            body = completion("hello" if answered == 1 else "fine")
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        else:
            await reader.read()

    async with answering(answerer) as url:
        stopped = asyncio.Event()
        running = asyncio.create_task(run(url, stopped, concurrency=1))
        while answered < 3:
            await asyncio.sleep(0.01)
        stopped.set()
        result = await running
    assert (result.passed, result.failures, result.interrupted) == (2, [], True)


async def test_it_may_be_stopped_before_it_begins() -> None:
    stopped = asyncio.Event()
    stopped.set()
    result = await run("http://127.0.0.1:1/v1", stopped)
    assert (result.passed, result.failures, result.interrupted) == (0, [], True)


async def test_progress_is_told_while_it_runs() -> None:
    seen: list[tuple[int, int]] = []

    def progress(requests: int, failed: int) -> bool:
        seen.append((requests, failed))
        return False

    async def answerer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number in range(4):
            await read_request(reader)
            while number == 2 and (2, 2) not in seen:
                await asyncio.sleep(0.01)
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    async with answering(answerer) as url, asyncio.timeout(20):
        load = Load(concurrency=1, keep_going=True)
        await replay(CONVERSATIONS, INDEX, url, load, progress=progress)
    assert seen == sorted(seen)
    assert (2, 2) in seen


async def test_a_rate_spreads_the_requests() -> None:
    server = MockServer(INDEX)
    await server.start_server()
    result = await run(f"http://127.0.0.1:{server.port}/v1", rate=20)
    await server.close()
    assert result.passed == 4
    assert result.elapsed >= 0.15
    assert result.sending >= 0.2
    assert min(result.latencies) > 0
    async with answering(always(UNKNOWN)) as url:
        result = await run(url, rate=20)
    assert [round(failure.at, 9) for failure in sorted(result.failures, key=lambda failure: failure.at)] == [
        0.0,
        0.05,
        0.1,
        0.15,
    ]


async def test_at_a_rate_processes_take_turns_from_a_common_moment() -> None:
    begun = time.perf_counter() - 10
    load = Load(concurrency=1, rate=0.5, processes=2, keep_going=True)
    async with answering(always(UNKNOWN)) as url:
        result = await replay(CONVERSATIONS, INDEX, url, load, process=1, begin=lambda: begun)
    assert [round(failure.at, 9) for failure in result.failures] == [2.0, 6.0]
    assert result.elapsed >= 10


async def test_at_a_rate_a_stalled_server_can_not_hide() -> None:
    """One answer takes long: those that were due in the meantime count their waiting, though they were sent later."""
    answered = 0

    async def answerer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal answered
        while True:
            await read_request(reader)
            answered += 1
            if answered == 1:
                await asyncio.sleep(0.5)
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    async with answering(answerer) as url:
        result = await run(url, concurrency=1, rate=20)
    assert result.counts == {NOT_FOUND: 4}
    assert all(failure.latency >= 0.5 - failure.at for failure in result.failures)
    assert result.sending >= 0.5  # The last was sent when the stall was over, and the rate was not kept.


async def test_a_rate_that_can_not_be_had_ends_in_time() -> None:
    server = MockServer(INDEX)
    await server.start_server()
    result = await run(f"http://127.0.0.1:{server.port}/v1", rate=1_000_000, duration=0.3)
    await server.close()
    assert 0.3 == result.sending <= result.elapsed < 5
    assert 0 < result.passed < 100_000


async def test_a_duration_is_filled_round_and_round() -> None:
    server = MockServer(INDEX)
    await server.start_server()
    result = await run(f"http://127.0.0.1:{server.port}/v1", duration=1)
    await server.close()
    assert result.passed > 4
    assert not result.failures
    assert result.sending == 1 <= result.elapsed


@pytest.mark.parametrize("options", [{"duration": 0.1}, {"keep_going": False}])
async def test_a_low_rate_keeps_nobody_waiting_for_the_end(options: dict[str, Any]) -> None:
    async with answering(always(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n")) as url:
        result = await run(url, rate=0.05, **options)
    assert result.requests == 1
    assert result.elapsed < 10


async def test_requests_that_fail_at_once_do_not_keep_it_from_being_stopped() -> None:
    async with asyncio.timeout(20):
        stopped = asyncio.Event()
        running = asyncio.create_task(
            run("http://127.0.0.1:1/v1", stopped, duration=3600, headers={"X": "a\nb"}, concurrency=1)
        )
        await asyncio.sleep(0.05)
        stopped.set()
        result = await running
    assert result.interrupted
    assert result.counts[ERROR] == result.requests > 0


@pytest.mark.parametrize("options", [{}, {"rate": 100}, {"stream": True}])
async def test_a_connection_is_kept_from_one_request_to_the_next(options: dict[str, Any]) -> None:
    connections = 0

    async def answerer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            await read_request(reader)
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    async with answering(answerer) as url:
        result = await run(url, concurrency=1, limit=20, duration=60, **options)
    assert result.counts == {NOT_FOUND: 20}
    assert connections == 1


async def test_a_mistake_in_making_requests_is_no_early_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> Iterator[Question]:
        yield from questions(*arguments)
        raise LookupError("oh")

    monkeypatch.setattr("mockchat.requester.run.questions", broken)
    server = MockServer(INDEX)
    await server.start_server()
    for concurrency in (1, 9):
        with pytest.raises(ExceptionGroup) as raised:
            await run(f"http://127.0.0.1:{server.port}/v1", concurrency=concurrency)
        assert [*map(repr, raised.value.exceptions)] == ["LookupError('oh')"]
    await server.close()


async def test_bytes_are_counted_and_headers_sent() -> None:
    received: list[bytes] = []

    async def answerer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.readuntil(b"\r\n\r\n"))
        body = completion("hello")
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    async with answering(answerer) as url:
        headers = CIMultiDict([("X-Team", "search"), ("x-team", "mine"), ("content-type", "text/x")])
        result = await run(url, limit=1, headers=headers)
    assert result.bytes_sent == len(asked()[0].body)
    assert result.bytes_received == len(completion("hello"))
    assert b"\r\nX-Team: search\r\n" in received[0]
    assert b"\r\nx-team: mine\r\n" in received[0]
    assert received[0].lower().count(b"content-type: ") == 1
    assert result.cpu > 0


# Retries

SOON = b"Retry-After: 0.001\r\n"
CUT_OFF = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"


def http(status: int, body: bytes = b"", headers: bytes = b"") -> bytes:
    return b"HTTP/1.1 %d X\r\nConnection: close\r\nContent-Length: %d\r\n%b\r\n%b" % (
        status,
        len(body),
        headers,
        body,
    )


def in_turn(*answers: bytes | None, received: list[bytes] | None = None) -> Answerer:
    """Each request gets the next answer, and the last one for good; None is silence."""
    waiting = list(answers)

    async def answerer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = await read_request(reader)
        if received is not None:
            received.append(body)
        answer = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        if answer is None:
            await reader.read()
        else:
            writer.write(answer)
            await writer.drain()

    return answerer


@pytest.fixture
def _no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mockchat.requester.run.FIRST_WAIT", 0.001)


@pytest.mark.usefixtures("_no_backoff")
@pytest.mark.parametrize(
    "broken", [b"", b"garbage\r\n\r\n", CUT_OFF, http(503), http(429, b"slow", SOON), http(408), http(500)]
)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_passes_is_tried_again(broken: bytes, stream: bool) -> None:
    right = events(delta("hello"), LAST, "[DONE]") if stream else completion("hello")
    received: list[bytes] = []
    async with answering(in_turn(broken, broken, http(200, right), received=received)) as url:
        result = await run(url, limit=1, retries=2, stream=stream)
    assert (result.passed, result.failures, result.attempts) == (1, [], {3: 1})
    assert received == [asked(stream=stream)[0].body] * 3
    assert len(result.latencies) == 1
    assert len(result.first_tokens) == stream


@pytest.mark.usefixtures("_no_backoff")
@pytest.mark.parametrize(
    "broken",
    [
        events(delta("hel"), {"error": {"message": "upstream gone"}}),
        events(delta("hel")) + b'event: error\ndata: {"message": "upstream gone"}\n\n',
        events(delta("hello")),
        events(delta("hello"), LAST),
        events(delta("hello"), LAST, "[DONE]")[:-1],
        b"",
    ],
)
async def test_a_stream_that_breaks_off_is_tried_again_however_that_is_told(broken: bytes) -> None:
    """A gateway ends its answer with an error event, or just ends it, where the server cuts the connection."""
    right = http(200, events(delta("hello"), LAST, "[DONE]"))
    async with answering(in_turn(http(200, broken), right)) as url:
        result = await run(url, limit=1, retries=1, stream=True)
    assert (result.passed, result.failures, result.attempts) == (1, [], {2: 1})
    async with answering(in_turn(http(200, broken))) as url:
        result = await run(url, limit=1, retries=1, stream=True)
    assert result.failures[0].problem.cause.startswith("a stream that broke off")
    assert result.failures[0].problem.detail.endswith("(after 2 attempts)")


@pytest.mark.usefixtures("_no_backoff")
async def test_an_attempt_that_takes_too_long_is_tried_again() -> None:
    async with answering(in_turn(None, http(200, completion("hello")))) as url:
        result = await run(url, limit=1, retries=50, timeout=0.1)
    assert (result.passed, result.failures, result.attempts) == (1, [], {2: 1})


@pytest.mark.usefixtures("_no_backoff")
@pytest.mark.parametrize(
    ("answer", "kind", "detail"),
    [
        (http(503, b"busy", b"Retry-After: 99\r\n"), ERROR, "busy (after 3 attempts)"),
        (CUT_OFF, ERROR, "(after 3 attempts)"),
        (http(200, completion("hallo"), b"Retry-After: 0.001\r\n"), MISMATCHED, "recorded 'hello' (U+0065)"),
        (http(404, b"nothing", b"Retry-After: 0.001\r\n"), NOT_FOUND, "nothing"),
        (http(400, b"bad"), ERROR, "bad"),
    ],
)
async def test_in_the_end_it_is_a_failure_and_a_wrong_answer_is_one_at_once(
    answer: bytes, kind: str, detail: str
) -> None:
    received: list[bytes] = []
    async with answering(in_turn(answer, received=received)) as url:
        result = await run(url, limit=1, retries=2)
    attempts = 3 if "attempts" in detail else 1
    assert len(received) == attempts
    assert (result.passed, result.counts) == (0, {kind: 1})
    assert result.attempts == {attempts: 1}
    assert result.failures[0].problem.detail.endswith(detail)


async def test_a_wrong_answer_after_a_failed_attempt_says_that_it_was_the_second() -> None:
    async with answering(in_turn(http(500, headers=SOON), http(404, b"nothing"))) as url:
        result = await run(url, limit=1, retries=2)
    assert result.failures[0].problem == (NOT_FOUND, "status 404", "nothing (after 2 attempts)")


async def test_who_waits_keeps_his_place_and_is_not_timed_out() -> None:
    """The time limit is an attempt's; latency counts from the first of them."""
    received: list[bytes] = []
    refused = http(503, b"busy", b"Retry-After: 0.5\r\n")
    async with answering(in_turn(refused, http(200, completion("hello")), received=received)) as url:
        result = await run(url, concurrency=1, limit=2, retries=1, timeout=0.3)
    assert (result.passed, result.attempts) == (1, {1: 1, 2: 1})
    first, second = (question.body for question in asked()[:2])
    assert received == [first, first, second]
    assert result.latencies[0] >= 0.49
    assert result.bytes_sent == sum(map(len, received))


@pytest.mark.parametrize("ended_by", ["failure", "stopping"])
async def test_who_waits_does_not_hold_up_the_end(ended_by: str) -> None:
    received: list[bytes] = []
    answers = (http(503, headers=b"Retry-After: 50\r\n"), http(404 if ended_by == "failure" else 503))
    async with answering(in_turn(*answers, received=received)) as url:
        stopped = asyncio.Event()
        running = asyncio.create_task(run(url, stopped, concurrency=2, retries=9, keep_going=False))
        while len(received) < 2:
            await asyncio.sleep(0.01)
        if ended_by == "stopping":
            stopped.set()
        result = await running
    assert result.interrupted == (ended_by == "stopping")
    assert len(result.failures) == result.requests == (ended_by == "failure")
    assert result.elapsed < 10


@pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl to make a certificate with")
async def test_https_with_a_certificate_that_is_trusted_or_not(write_dataset: WriteDataset, tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test", "-days", "2"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(certificate), "-keyout", str(key)]
    subprocess.run(command, check=True, capture_output=True)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    body = completion("hello")
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    path = write_dataset([entry("a_0", "hi", "hello")])
    async with answering(always(head + body), tls) as url:
        arguments = ("--base-url", url, "--data", str(path))
        trusting = environment(SSL_CERT_FILE=str(certificate))
        trusted = await asyncio.to_thread(run_requester, *arguments, env=trusting)
        refused = await asyncio.to_thread(run_requester, *arguments, env=environment())
    assert trusted.returncode == 0, trusted.stdout
    assert refused.returncode == 1
    assert "certificate verify failed" in " ".join(refused.stdout.split())
