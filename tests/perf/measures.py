"""How each row of the table is measured: ours and the other in turn, round by round."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from itertools import islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import uvloop

from mockchat.requester.plan import places, questions
from tests.perf import inputs
from tests.perf.inputs import FEW, FULL, HERE, PIECES, SOME, WORDS, bodies, recorded
from tests.perf.load import Server, children, cpu_ns, http, memory, output, pss, running
from tests.programs import running_server
from tests.soak.attacks import ATTACKS
from tests.soak.soak import under

MOCK = (HERE.parents[1] / "server.py", "--port", 0, "--data")
CORES = sorted(os.sched_getaffinity(0))
FOR_LOAD, FOR_SERVERS = CORES[0], CORES[-1]
CONNECTIONS = 16
ALLOWED_HOLD = 50.0  # ms
ASKED = 4000  # Requests of the requester in a round.

Pairs = list[tuple[Any, Any]]  # Of each round: ours, theirs.


class Row(NamedTuple):
    """A measure: of what, against what, in which unit; the ratio that is the goal; and how, given the rounds."""

    what: str
    against: str
    unit: str
    goal: float
    measure: Callable[[int], Pairs]
    at_least: bool = False

    def result(self, rounds: int) -> dict[str, Any]:
        """Measure it: the medians of ours and theirs, and of the rounds' ratios, with their extremes."""
        pairs = self.measure(rounds)
        ours, theirs = (median(column) for column in zip(*pairs, strict=True))
        ratios = [mine / other for mine, other in pairs]
        found = {"what": self.what, "against": self.against, "unit": self.unit, "ours": ours, "theirs": theirs}
        found |= {"ratio": median(ratios), "min": min(ratios), "max": max(ratios)}
        found["goal"] = f"{'>=' if self.at_least else '<='} {self.goal:.2f}"
        return found | {"met": found["ratio"] >= self.goal if self.at_least else found["ratio"] <= self.goal}


def pin(core: int) -> None:
    """Run on this core, as will all processes started from now on."""
    os.sched_setaffinity(0, {core})


@contextmanager
def serving(*command: object) -> Iterator[Server]:
    """A Python program that serves, on the servers' core."""
    pin(FOR_SERVERS)
    with running(sys.executable, *map(str, command)) as server:
        pin(FOR_LOAD)
        yield server


def answer(server: Server, requests: list[bytes], status: bytes) -> dict[str, Any]:
    """Have a server answer; every answer must have this status."""
    answered = uvloop.run(server.answer(requests, CONNECTIONS))
    if answered["statuses"] != {status}:
        found = b", ".join(sorted(answered["statuses"])).decode()
        raise RuntimeError(f"answers with status {found} where all should have {status.decode()}")
    return answered


def cpu_us(server: Server, requests: list[bytes], status: bytes = b"200") -> float:
    return float(answer(server, requests, status)["cpu_us"])


def in_turn(rounds: int, ours: Callable[[], Any], theirs: Callable[[], Any]) -> Pairs:
    """Measure the two in turn, after one pass of each to warm up; each goes first in every other round."""
    pairs = []
    for number in range(rounds + 1):
        if number % 2:
            pairs.append((ours(), theirs()))
        else:
            pairs.append((theirs(), ours())[::-1])
    return pairs[1:]


def against_bare(rounds: int, made: Callable[[], list[bytes]], status: bytes = b"200", recorded: Path = SOME) -> Pairs:
    """The server's CPU, and that of a bare application whose replies have the same size."""
    requests = [http(body) for body in made()]
    with serving(*MOCK, recorded) as server:
        size = answer(server, requests, status)["size"]
        with serving(HERE / "bare.py", "server", size) as bare:
            return in_turn(rounds, partial(cpu_us, server, requests, status), partial(cpu_us, bare, requests))


def recordings(many_in: Path, few_in: Path, count: int, rounds: int) -> Pairs:
    """The server's CPU with many recordings, and with few of them."""
    requests = [http(body) for body in bodies(count, few_in)]
    with serving(*MOCK, many_in) as many, serving(*MOCK, few_in) as few:
        return in_turn(rounds, partial(cpu_us, many, requests), partial(cpu_us, few, requests))


def streams(rounds: int) -> Pairs:
    """The server's CPU for streams, and for whole answers."""
    streamed, plain = ([http(body) for body in bodies(FEW, stream=stream)] for stream in (True, False))
    with serving(*MOCK, SOME) as server:
        return in_turn(rounds, partial(cpu_us, server, streamed), partial(cpu_us, server, plain))


@cache
def starts(rounds: int) -> Pairs:
    """A server's CPU (s) until ready, its memory then and at its peak (MB); parsing's CPU, the file's size twice."""
    size = FULL.stat().st_size / 1e6

    def start() -> tuple[float, float, float]:
        with serving(*MOCK, FULL) as server:
            now, peak = (memory(server.pid, name) / 1e6 for name in ("VmRSS", "VmHWM"))
            return cpu_ns(server.pid) / 1e9, now, peak

    def parse() -> tuple[float, float, float]:
        pin(FOR_SERVERS)
        found = json.loads(output("bare.py", "parse", FULL))
        pin(FOR_LOAD)
        return found["cpu_s"], size, size

    return in_turn(rounds, start, parse)


def of_starts(rounds: int, which: int) -> Pairs:
    return [(ours[which], theirs[which]) for ours, theirs in starts(rounds)]


def shared(rounds: int) -> Pairs:
    """Memory (PSS, MB) of gunicorn's processes, and of a server, after 100,000 requests; once, for it does not vary."""
    requests = [http(body) for body in inputs.longest()]

    def by_each(servers: list[Server]) -> None:
        for server in servers:
            for other in servers:
                os.kill(other.pid, signal.SIGCONT if other is server else signal.SIGSTOP)
            answer(server, requests, b"200")
        for server in servers:
            os.kill(server.pid, signal.SIGCONT)

    pin(FOR_SERVERS)
    with running_server("--data", str(FULL), workers=2, more=("--timeout", "0")) as (url, master):
        pin(FOR_LOAD)
        while len(workers := children(master.pid)) < 2:
            time.sleep(0.1)
        by_each([Server(pid, urlsplit(url).port or 0) for pid in workers])
        ours = sum(map(pss, [master.pid, *workers])) / 1e6
    with serving(*MOCK, FULL) as server:
        by_each([server, server])
        return [(ours, pss(server.pid) / 1e6)]


def requester(server: Server, in_flight: int, asked: int = ASKED) -> dict[str, float]:
    """The requester's engine: CPU in us a request, requests a second."""
    found = json.loads(output("engine.py", f"http://127.0.0.1:{server.port}/v1", SOME, asked, in_flight))
    return {"cpu_us": found["cpu_s"] / asked * 1e6, "rate": asked / found["elapsed_s"]}


def requester_cpu(rounds: int, in_flight: int) -> Pairs:
    """The requester's CPU, and that of a bare client that sends the same."""
    conversations, index = recorded(SOME)
    asked = islice(questions(places(conversations), index, None, False), ASKED)
    given = b"\n".join([question.body for question in asked])
    with serving(*MOCK, SOME) as server:
        url = f"http://127.0.0.1:{server.port}/v1/chat/completions"

        def bare() -> float:
            found = json.loads(output("bare.py", "client", url, ASKED, in_flight, given=given))
            return float(found["cpu_s"]) / ASKED * 1e6

        return in_turn(rounds, lambda: requester(server, in_flight)["cpu_us"], bare)


def requester_rate(rounds: int) -> Pairs:
    """The requester's requests a second with many in flight, and with few.

    Over so many requests that the thousand connections made in the beginning do not count for much.
    """
    with serving(*MOCK, SOME) as server:
        rates = [lambda in_flight=n: requester(server, in_flight, 5 * ASKED - 50)["rate"] for n in (1000, 32)]
        return in_turn(rounds, *rates)


@cache
def paced(rounds: int, count: int, ttft_ms: int, itl_ms: int) -> list[dict[str, float]]:
    """So many streams that begin at once, in milliseconds: their first pieces and the last of all their ends."""
    request = http(b'{"messages":[],"stream":true}')
    found = []
    with serving(*MOCK, WORDS, "--ttft-ms", ttft_ms, "--itl-ms", itl_ms) as server:
        for _ in range(rounds):
            firsts, ends = zip(*uvloop.run(server.stream(request, count)), strict=True)
            p95 = sorted(firsts)[count * 95 // 100]
            found.append({"p50": 1000 * median(firsts), "p95": 1000 * p95, "last": 1000 * max(ends)})
    return found


def firsts(rounds: int, which: str) -> Pairs:
    return [(found[which], 200) for found in paced(rounds, 200, 200, 10)]


def lasts(rounds: int, count: int, ttft_ms: int, itl_ms: int) -> Pairs:
    return [(found["last"], ttft_ms + itl_ms * (PIECES - 1)) for found in paced(rounds, count, ttft_ms, itl_ms)]


def holds(rounds: int) -> Pairs:
    """The longest hold of the loop under each attack of make soak, in ms of CPU; theirs is what is allowed."""
    with TemporaryDirectory() as folder:
        found = [under(attack, 1, Path(folder), asking=False) for attack in ATTACKS for _ in range(rounds)]
    return [(max(attacked.hold_ms for attacked in found), ALLOWED_HOLD)]
