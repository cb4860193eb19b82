"""The requester's command line: check the options, replay, report."""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import fields
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from multidict import CIMultiDict
from tqdm import tqdm
from yarl import URL

from mockchat.core import program, recordings
from mockchat.core.program import ProgramError
from mockchat.requester import options, plot, processes, report
from mockchat.requester.plan import Load
from mockchat.requester.result import Result
from mockchat.requester.run import replay

STANDARD_OUTPUT = Path("-")

tqdm.monitor_interval = 0  # Its monitor thread would not survive a fork.


def main(arguments: Sequence[str] | None = None) -> int:
    """Replay the recordings; `arguments` are the process's own by default. Returns the exit status."""
    return program.run(lambda: _run(options.parse(arguments)))


def _run(chosen: argparse.Namespace) -> int:
    chosen.data = chosen.data or [recordings.default()]
    check([path for path in (chosen.json, chosen.plot) if path not in (None, STANDARD_OUTPUT)], chosen.data)
    if chosen.plot and not find_spec("matplotlib"):
        raise ProgramError("--plot needs matplotlib: pip install matplotlib, or '.[plot]' in a clone")
    headers = CIMultiDict(chosen.header)
    if chosen.api_key:
        headers.setdefault("Authorization", f"Bearer {chosen.api_key}")
    with redirect_stdout(sys.stderr) if chosen.json == STANDARD_OUTPUT else nullcontext():
        stitch, ignore, quiet = not chosen.no_stitch, chosen.ignore, chosen.quiet
        dataset, index = recordings.load(chosen.data, stitch=stitch, ignore=ignore, quiet=quiet)
        count, unanswered = len(dataset.conversations), dataset.unanswered
        if unanswered and not quiet:
            print(f"{unanswered:,} conversations have no assistant message: nothing is asked of them", flush=True)
        index.match = chosen.match
        load = _load_for(dataset.replies, chosen)
        asking = partial(replay, dataset.conversations, index, chosen.base_url, model=chosen.model, headers=headers)
        result = program.run_on_loop(_replay(asking, dataset.replies, load, quiet=quiet))
        _print(result, count, load, quiet=quiet)
    if chosen.json:
        text = json.dumps(report.as_json(result, count, load), indent=2)
        if chosen.json == STANDARD_OUTPUT:
            print(text, flush=True)
        else:
            _write(chosen.json, lambda path: path.write_text(f"{text}\n", encoding="utf-8"))
    if chosen.plot:
        server = URL(chosen.base_url).with_user(None)
        title = f"{result.requests:,} requests to {server}, {report.significant(result.rate)} a second"
        _write(chosen.plot, partial(plot.draw, result, title))
    if result.interrupted:
        return program.INTERRUPTED
    return program.FAILED if result.failures or result.lost or not result.passed else program.OK


def check(paths: Iterable[Path], data: Iterable[Path]) -> None:
    """Raise `ProgramError` for a path that can't be written, is a file of recordings, or is given twice.

    Nothing is opened or made: until there are results, what is there stays.
    """
    taken = set(map(os.path.realpath, data))
    for path in paths:
        name = os.path.realpath(path)
        folder = os.path.dirname(name)
        if name in taken:
            raise ProgramError(f"{path} is the file of the recordings, or of another option: give another")
        taken.add(name)
        if os.path.isdir(name) or not os.path.isdir(folder):
            raise ProgramError(f"can't write {path}: give a file in a folder that exists")
        if not os.access(name if os.path.exists(name) else folder, os.W_OK):
            raise ProgramError(f"can't write {path}: Permission denied")


def _load_for(replies: int, chosen: argparse.Namespace) -> Load:
    """The load for so many replies: each process has at least one request, and one in flight."""
    values = {field.name: getattr(chosen, field.name) for field in fields(Load)}
    values["processes"] = min(chosen.processes, replies, chosen.limit or replies)
    values["concurrency"] = max(chosen.concurrency, values["processes"])
    return Load(**values)


async def _replay(asking: processes.Replay, replies: int, load: Load, *, quiet: bool) -> Result:
    """Replay with a progress bar, until a signal stops it."""
    stopped = asyncio.Event()
    program.on_stop_signals(stopped.set, once=True)
    total = None if load.duration else min(replies, load.limit or replies)
    no_bar = quiet or not sys.stderr.isatty()
    with tqdm(total=total, unit=" requests", leave=False, disable=no_bar, miniters=0) as bar:

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


def _write(path: Path, write: Callable[[Path], object]) -> None:
    try:
        write(path)
    except OSError as error:
        raise ProgramError(f"can't write {path}: {error.strerror}") from None
