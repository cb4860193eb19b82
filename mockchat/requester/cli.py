"""The requester's command line: check the options, replay, report."""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from importlib.util import find_spec

from multidict import CIMultiDict
from tqdm import tqdm
from yarl import URL

from mockchat.core import program, recordings
from mockchat.core.program import ProgramError
from mockchat.requester import files, options, plot, processes, report
from mockchat.requester.plan import Load
from mockchat.requester.result import Result
from mockchat.requester.run import replay

tqdm.monitor_interval = 0  # Its monitor thread would not survive a fork.


def main(arguments: Sequence[str] | None = None) -> int:
    """Replay the recordings; `arguments` are the process's own by default. Returns the exit status."""
    return program.run(lambda: _run(options.parse(arguments)))


def _run(chosen: argparse.Namespace) -> int:
    chosen.data = chosen.data or [recordings.default()]
    files.check([path for path in (chosen.json, chosen.plot) if path], chosen.data)
    if chosen.plot and not find_spec("matplotlib"):
        raise ProgramError("--plot needs matplotlib: pip install matplotlib, or '.[plot]' in a clone")
    headers = _headers(chosen)
    with files.standard_output_kept(chosen.json):
        stitch, ignore, quiet = not chosen.no_stitch, chosen.ignore, chosen.quiet
        dataset, index = recordings.load(chosen.data, stitch=stitch, ignore=ignore, quiet=quiet)
        conversations = dataset.conversations
        unanswered = dataset.unanswered
        if unanswered and not quiet:
            print(f"{unanswered:,} conversations have no assistant message: nothing is asked of them", flush=True)
        index.require(chosen.match)
        load = _load_for(dataset.replies, chosen)
        asking = partial(replay, conversations, index, chosen.base_url, model=chosen.model, headers=headers)
        result = program.run_on_loop(_replay(asking, dataset.replies, load, quiet=quiet))
        _tell(result, len(conversations), load, quiet=quiet)
    _write(result, len(conversations), load, chosen)
    if result.interrupted:
        return program.INTERRUPTED
    return program.FAILED if result.failures or result.lost or not result.passed else program.OK


def _headers(chosen: argparse.Namespace) -> CIMultiDict[str]:
    """The headers of every request. Raises `ProgramError` if they contradict the base URL."""
    headers = CIMultiDict(chosen.header)
    if chosen.api_key:
        headers.setdefault("Authorization", f"Bearer {chosen.api_key}")
    if URL(chosen.base_url).user and "Authorization" in headers:
        raise ProgramError("--base-url names a user, and a key or Authorization header is given too: give one of them")
    return headers


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


def _tell(result: Result, conversations: int, load: Load, *, quiet: bool) -> None:
    """Print the report."""
    if not quiet:
        print(report.summary(result, conversations, load), end="\n\n")
    print(_coloured(report.verdict(result, load), bool(result.failures or result.lost)), flush=True)
    if quiet and result.failures:
        print(report.first_failure(result.failures[0]), flush=True)


def _write(result: Result, conversations: int, load: Load, chosen: argparse.Namespace) -> None:
    """Write the JSON and the picture, if asked for."""
    if chosen.json:
        files.write_json(chosen.json, files.as_json(result, conversations, load))
    if chosen.plot:
        server = URL(chosen.base_url).with_user(None)
        title = f"{result.requests:,} requests to {server}, {report.significant(result.rate)} a second"
        try:
            plot.draw(result, title, chosen.plot)
        except OSError as error:
            raise files.cannot_write(chosen.plot, error.strerror) from None


def _coloured(text: str, failed: bool) -> str:
    """Red or green on a terminal, unless NO_COLOR (https://no-color.org) is set."""
    if os.environ.get("NO_COLOR") or not sys.stdout.isatty():
        return text
    return f"\033[{31 if failed else 32}m{text}\033[0m"
