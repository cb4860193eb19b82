"""What the mock costs against the least that the same machine can do, the two in turn: see README.md here.

Prints a row for each measure, with the medians of all rounds.
"""

import argparse
import json
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import aiohttp

from mockchat.core.program import ProgramError
from tests.perf import inputs, peers
from tests.perf.inputs import FIRST, FULL, MANY, PROMPTED, PROMPTED_FEW, TOOLS
from tests.perf.measures import (
    FOR_LOAD,
    FOR_SERVERS,
    Row,
    against_bare,
    firsts,
    holds,
    lasts,
    of_starts,
    pin,
    recordings,
    requester_cpu,
    requester_rate,
    shared,
    streams,
)

BARE, CLIENT = "bare aiohttp application", "bare aiohttp client"
LOADED, WITH_PROMPT = (FULL, FIRST, MANY), (PROMPTED, PROMPTED_FEW, 250)
ROWS = [
    Row("server: real bodies", BARE, "us CPU", 0.62, partial(against_bare, made=inputs.real)),
    Row("server: one-line request", BARE, "us CPU", 0.43, partial(against_bare, made=inputs.one_line)),
    Row("server: 50,142 conversations loaded", "1,000 loaded", "us CPU", 1.15, partial(recordings, *LOADED)),
    Row("server: 3,000 with one 64 KB prompt", "60 of these", "us CPU", 1.15, partial(recordings, *WITH_PROMPT)),
    Row("server: json.dumps spelling", BARE, "us CPU", 1.5, partial(against_bare, made=inputs.by_json_dumps)),
    Row("server: LangChain's spelling", BARE, "us CPU", 1.5, partial(against_bare, made=inputs.by_langchain)),
    Row("server: an unusual spelling", BARE, "us CPU", 1.5, partial(against_bare, made=inputs.by_nobody)),
    Row("server: tool loops", BARE, "us CPU", 1.7, partial(against_bare, made=inputs.by_an_agent, recorded=TOOLS)),
    Row("server: miss and diagnosis", BARE, "us CPU", 1.7, partial(against_bare, made=inputs.misses, status=b"404")),
    Row("server: streamed, unpaced", "plain", "us CPU", 1.7, streams),
    Row("server: longest hold under attack", "50 ms", "ms CPU", 1, holds),
    Row("200 streams' first pieces: median", "200 ms asked for", "ms", 1.05, partial(firsts, which="p50")),
    Row("200 streams' first pieces: 95 %", "200 ms asked for", "ms", 1.4, partial(firsts, which="p95")),
    Row("200 streams at 10 ms: last end", "2,700 ms", "ms", 1.05, partial(lasts, count=200, ttft_ms=200, itl_ms=10)),
    Row("2,000 streams at 50 ms: last end", "12,500 ms", "ms", 1.05, partial(lasts, count=2000, ttft_ms=0, itl_ms=50)),
    Row("start to ready", "one ujson.loads", "s CPU", 1.1, partial(of_starts, which=0)),
    Row("memory when ready", "file's size", "MB", 1.06, partial(of_starts, which=1)),
    Row("memory at its peak", "file's size", "MB", 1.06, partial(of_starts, which=2)),
    Row("memory of gunicorn with two workers", "server.py", "MB", 1.1, shared),
    Row("requester: 2 in flight", CLIENT, "us CPU", 0.45, partial(requester_cpu, in_flight=2)),
    Row("requester: 32 in flight", CLIENT, "us CPU", 0.6, partial(requester_cpu, in_flight=32)),
    Row("requester: 1,000 in flight", "32 in flight", "/s", 0.9, requester_rate, at_least=True),
]


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
    parser.add_argument("--original", type=Path, metavar="FOLDER", help="where the original's two programs are built")
    parser.add_argument("--peer", metavar="URL", help="another server, which runs: its base URL")
    options = parser.parse_args()
    rows = [*ROWS, *(peers.of_original(options.original) if options.original else ())]
    rows += peers.of_server(options.peer) if options.peer else []
    rows = [row for row in rows if any(word.lower() in row.what.lower() for word in options.only)]
    if not rows or options.rounds < 1:
        parser.error("no row or no round; the rows are " + "; ".join(row.what for row in ROWS))
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    pin(FOR_LOAD)
    try:
        inputs.make_files()
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
    except (OSError, RuntimeError, ValueError, StopIteration, subprocess.SubprocessError, ProgramError) as error:
        raise SystemExit(f"perf.py: {error or type(error).__name__}") from None


if __name__ == "__main__":
    main()
