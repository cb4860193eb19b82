"""Other people's servers beside ours: the program that mockchat began as, and any server that is running.

The original (https://github.com/SimonCadge/simon_cadge_klu_ai_be_exercise) is not in this repository: who wants to see
the two side by side builds its programs `server` and `debug_requester` and names the folder that they are in. For the
full file it takes some 10 GB of memory, and so does its requester.
"""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import psutil

from tests.perf import inputs
from tests.perf.inputs import FULL, HERE, SOME
from tests.perf.load import TIMEOUT, Server, http, memory
from tests.perf.measures import CORES, FOR_LOAD, FOR_SERVERS, MOCK, Pairs, Row, cpu_us, in_turn, pin, serving

ORIGINAL_PORT = 8000
ORIGINAL_FILE = "ShareGPT_V3_unfiltered_cleaned_split.json"
ORIGINAL_ENV = {"ROCKET_LIMITS": '{json="64MiB"}', "ROCKET_LOG_LEVEL": "off", "ROCKET_PORT": str(ORIGINAL_PORT)}
MODEL = b',"model":"gpt-4o-mini"}'  # Other servers insist on one.
MOST_REPLAYS = 3  # Of the full file, whatever the number of rounds.


@contextmanager
def original(folder: Path, file: Path) -> Iterator[tuple[Server, Path, float]]:
    """The original's server, once it serves `file`: also the folder in which it runs, and after how many seconds."""
    with TemporaryDirectory() as place:
        (Path(place) / "data").mkdir()
        (Path(place) / "data" / ORIGINAL_FILE).symlink_to(file)
        pin(FOR_SERVERS)
        started = time.perf_counter()
        with subprocess.Popen(
            [folder.resolve() / "server"], cwd=place, env=os.environ | ORIGINAL_ENV, stdout=subprocess.DEVNULL
        ) as process:
            pin(FOR_LOAD)
            try:
                while not is_open(ORIGINAL_PORT):
                    if process.poll() is not None or time.perf_counter() - started > TIMEOUT:
                        raise RuntimeError("the original's server does not serve")
                    time.sleep(0.05)
                yield Server(process.pid, ORIGINAL_PORT), Path(place), time.perf_counter() - started
            finally:
                process.kill()


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def cpu_of_original(rounds: int, folder: Path, made: Callable[[], list[bytes]]) -> Pairs:
    """The server's CPU, and the original's, for the same requests."""
    requests = [http(body) for body in made()]
    with serving(*MOCK, SOME) as server, original(folder, SOME) as (other, _, _):
        return in_turn(rounds, partial(cpu_us, server, requests), partial(cpu_us, other, requests))


@cache
def full_scale(rounds: int, folder: Path) -> dict[str, Any]:
    """Both servers with the full file: ready after (s), memory (MB), and the replays in turn (s), on all cores."""
    with ExitStack() as both:
        started = time.perf_counter()
        server = both.enter_context(serving(*MOCK, FULL))
        ready = time.perf_counter() - started
        other, place, other_ready = both.enter_context(original(folder, FULL))
        for pid in (server.pid, other.pid):
            os.sched_setaffinity(pid, CORES)
        os.sched_setaffinity(0, CORES)
        found: dict[str, Any] = {"ready": (ready, other_ready)}
        found["memory"] = memory(server.pid, "VmRSS") / 1e6, memory(other.pid, "VmRSS") / 1e6
        theirs = partial(replay_of_original, folder, place)
        replays = [(replay(server, None), replay(server, 16), theirs()) for _ in range(min(rounds, MOST_REPLAYS))]
        found["default"] = [(ours, others) for ours, _, others in replays]
        found["in_flight"] = [(ours, others) for _, ours, others in replays]
        pin(FOR_LOAD)
        return found


def replay(server: Server, in_flight: int | None) -> float:
    """The seconds that our requester takes for the full file, once it is loaded."""
    command = [sys.executable, HERE.parents[1] / "requester.py", "--data", FULL, "--json", "/dev/stdout", "--quiet"]
    command += ["--base-url", f"http://127.0.0.1:{server.port}/v1"]
    command += ["--concurrency", str(in_flight)] if in_flight else []
    told = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=True).stdout
    return float(json.loads(told[told.index("{") :])["elapsed_s"])


def replay_of_original(folder: Path, place: Path) -> float:
    """The seconds that the original's requester says it took."""
    command = [folder.resolve() / "debug_requester"]
    told = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=TIMEOUT, check=True)
    taken = re.search(r"Processed \d+ requests in ([\d.]+) seconds", told.stdout + told.stderr)
    if taken is None:
        raise RuntimeError("the original's requester does not say how long it took")
    return float(taken[1])


def of_original(folder: Path) -> list[Row]:
    """The rows that compare with the original, its programs being in this folder."""

    def once(which: str, rounds: int) -> Pairs:
        return [full_scale(rounds, folder)[which]]

    def replays(which: str, rounds: int) -> Pairs:
        pairs: Pairs = full_scale(rounds, folder)[which]
        return pairs

    real, short = (partial(cpu_of_original, folder=folder, made=made) for made in (inputs.real, inputs.one_line))
    return [
        Row("original, server: real bodies", "the original", "us CPU", 0.5, real),
        Row("original, server: one-line request", "the original", "us CPU", 0.9, short),
        Row("original, server: ready after", "the original", "s", 0.3, partial(once, "ready")),
        Row("original, server: memory", "the original", "MB", 0.1, partial(once, "memory")),
        Row("original, replay: as each comes", "the original", "s", 0.75, partial(replays, "default")),
        Row("original, replay: ours 16 in flight", "the original", "s", 0.45, partial(replays, "in_flight")),
    ]


def of_server(base_url: str) -> list[Row]:
    """The rows that compare with a server that is running, whatever it answers with status 200."""
    port = urlsplit(base_url).port or 80
    sockets = [socket for socket in psutil.net_connections("tcp") if socket.status == "LISTEN"]
    pid = next((socket.pid for socket in sockets if socket.laddr[1] == port), None)
    if pid is None:
        raise RuntimeError(f"no process of this user listens on port {port}")
    peer = Server(pid, port)

    def cpu(rounds: int, made: Callable[[], list[bytes]]) -> Pairs:
        requests = [http(body[:-1] + MODEL) for body in made()]
        with serving(*MOCK, SOME) as server:
            return in_turn(rounds, partial(cpu_us, server, requests), partial(cpu_us, peer, requests))

    return [
        Row("peer, server: real bodies", base_url, "us CPU", 1, partial(cpu, made=inputs.real)),
        Row("peer, server: one-line request", base_url, "us CPU", 1.15, partial(cpu, made=inputs.one_line)),
    ]
