"""A load that costs next to nothing: ready-made requests over raw connections, and the servers that answer them."""

import asyncio
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE, Popen, TimeoutExpired, run
from tempfile import TemporaryFile
from typing import Any
from urllib.parse import urlsplit

TIMEOUT = 600  # Seconds, for each program but the servers.
HEAD = (
    "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    "Accept: application/json\r\nAccept-Encoding: gzip, deflate\r\nUser-Agent: perf\r\nContent-Length: {}\r\n\r\n"
)


def http(body: bytes) -> bytes:
    """The whole request, with the headers that clients send."""
    return HEAD.format(len(body)).encode() + body


def cpu_ns(pid: int) -> int:
    """User and system time of a process's threads so far, in nanoseconds (proc(5), schedstat)."""
    return sum(int(task.read_text().split()[0]) for task in Path(f"/proc/{pid}/task").glob("*/schedstat"))


def memory(pid: int, name: str) -> int:
    """A figure of /proc/PID/status in bytes: `VmRSS` is the memory now, `VmHWM` its peak."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


def pss(pid: int) -> int:
    """The memory that a process takes now, its part of what it shares with others, in bytes (proc(5), smaps)."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in rollup if line.startswith("Pss:"))


def children(pid: int) -> list[int]:
    """The processes that a process's main thread has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Connection(asyncio.Protocol):
    """Sends one request after the other, each as soon as the last one is answered."""

    def __init__(self, requests: Iterator[bytes], sizes: list[int], statuses: set[bytes]) -> None:
        self.requests, self.sizes, self.statuses = requests, sizes, statuses
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        self._next()

    def _next(self) -> None:
        self.received, self.expected, self.chunked, self.end = 0, 0, False, b""
        request = next(self.requests, None)
        if request is None:
            self.transport.close()
        else:
            self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        if not self.received:
            head, _, _ = data.partition(b"\r\n\r\n")
            _, found, length = head.lower().partition(b"content-length: ")
            self.chunked = not found
            self.expected = len(head) + 4 + int(length.partition(b"\r\n")[0] or 0)
            self.body_size = self.expected - len(head) - 4
            self.statuses.add(head[9:12])
        self.received += len(data)
        self.end = self.end[-4:] + data[-5:]  # The end of a stream may come in pieces.
        if self.end.endswith(b"0\r\n\r\n") if self.chunked else self.received >= self.expected:
            self.sizes.append(self.received if self.chunked else self.body_size)
            self._next()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():  # It is, if the whole run was cancelled.
            self.done.set_result(None)


class Stream(asyncio.Protocol):
    """Sends one request when it is told to; takes down when its stream begins and ends, in seconds after that."""

    def __init__(self) -> None:
        self.first = 0.0
        self.done: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    def ask(self, request: bytes) -> None:
        self.begun = time.perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter() - self.begun
        self.first = self.first or now
        if data.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"):
            self.done.set_result(now)
            self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or RuntimeError("a stream that ended before its end"))


class Server:
    """A server's process, and what it takes to answer."""

    def __init__(self, pid: int, port: int) -> None:
        self.pid, self.port = pid, port

    async def answer(self, requests: Sequence[bytes], connections: int) -> dict[str, Any]:
        """Have it answer all requests: CPU in microseconds a request, the answers' mean size, their statuses."""
        sizes: list[int] = []
        statuses: set[bytes] = set()
        waiting = iter(requests)
        loop = asyncio.get_running_loop()
        started, clock = cpu_ns(self.pid), time.perf_counter()
        made = [
            await loop.create_connection(lambda: Connection(waiting, sizes, statuses), "127.0.0.1", self.port)
            for _ in range(connections)
        ]
        await asyncio.gather(*[connection.done for _, connection in made])
        elapsed = time.perf_counter() - clock
        cpu = (cpu_ns(self.pid) - started) / 1000
        if len(sizes) != len(requests):
            raise RuntimeError(f"{len(sizes)} answers to {len(requests)} requests")
        return {"cpu_us": cpu / len(sizes), "size": sum(sizes) // len(sizes), "statuses": statuses, "s": elapsed}

    async def stream(self, request: bytes, count: int) -> list[tuple[float, float]]:
        """Have it stream to so many clients at once: when each stream began and ended, in seconds."""
        loop = asyncio.get_running_loop()
        made = [(await loop.create_connection(Stream, "127.0.0.1", self.port))[1] for _ in range(count)]
        for stream in made:
            stream.ask(request)
        ends = await asyncio.gather(*[stream.done for stream in made])
        return [(stream.first, end) for stream, end in zip(made, ends, strict=True)]


@contextmanager
def running(*command: str | os.PathLike[str]) -> Iterator[Server]:
    """A server in a process of its own, once it has printed its URL; it ends with the block, whatever happens."""
    with TemporaryFile("w+") as errors, Popen(command, stdout=PIPE, stderr=errors, text=True) as process:
        assert process.stdout
        try:
            for line in process.stdout:
                if line.startswith("Serving "):
                    yield Server(process.pid, urlsplit(line.split()[1]).port or 0)
                    return
            errors.seek(0)
            why = errors.read().strip().rpartition("\n")[2]
            raise RuntimeError(f"{os.fspath(command[1])} ended before it served: {why or 'it does not say why'}")
        finally:
            process.terminate()
            try:
                process.wait(10)
            except TimeoutExpired:
                process.kill()


def output(program: str, *arguments: object, given: bytes = b"") -> bytes:
    """What a program of this directory prints; raises `RuntimeError` where it fails."""
    command = [sys.executable, str(Path(__file__).parent / program), *map(str, arguments)]
    done = run(command, input=given, capture_output=True, timeout=TIMEOUT, check=False)
    if done.returncode:
        why = done.stderr.decode(errors="replace").strip().rpartition("\n")[2][:300]
        raise RuntimeError(f"{program} ended with status {done.returncode}: {why}")
    return done.stdout
