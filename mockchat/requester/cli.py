"""The requester's command line: read the options, replay, report."""

import asyncio
import json
import os
import re
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterable, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import fields
from functools import partial
from pathlib import Path

from multidict import CIMultiDict
from tqdm import tqdm

from mockchat.core import arguments, program, recordings
from mockchat.core.arguments import option
from mockchat.core.program import ProgramError
from mockchat.requester import processes, report
from mockchat.requester.plan import Load
from mockchat.requester.result import Result
from mockchat.requester.run import replay

IN_FLIGHT_AT_A_RATE = 1000
STANDARD_OUTPUT = Path("-")

tqdm.monitor_interval = 0  # Its monitor thread would not survive a fork.


def main(given: Sequence[str] | None = None) -> int:
    """Replay the recordings with these arguments (`None`: the process's own). Returns the exit status."""
    return program.run(lambda: _run(parse(given)))


def parse(given: Sequence[str] | None) -> Namespace:
    """Parse the arguments (`None`: the process's own). Ends the program if they are wrong."""
    options = arguments.parse(parser(), given)
    options.concurrency = options.concurrency or (IN_FLIGHT_AT_A_RATE if options.rate else os.cpu_count() or 1)
    options.shuffle = options.shuffle or options.random_seed is not None
    return options


def parser() -> ArgumentParser:
    parser = arguments.new_parser("Ask for every recorded reply and verify every answer.")
    arguments.add_recordings(parser)
    parser.add_argument("--ignore", **arguments.IGNORE)
    parser.add_argument("--match", **arguments.MATCH)

    add = parser.add_argument_group("the server").add_argument
    base_url, key = "http://127.0.0.1:8000/v1", os.environ.get("OPENAI_API_KEY") or None
    add("--base-url", **option(arguments.base_url, "URL", "of the API (default %(default)s)", default=base_url))
    # Some gateways refuse requests without a model.
    add("--model", **option(str, "NAME", "the model to ask for (default %(default)s)", default="mockchat"))
    add("--api-key", **option(arguments.api_key, "KEY", "sent as bearer token (default: OPENAI_API_KEY)", default=key))
    add("--header", **option(_header, "'K: V'", "send this header; repeatable", action="append", default=[]))

    add = parser.add_argument_group("the load (default: everything once, in order, at full speed)").add_argument
    count, seconds = arguments.positive_whole_number, arguments.positive_number
    in_flight = f"requests in flight at most (default: CPUs; with --rate {IN_FLIGHT_AT_A_RATE:,})"
    add("--concurrency", **option(count, "N", in_flight))
    add("--rate", **option(arguments.positive_number, "R", "requests a second; latencies count from when each is due"))
    add("--duration", **option(seconds, "S", "repeat everything for S seconds"))
    add("--limit", **option(count, "N", "only the first N requests"))
    add("--shuffle", action="store_true", help="in random order")
    add("--random-seed", **option(int, "N", "shuffle, in the same order each time"))
    add("--stream", action="store_true", help="ask for streams, and measure their tokens")
    add("--timeout", **option(seconds, "S", "seconds for each attempt (default 60)"))
    add("--retries", **option(arguments.whole_number, "N", "retry a request up to N times (default 0)"))
    add("--processes", **option(count, "N", "share the load among N processes (default 1)", default=1))
    add("--keep-going", action="store_true", help="count failures instead of stopping at the first")

    add = parser.add_argument_group("the report").add_argument
    add("--quiet", action="store_true", help="print only the verdict and the first failure")
    add("--json", **option(Path, "FILE", "write the results as JSON; - is standard output"))
    return parser


def _header(value: str) -> tuple[str, str]:
    name, colon, content = (part.strip() for part in value.partition(":"))
    if colon and re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) and content.isprintable():
        return name, content
    raise ArgumentTypeError(f"{value!r} is not a header: give one like 'X-Team: search'")


def _run(chosen: Namespace) -> int:
    data, quiet = chosen.data or [recordings.default()], chosen.quiet
    if chosen.json not in (None, STANDARD_OUTPUT):
        check(chosen.json, data)
    headers = CIMultiDict(chosen.header)
    if chosen.api_key:
        headers.setdefault("Authorization", f"Bearer {chosen.api_key}")
    with redirect_stdout(sys.stderr) if chosen.json == STANDARD_OUTPUT else nullcontext():
        dataset, index = recordings.load(data, stitch=not chosen.no_stitch, ignore=chosen.ignore, quiet=quiet)
        count, unanswered, replies = len(dataset.conversations), dataset.unanswered, dataset.replies
        if unanswered and not quiet:
            print(f"{unanswered:,} conversations have no assistant message: nothing is asked of them", flush=True)
        index.match = chosen.match
        requests = min(replies, chosen.limit or replies)
        chosen.processes = min(chosen.processes, requests)
        chosen.concurrency = max(chosen.concurrency, chosen.processes)
        given = {field.name: getattr(chosen, field.name) for field in fields(Load)}
        load = Load(**{name: value for name, value in given.items() if value is not None})
        asking = partial(replay, dataset.conversations, index, chosen.base_url, model=chosen.model, headers=headers)
        result = program.run_on_loop(_replay(asking, None if load.duration else requests, load, quiet=quiet))
        _print(result, count, load, quiet=quiet)
    if chosen.json:
        _write(chosen.json, json.dumps(report.as_json(result, count, load), indent=2))
    if result.interrupted:
        return program.INTERRUPTED
    return program.FAILED if result.failures or result.lost or not result.passed else program.OK


def check(path: Path, data: Iterable[Path]) -> None:
    """Raise `ProgramError` if the output can't be written, or is a file of recordings.

    Nothing is opened or made: until there are results, what is there stays.
    """
    name = os.path.realpath(path)
    folder = os.path.dirname(name)
    if name in map(os.path.realpath, data):
        raise ProgramError(f"{path} is the file of the recordings: give another")
    if os.path.isdir(name) or not os.path.isdir(folder):
        raise ProgramError(f"can't write {path}: give a file in a folder that exists")
    if not os.access(name if os.path.exists(name) else folder, os.W_OK):
        raise ProgramError(f"can't write {path}: Permission denied")


async def _replay(asking: processes.Replay, total: int | None, load: Load, *, quiet: bool) -> Result:
    stopped = asyncio.Event()
    program.on_stop_signals(stopped.set, once=True)
    with tqdm(total=total, unit=" requests", leave=False, disable=quiet or not sys.stderr.isatty(), miniters=0) as bar:

        def progress(requests: int, failed: int) -> bool:
            bar.set_postfix(failed=failed, refresh=False)
            bar.update(requests - bar.n)
            return stopped.is_set()

        if load.processes > 1:
            return await processes.replay(asking, load, progress)
        return await asking(load=load, progress=progress)


def _print(result: Result, conversations: int, load: Load, *, quiet: bool) -> None:
    if not quiet:
        print(report.summary(result, conversations, load), end="\n\n")
    verdict = report.verdict(result, load)
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):  # https://no-color.org
        verdict = f"\033[{31 if result.failures or result.lost else 32}m{verdict}\033[0m"
    print(verdict, flush=True)
    if quiet and result.failures:
        print(report.first_failure(result.failures[0]), flush=True)


def _write(path: Path, text: str) -> None:
    if path == STANDARD_OUTPUT:
        print(text, flush=True)
        return
    try:
        path.write_text(f"{text}\n", encoding="utf-8")
    except OSError as error:
        raise ProgramError(f"can't write {path}: {error.strerror}") from None
