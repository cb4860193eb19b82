"""What the mock costs against the least that the same machine can do, the two in turn: see README.md here.

Prints a row for each measure, with the medians of all rounds.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, NoReturn
from urllib.parse import urlsplit

import aiohttp
import uvloop

from mockchat.core import dataset
from mockchat.core.dataset import Conversation, DatasetError
from mockchat.core.index import ResponseIndex
from mockchat.requester.plan import places, questions
from tests.perf.load import Server, children, cpu_ns, http, memory, pss, running
from tests.programs import running_server

HERE = Path(__file__).parent
MOCK = (HERE.parents[1] / "server.py", "--port", 0, "--data")
FILES = HERE.parents[1] / "build" / "perf"
FULL, SOME, FIRST = FILES / "full.json", FILES / "3000.json", FILES / "first-1000.json"
WORDS = FILES / "words.json"
PIECES = 251  # Of the one reply there.
CORES = sorted(os.sched_getaffinity(0))
FOR_LOAD, FOR_SERVERS = CORES[0], CORES[-1]

CONNECTIONS = 16
MANY, FEW, SHORT = 3000, 1500, 20000  # Requests in a round: real bodies, those that take long, one line.
ASKED = 4000  # Requests of the requester in a round.
TIMEOUT = 600  # Seconds, for each program but the servers.

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


# Processes


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


def output(program: str, *arguments: object, given: bytes = b"") -> bytes:
    """What a program of this directory prints."""
    command = [sys.executable, str(HERE / program), *map(str, arguments)]
    done = subprocess.run(command, input=given, capture_output=True, timeout=TIMEOUT, check=False)
    if done.returncode:
        why = done.stderr.decode(errors="replace").strip().rpartition("\n")[2][:300]
        raise RuntimeError(f"{program} ended with status {done.returncode}: {why}")
    return done.stdout


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


# Files and requests


def make_files() -> None:
    """Make those that are not there yet."""
    FILES.mkdir(parents=True, exist_ok=True)
    for path, options in ((FULL, ()), (SOME, ("--conversations", 3000))):
        if not path.exists():
            print(f"Making {path}", file=sys.stderr)
            output("synthesize.py", path, *options)
    if not FIRST.exists():
        part = FIRST.with_suffix(".part")
        part.write_text(json.dumps(first_entries(1000), ensure_ascii=False), encoding="utf-8")
        part.replace(FIRST)
    if not WORDS.exists():
        reply = " ".join(["word"] * PIECES)
        WORDS.write_text(json.dumps([{"messages": [{"role": "assistant", "content": reply}]}]), encoding="utf-8")


def first_entries(conversations: int) -> list[Any]:
    """The entries of the first conversations of the full file, where the pieces of each stand together."""
    with FULL.open("rb") as file:
        text = file.read(100_000 * conversations).decode(errors="ignore")
    decoder, position = json.JSONDecoder(), 1
    entries: list[Any] = []
    names: set[str] = set()
    while True:
        entry, position = decoder.raw_decode(text, position)
        names.add(entry["id"].rpartition("_")[0])
        if len(names) > conversations:
            return entries
        entries.append(entry)
        position += len(", ")


@cache
def recorded(path: Path) -> tuple[list[Conversation], ResponseIndex]:
    loaded = dataset.load(path)
    return loaded.conversations, ResponseIndex(loaded.conversations)


def bodies(count: int, path: Path = SOME, stream: bool = False) -> list[bytes]:
    """Bodies as the requester sends them, chosen at random but the same each time; no history is empty."""
    conversations, index = recorded(path)
    chosen = random.Random(1).sample([place for place in places(conversations, index) if place.number], count)
    return [question.body for question in questions(iter(chosen), index, None, stream)]


def longest() -> list[bytes]:
    """The last request of each conversation of the full file: together they walk along all recordings."""
    conversations, index = recorded(FULL)
    last = {id(place.conversation): place for place in places(conversations, index) if place.number}
    return [question.body for question in questions(iter(last.values()), index, None, False)]


def one_line() -> list[bytes]:
    """A short body many times: one to which a single reply is right."""
    conversations, index = recorded(SOME)
    asked = questions(places(conversations, index), index, None, False)
    short = (found for found in asked if found.place.number and len(found.body) < 120)
    return [next(found.body for found in short if len(found.expected) == 1)] * SHORT


def compact(request: dict[str, Any], **options: Any) -> bytes:
    return json.dumps(request, ensure_ascii=False, separators=(",", ":"), **options).encode()


def by_json_dumps() -> list[bytes]:
    return [json.dumps(json.loads(body)).encode() for body in bodies(FEW)]


def by_langchain() -> list[bytes]:
    # Sorted, `content` comes before `role`, as there.
    return [compact(json.loads(body), sort_keys=True) for body in bodies(FEW)]


def unrecorded() -> list[bytes]:
    """Bodies whose last message differs from the recorded one in its last character."""
    requests = [json.loads(body) for body in bodies(FEW)]
    for request in requests:
        last = request["messages"][-1]
        last["content"] = last["content"][:-1] + ("!" if last["content"].endswith("~") else "~")
    return [compact(request) for request in requests]


# Measures


def against_bare(rounds: int, made: Callable[[], list[bytes]], status: bytes = b"200") -> Pairs:
    """The server's CPU, and that of a bare application whose replies have the same size."""
    requests = [http(body) for body in made()]
    with serving(*MOCK, SOME) as server:
        size = answer(server, requests, status)["size"]
        with serving(HERE / "bare.py", "server", size) as bare:
            return in_turn(rounds, partial(cpu_us, server, requests, status), partial(cpu_us, bare, requests))


def recordings(rounds: int) -> Pairs:
    """The server's CPU with many recordings, and with few."""
    requests = [http(body) for body in bodies(MANY, FIRST)]
    with serving(*MOCK, FULL) as many, serving(*MOCK, FIRST) as few:
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
    requests = [http(body) for body in longest()]

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
    asked = islice(questions(places(conversations, index), index, None, False), ASKED)
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


BARE, CLIENT = "bare aiohttp application", "bare aiohttp client"
ROWS = [
    Row("server: real bodies", BARE, "us CPU", 1.15, partial(against_bare, made=partial(bodies, MANY))),
    Row("server: one-line request", BARE, "us CPU", 0.7, partial(against_bare, made=one_line)),
    Row("server: 50,142 conversations loaded", "1,000 loaded", "us CPU", 1.15, recordings),
    Row("server: json.dumps spelling", BARE, "us CPU", 3.5, partial(against_bare, made=by_json_dumps)),
    Row("server: LangChain's spelling", BARE, "us CPU", 3.5, partial(against_bare, made=by_langchain)),
    Row("server: miss and diagnosis", BARE, "us CPU", 3.5, partial(against_bare, made=unrecorded, status=b"404")),
    Row("server: streamed, unpaced", "plain", "us CPU", 2, streams),
    Row("200 streams' first pieces: median", "200 ms asked for", "ms", 1.05, partial(firsts, which="p50")),
    Row("200 streams' first pieces: 95 %", "200 ms asked for", "ms", 1.4, partial(firsts, which="p95")),
    Row("200 streams at 10 ms: last end", "2,700 ms", "ms", 1.05, partial(lasts, count=200, ttft_ms=200, itl_ms=10)),
    Row("2,000 streams at 50 ms: last end", "12,500 ms", "ms", 1.05, partial(lasts, count=2000, ttft_ms=0, itl_ms=50)),
    Row("start to ready", "one ujson.loads", "s CPU", 1.8, partial(of_starts, which=0)),
    Row("memory when ready", "file's size", "MB", 1.15, partial(of_starts, which=1)),
    Row("memory at its peak", "file's size", "MB", 1.2, partial(of_starts, which=2)),
    Row("memory of gunicorn with two workers", "server.py", "MB", 1.2, shared),
    Row("requester: 2 in flight", CLIENT, "us CPU", 1.25, partial(requester_cpu, in_flight=2)),
    Row("requester: 32 in flight", CLIENT, "us CPU", 1.25, partial(requester_cpu, in_flight=32)),
    Row("requester: 1,000 in flight", "32 in flight", "/s", 0.9, requester_rate, at_least=True),
]


# The command line


def show(*columns: str) -> None:
    print("{:<36}{:<26}{:>12}{:>12}  {:<22}{:<9}{}".format(*columns), flush=True)


def measure(row: Row, rounds: int) -> dict[str, Any]:
    print(f"Measuring {row.what}", file=sys.stderr, flush=True)
    found = row.result(rounds)
    digits = {"s CPU": 2, "us CPU": 1}.get(row.unit, 0)
    both = [f"{found[name]:,.{digits}f} {row.unit.split()[0]}" for name in ("ours", "theirs")]
    ratio = "{ratio:.2f} ({min:.2f} to {max:.2f})".format(**found)
    show(row.what, row.against, *both, ratio, found["goal"], "yes" if found["met"] else "NO")
    return found


def end(signal_number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + signal_number)  # All processes end with the blocks that started them.


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="(default %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows as JSON")
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORD", help="the rows with one of these in `what`")
    options = parser.parse_args()
    rows = [row for row in ROWS if any(word.lower() in row.what.lower() for word in options.only)]
    if not rows or options.rounds < 1:
        parser.error("no row or no round; the rows are " + "; ".join(row.what for row in ROWS))
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    pin(FOR_LOAD)
    try:
        make_files()
        print(
            f"Python {sys.version.split()[0]}, aiohttp {aiohttp.__version__}; {options.rounds} rounds, medians; ",
            end="",
        )
        print(f"servers on core {FOR_SERVERS}, load on core {FOR_LOAD}\n")
        show("what", "against", "ours", "theirs", "ratio (min to max)", "goal", "met")
        found = [measure(row, options.rounds) for row in rows]
        if options.json:
            options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except (OSError, RuntimeError, ValueError, StopIteration, subprocess.SubprocessError, DatasetError) as error:
        raise SystemExit(f"perf.py: {error or type(error).__name__}") from None


if __name__ == "__main__":
    main()
