"""The two command lines: what is printed, exit statuses. All else is tested without them."""

import argparse
import asyncio
import io
import json
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import fields
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

from multidict import CIMultiDict
from tqdm import tqdm
from yarl import URL

from mockchat.core import recordings
from mockchat.core.dataset import DatasetError
from mockchat.core.index import ResponseIndex
from mockchat.options import CommandError, of_requester, of_route, of_server
from mockchat.requester import plot, processes, report
from mockchat.requester.run import Load, Result, replay
from mockchat.server import app, recorder, upstream
from mockchat.server.connection import allow_descriptors
from mockchat.server.route import ChatCompletions

tqdm.monitor_interval = 0  # No thread that watches the bars: we may fork.

T = TypeVar("T")

OK, FAILED, COULD_NOT_RUN, INTERRUPTED = 0, 1, 2, 130


def serve(arguments: Sequence[str] | None = None) -> int:
    """The server's command line; returns the exit status."""
    return _run(_serve, of_server(arguments))


def requester(arguments: Sequence[str] | None = None) -> int:
    """The requester's command line; returns the exit status."""
    return _run(_replay, of_requester(arguments))


def _run(command: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    _prepare_process()
    try:
        options.data = options.data or ([] if getattr(options, "record", None) else [recordings.default()])
        return command(options)
    except (CommandError, DatasetError, app.ListenError, processes.StartError) as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        return COULD_NOT_RUN
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:  # Everything else that can't be read or written has its own message: this is a print.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"{Path(sys.argv[0]).name}: can't print: {error.strerror}", file=sys.stderr)
        return COULD_NOT_RUN


def _prepare_process() -> None:
    _open_what_is_closed()
    allow_descriptors()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _open_what_is_closed() -> None:
    """Give a closed standard stream (`>&-`) somewhere to go, lest its number becomes a socket's."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            setattr(sys, name, open(os.devnull, "w" if number else "r"))  # noqa: SIM115  It takes the free number.


def _serve(options: argparse.Namespace) -> int:
    route_options = of_route(options)
    _prepare_recording(options)
    index = recordings.load(options.data, stitch=not options.no_stitch)[1] if options.data else ResponseIndex([])
    chat = ChatCompletions(index, **route_options)
    if options.record:
        print(f"Asking {options.upstream} for what is not recorded, and recording it into {options.record}", flush=True)
        chat.upstream = upstream.Upstream(options.upstream, index, options.record, options.upstream_timeout)

    def ready(base_url: str) -> None:
        host = URL(base_url).host or ""
        if not (options.api_key or ip_address(host).is_loopback):
            print(f"Who can reach {host} can read the recordings: --api-key asks for a key", file=sys.stderr)
        print(f"Serving {base_url} (Ctrl-C stops)", flush=True)

    timeouts = {name: getattr(options, name) for name in ("request_timeout", "shutdown_timeout")}
    cut = _on_loop(app.serve(chat, options.host, options.port, ready, **timeouts))
    if chat.upstream:
        print(f"Recorded {chat.upstream.recorded:,} answers into {options.record}")
    if cut:
        print(f"Connections cut before they were finished: {cut:,} (see --shutdown-timeout)", file=sys.stderr)
    return FAILED if cut else OK


def _prepare_recording(options: argparse.Namespace) -> None:
    """See that what is to be recorded can be, and that what was is read with the other recordings."""
    if bool(options.upstream) != bool(options.record):
        raise CommandError("--upstream and --record need each other: give both, or none")
    if not options.record:
        return
    if URL(options.upstream).user:
        raise CommandError("--upstream names a user: what clients send as Authorization is handed on, and nothing else")
    if removed := recorder.prepare(options.record):
        print(removed, file=sys.stderr)
    options.data = [path for path in options.data if path.resolve() != options.record.resolve()]
    if options.record.exists() and options.record.stat().st_size:
        options.data.append(options.record)


def _replay(options: argparse.Namespace) -> int:
    _check_outputs([path for path in (options.json, options.failures, options.plot) if path], options.data)
    if options.plot and not plot.is_possible():
        raise CommandError("--plot needs matplotlib: pip install matplotlib, or '.[plot]' in a clone")
    if options.processes > 1 and not processes.is_possible():
        raise CommandError("--processes needs a system that can fork: start several requesters side by side instead")
    headers = CIMultiDict(options.header)
    if options.api_key:
        headers.setdefault("Authorization", f"Bearer {options.api_key}")
    if URL(options.base_url).user and "Authorization" in headers:
        raise CommandError("--base-url names a user, and a key or Authorization header is given too: give one of them")
    loaded, index = recordings.load(options.data, stitch=not options.no_stitch, quiet=options.quiet)
    if loaded.unanswered and not options.quiet:
        print(f"{loaded.unanswered:,} conversations have no assistant message: nothing is asked of them", flush=True)
    options.shuffle = options.shuffle or options.random_seed is not None
    once = min(loaded.replies, options.limit or loaded.replies)
    options.processes = min(options.processes, once)
    options.concurrency = max(options.concurrency, options.processes)
    load = Load(**{field.name: getattr(options, field.name) for field in fields(Load)})
    conversations = len(loaded.conversations)
    ask = partial(replay, index=index, base_url=options.base_url, model=options.model, headers=headers)
    no_bar = options.quiet or not sys.stderr.isatty()
    with tqdm(
        total=None if options.duration else once, unit=" requests", leave=False, disable=no_bar, miniters=0
    ) as bar:

        def progress(requests: int, failed: int) -> None:
            bar.set_postfix(failed=failed, refresh=False)
            bar.update(requests - bar.n)

        if load.processes > 1:
            result = processes.replay(ask, loaded.conversations, load, _on_loop, progress)
        else:
            result = _on_loop(_until_signal(partial(ask, loaded.conversations, load=load, progress=progress)))
    _tell(result, conversations, load, options)
    if result.interrupted:
        return INTERRUPTED
    return FAILED if result.failures or result.lost or not result.passed else OK


def _tell(result: Result, conversations: int, load: Load, options: argparse.Namespace) -> None:
    """Print the report, and write the files that were asked for."""
    if not options.quiet:
        print(report.summary(result, conversations, load), end="\n\n")
    print(_coloured(report.verdict(result), bool(result.failures or result.lost)), flush=True)
    if options.json:
        _write(options.json, json.dumps(report.as_json(result, conversations, load), indent=2) + "\n")
    if options.failures:
        lines = [json.dumps(report.failure_json(failure)) + "\n" for failure in result.failures]
        _write(options.failures, "".join(lines))
    if options.plot:
        server = URL(options.base_url).with_user(None)
        title = f"{result.requests:,} requests to {server}, {report.rate(result):,.0f} a second"
        try:
            plot.draw(result, title, options.plot)
        except OSError as error:
            raise CommandError(f"can't write {options.plot}: {error.strerror}") from None


async def _until_signal(replaying: Callable[..., Coroutine[Any, Any, Result]]) -> Result:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop(number: int) -> None:
        loop.remove_signal_handler(number)  # The next one ends it at once.
        stopped.set()

    for number in processes.SIGNALS:
        loop.add_signal_handler(number, stop, number)
    return await replaying(stopped=stopped)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CommandError(f"can't write {path}: {error.strerror}") from None


def _coloured(text: str, failed: bool) -> str:
    """Red or green on a terminal, unless NO_COLOR (https://no-color.org) is set."""
    if os.environ.get("NO_COLOR") or not sys.stdout.isatty():
        return text
    return f"\033[{31 if failed else 32}m{text}\033[0m"


def _on_loop(main: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=app.new_loop) as runner:
        return runner.run(main)


def _check_outputs(paths: Sequence[Path], data: Sequence[Path]) -> None:
    """Find out before the run, not after it, and leave what is there until there is something to replace it."""
    taken = {path.resolve() for path in data}
    for path in paths:
        existed = path.exists()
        if path.resolve() in taken and (path.is_file() or not existed):
            raise CommandError(f"{path} is the file of the recordings, or of another option: give another")
        taken.add(path.resolve())
        try:
            path.open("a").close()
            if not existed:
                path.unlink()
        except OSError as error:
            raise CommandError(f"can't write {path}: {error.strerror}") from None
