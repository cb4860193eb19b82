"""The real server, as its worst users treat it; what each does to the protocol alone is in test_connection.py."""

import asyncio
import gzip
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.helpers import SAMPLE, entry, request_body
from tests.programs import run_requester, running_server
from tests.serving import HEAD, PATIENCE, content, post

BIG = "big " * 300_000  # As a stream some 50 MB.
GOOD = request_body(("user", "hi there"))
ASK_BIG = request_body(("user", "write a lot"))
STREAMED_BIG = request_body(("user", "write a lot"), stream=True)
BOMB = gzip.compress(bytes(1_000_000)) * 300  # 300 KB that hold 300 MB.


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """The sample's, and a reply of 1.2 MB."""
    path = tmp_path / "recordings.json"
    entries = [entry("one", "hi there", "hello"), entry("big", "write a lot", BIG)]
    path.write_text(json.dumps(entries + json.loads(SAMPLE.read_bytes())))
    return path


@pytest.fixture
def descriptors() -> Iterator[int]:
    """As many connections as the system allows, of which this process may open this many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def port_of(base_url: str) -> int:
    port = aiohttp.client.URL(base_url).port
    assert port
    return port


def memory(process: subprocess.Popen[str], which: str) -> int:
    """`VmRSS` is what the process takes, `VmHWM` its peak, in MB."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith(which):
            return int(line.split()[1]) // 1024
    raise AssertionError(f"no {which}")


@asynccontextmanager
async def connection(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1000)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def never_read(port: int, request: bytes, seconds: float) -> None:
    async with connection(port) as (_, writer):
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(request)
        await asyncio.sleep(seconds)


async def send_slowly(port: int, start: bytes, seconds: float) -> None:
    async with connection(port) as (_, writer):
        writer.write(start)
        for _ in range(int(seconds / 0.1)):
            writer.write(b"x")
            await asyncio.sleep(0.1)


async def send_whole(port: int, request: bytes, status: bytes) -> None:
    async with connection(port) as (reader, writer):
        writer.write(request)
        assert (await reader.readline()).split()[1] == status


async def reset(port: int, request: bytes, reads: int) -> None:
    async with connection(port) as (reader, writer):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.write(request)
        await asyncio.sleep(0.01)
        if reads:
            await reader.read(reads)


async def be_idle(port: int, seconds: float) -> None:
    async with connection(port):
        await asyncio.sleep(seconds)


async def ask_properly(base_url: str, seconds: float) -> int:
    """Ask as a proper client does; returns how many right answers there were."""
    end, answered = time.monotonic() + seconds, 0
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < end:
            async with session.post(f"{base_url}/chat/completions", data=GOOD) as response:
                assert content(await response.read()) == "hello"
            answered += 1
    return answered


async def attack(port: int, seconds: float) -> None:
    """All attacks at once, for so long; `make soak` has each for longer."""
    too_large = 2_000_000
    attacks = [
        *[never_read(port, post(STREAMED_BIG), seconds) for _ in range(60)],
        *[never_read(port, post(ASK_BIG) * 20, seconds) for _ in range(10)],
        *[send_slowly(port, start, seconds) for start in (HEAD, post(GOOD + b" " * 9999)[:-9999], b"POST /")],
        send_whole(port, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"400"),
        send_whole(port, HEAD + b"X: y\r\n" * 100_000, b"400"),
        *[send_whole(port, post(BOMB, "Content-Encoding: gzip\r\n"), b"415") for _ in range(10)],
        send_whole(port, post(BOMB), b"400"),
        send_whole(port, post(b" " * too_large), b"413"),
        send_whole(port, HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % too_large + b" " * too_large, b"413"),
        send_whole(port, post(b"[" * 1_010_000), b"413"),
        *[reset(port, post(STREAMED_BIG)[:sent], 0) for sent in range(0, len(post(STREAMED_BIG)) + 1, 10)],
        *[reset(port, post(STREAMED_BIG), read) for read in (1, 1000, 1_000_000)],
        send_whole(port, post(GOOD) * 1000, b"200"),
    ]
    await asyncio.gather(*attacks)


async def test_all_attacks_at_once(recordings: Path, descriptors: int, capfd: Any) -> None:
    # No limit of time is short, or a busy machine would have the harmless run into it: each limit is tested alone.
    options = ("--data", str(recordings), "--max-body-mb", "1", "--shutdown-timeout", str(PATIENCE))
    with running_server(*options) as (base_url, process):
        await ask_properly(base_url, 0.1)
        before = memory(process, "VmRSS")
        asking = ("--base-url", base_url, "--data", str(recordings), "--duration", "2", "--rate", "100")
        proper = asyncio.create_task(asyncio.to_thread(run_requester, *asking))
        async with AsyncExitStack() as idle:
            for _ in range(min(1000, descriptors - 500)):
                await idle.enter_async_context(connection(port_of(base_url)))
            await attack(port_of(base_url), 1)
        assert (await proper).returncode == 0, (await proper).stdout
        assert memory(process, "VmHWM") - before < 100
    assert process.returncode == 0
    assert not capfd.readouterr().err


async def test_when_descriptors_run_out_it_says_so_once_and_goes_on(recordings: Path, capfd: Any) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    told = ""
    with running_server("--data", str(recordings), preexec_fn=limit) as (base_url, process):
        port = port_of(base_url)
        async with connection(port) as (reader, writer):
            for _ in range(3):
                idle = [asyncio.create_task(be_idle(port, 60)) for _ in range(100)]
                async with asyncio.timeout(PATIENCE):
                    while not told:
                        await asyncio.sleep(0.05)
                        told = capfd.readouterr().err
                await asyncio.sleep(0.3)
                writer.write(post(GOOD))
                assert (await reader.readline()).split()[1] == b"200"
                await reader.readuntil(b"}}")
                for task in idle:
                    task.cancel()
                await asyncio.gather(*idle, return_exceptions=True)
            await asyncio.sleep(0.1)
        assert await ask_properly(base_url, 0.1)
    assert process.returncode == 0
    (line,) = (told + capfd.readouterr().err).splitlines()
    assert line.startswith("All 64 file descriptors are in use: ")


async def ask_often(port: int, count: int, body: bytes = GOOD) -> None:
    """Ask so often on one connection, which gets as many answers."""
    async with connection(port) as (reader, writer):
        for _ in range(count // 100):
            writer.write(post(body) * 100)
            for _ in range(100):
                await reader.readuntil(b"x-request-id")
        async with asyncio.timeout(PATIENCE):
            await reader.readuntil(b"\r\n\r\n")


SHORT_QUEUE = """
import sys
from mockchat.server import cli, log
log._LONGEST_QUEUE = 1000
sys.exit(cli.main())
"""


@pytest.mark.parametrize(("count", "is_read"), [(4_000, True), (3_000, False)])
async def test_a_log_that_is_not_read_holds_up_nobody(recordings: Path, count: int, is_read: bool) -> None:
    """A pipe takes some 2,000 lines, this queue 1,000; the rest is dropped, which the next reader is told."""
    reading, writing = os.pipe()
    options = ("--port", "0", "--data", str(recordings), "--log")
    program = (sys.executable, "-c", SHORT_QUEUE)
    with running_server(*options, program=program, preexec_fn=lambda: os.dup2(writing, 2) and None) as (
        base_url,
        process,
    ):
        os.close(writing)
        async with asyncio.timeout(2 * PATIENCE):
            await ask_often(port_of(base_url), count)
            if is_read:
                async with connection(port_of(base_url)):  # While one is open, the log is looked after.
                    with open(reading, errors="replace", closefd=False) as file:
                        lines = []
                        while not (lines and lines[-1].startswith("Lines dropped")):
                            lines.append(await asyncio.to_thread(file.readline))
                dropped = int(lines.pop().rpartition(" ")[2].replace(",", ""))
                assert dropped > 0
                assert len(lines) + dropped == count
        process.terminate()
        assert await asyncio.to_thread(process.wait, PATIENCE) == 0
    os.close(reading)


# Stopping


async def read_all(port: int, request: bytes, begun: asyncio.Event) -> bytes:
    """An answer, to its end, and a sign when it has begun."""
    async with connection(port) as (reader, writer):
        writer.write(request)
        blocks = [await reader.read(1000)]
        begun.set()
        while block := await reader.read(1_000_000):
            blocks.append(block)
        return b"".join(blocks)


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGTERM, 2)])
async def test_what_has_begun_is_finished(recordings: Path, number: int, workers: int, capfd: Any) -> None:
    """A stream, a plain answer and a request that is on its way; and under load."""
    timeout = [f"--{'graceful' if workers else 'shutdown'}-timeout", str(PATIENCE)]
    options, more = (["--data", str(recordings)], timeout) if workers else (["--data", str(recordings), *timeout], [])
    with running_server(*options, workers=workers, more=more) as (base_url, process):
        port = port_of(base_url)
        load = asyncio.create_task(ask_properly(base_url, 60))
        begun = [asyncio.Event(), asyncio.Event()]
        reading = [
            asyncio.create_task(read_all(port, post(request), event))
            for request, event in zip((STREAMED_BIG, ASK_BIG), begun, strict=True)
        ]
        async with connection(port) as (reader, writer):
            writer.write(post(GOOD, "Expect: 100-continue\r\n")[: -len(GOOD)])
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(GOOD[:-1])
            await asyncio.gather(*[event.wait() for event in begun])
            process.send_signal(number)
            await asyncio.sleep(0.1)
            writer.write(GOOD[-1:])
            assert content((await reader.read()).split(b"\r\n\r\n")[1]) == "hello"
        stream, plain = await asyncio.gather(*reading)
        assert stream.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        assert content(plain.split(b"\r\n\r\n")[1]) == BIG
        with pytest.raises(aiohttp.ClientConnectionError):
            await load
        assert process.wait(PATIENCE) == 0
    assert not capfd.readouterr().err


@pytest.mark.parametrize("signals", [1, 2])
async def test_what_is_not_finished_in_time_is_cut(recordings: Path, signals: int, capfd: Any) -> None:
    """In time is at once, where a second signal comes."""
    timeout = "0.5" if signals == 1 else "60"
    with running_server("--data", str(recordings), "--shutdown-timeout", timeout) as (base_url, process):
        port = port_of(base_url)
        async with connection(port) as (stuck, asking), connection(port) as (idle, writer):
            asking.write(post(STREAMED_BIG))
            await stuck.readexactly(1)
            writer.write(post(GOOD))
            await idle.readuntil(b"}}")
            process.terminate()
            assert await idle.read() == b""  # It has heard the first.
            if signals == 2:
                process.terminate()
            assert await asyncio.to_thread(process.wait, PATIENCE) == 1
    assert capfd.readouterr().err == "Connections cut before they were finished: 1 (see --shutdown-timeout)\n"
