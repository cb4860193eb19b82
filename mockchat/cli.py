"""The two command lines: options, what is printed, exit statuses. All else is tested without them."""

import argparse
import asyncio
import contextlib
import io
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import fields
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from multidict import CIMultiDict
from tqdm import tqdm
from yarl import URL

from mockchat import app, plot, recordings, report
from mockchat.connection import REQUEST_TIMEOUT
from mockchat.dataset import DatasetError
from mockchat.index import ResponseIndex
from mockchat.replay import TIMEOUT, Load, Result, replay

try:
    from uvloop import new_event_loop as new_loop
except ImportError:  # There is no uvloop on Windows.
    from asyncio import new_event_loop as new_loop  # type: ignore[assignment]

T = TypeVar("T")

OK, FAILED, COULD_NOT_RUN, INTERRUPTED = 0, 1, 2, 130
APP_LOAD_ERROR = 4  # gunicorn's: a worker that ends with it is not started again, as it would be for ever.


class CommandError(Exception):
    """The command can't run; the text is one line that says why and what to do."""


def serve(arguments: Sequence[str] | None = None) -> int:
    """The server's command line; returns the exit status."""
    parser = _parser("Serve the Chat Completions API from recorded conversations.")
    parser.add_argument("--host", type=_host, default="127.0.0.1", help="address to listen on (default %(default)s)")
    parser.add_argument("--port", type=_port, default=8000, help="0 picks a free one (default %(default)s)")
    parser.add_argument(
        "--shutdown-timeout",
        type=_positive_number,
        default=app.SHUTDOWN_TIMEOUT,
        metavar="S",
        help="for what has begun to be finished after a signal (default %(default)g s)",
    )
    _add_answering(parser)
    return _run(_serve, parser.parse_args(arguments))


def _add_answering(parser: argparse.ArgumentParser) -> None:
    """Add the server's options that gunicorn's workers have too."""
    parser.add_argument(
        "--max-body-mb", type=_positive, default=64, metavar="N", help="refuse larger requests (default %(default)s)"
    )
    parser.add_argument(
        "--api-key",
        type=_api_key,
        action="append",
        default=[],
        metavar="KEY",
        help="ask for this key; repeatable (default: any key or none is welcome)",
    )
    parser.add_argument(
        "--request-timeout",
        type=_positive_number,
        default=REQUEST_TIMEOUT,
        metavar="S",
        help="for a request to arrive, and for a client to read any of its answer (default %(default)g s)",
    )


def load_for_workers(data: object, options: Mapping[str, object]) -> tuple[Callable[[], app.ChatCompletions], float]:
    """What `app.create_app` serves, and the request timeout; options that can't be served end it as it says."""
    parser = _parser("", prog="create_app", usage=argparse.SUPPRESS, allow_abbrev=False)
    _add_answering(parser)
    arguments = []
    for name, value in {"data": data, **options}.items():
        for one in value if isinstance(value, list | tuple) else [value]:
            option = f"--{name.replace('_', '-')}"
            arguments += [] if one is False else [option] if one is True else [f"{option}={one}"]
    _prepare_process()
    try:
        chosen = parser.parse_args(arguments)
        index = recordings.load_shared(chosen.data or [recordings.default()], stitch=not chosen.no_stitch)
        return partial(_chat, chosen, index), chosen.request_timeout
    except DatasetError as error:
        print(f"create_app: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except SystemExit:  # The parser has told why.
        pass
    raise SystemExit(APP_LOAD_ERROR)


def _chat(options: argparse.Namespace, index: ResponseIndex) -> app.ChatCompletions:
    return app.ChatCompletions(index, options.max_body_mb * 1024 * 1024, options.api_key)


def requester(arguments: Sequence[str] | None = None) -> int:
    """The requester's command line; returns the exit status."""
    parser = _parser("Ask for every recorded reply and verify every answer.")
    server = parser.add_argument_group("the server")
    server.add_argument(
        "--base-url", type=_base_url, default="http://127.0.0.1:8000/v1", metavar="URL", help="(default %(default)s)"
    )
    server.add_argument("--model", metavar="NAME", help="the model to ask for (default: none is named)")
    server.add_argument(
        "--api-key",
        type=_api_key,
        default=os.environ.get("OPENAI_API_KEY") or None,
        metavar="KEY",
        help="sent as a bearer token (default: OPENAI_API_KEY)",
    )
    server.add_argument(
        "--header", type=_header, action="append", default=[], metavar="'K: V'", help="send this header; repeatable"
    )
    load = parser.add_argument_group("the load (default: everything once, in order, at full speed)")
    load.add_argument(
        "--concurrency", type=_positive, default=os.cpu_count() or 1, metavar="N", help="in flight (default: CPUs)"
    )
    load.add_argument("--rate", type=_positive_number, metavar="R", help="requests a second, each due at its time")
    load.add_argument("--duration", type=_positive_number, metavar="S", help="go round and round for S seconds")
    load.add_argument("--limit", type=_positive, metavar="N", help="only the first N requests")
    load.add_argument("--shuffle", action="store_true", help="in random order")
    load.add_argument("--random-seed", type=int, metavar="N", help="shuffle, and the same way again")
    load.add_argument("--stream", action="store_true", help="ask for streams, and time their tokens")
    load.add_argument(
        "--timeout", type=_positive_number, default=TIMEOUT, metavar="S", help="of a request (default %(default)g s)"
    )
    load.add_argument("--keep-going", action="store_true", help="count failures instead of stopping at the first")
    output = parser.add_argument_group("the report")
    output.add_argument("--quiet", action="store_true", help="print the verdict alone")
    output.add_argument("--json", type=Path, metavar="FILE", help="write the results as JSON")
    output.add_argument("--failures", type=Path, metavar="FILE", help="write all failures, a JSON line each")
    output.add_argument("--plot", type=_picture, metavar="FILE", help="draw the latencies (.png, .svg or .pdf)")
    return _run(_replay, parser.parse_args(arguments))


def _parser(description: str, **options: Any) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, **options)
    parser.add_argument(
        "--data",
        type=Path,
        action="append",
        metavar="FILE",
        help=f"recordings; repeatable (default: data/{recordings.DATASETS[0].name}, else the sample)",
    )
    parser.add_argument("--no-stitch", action="store_true", help="do not join entries with ids like a_0 and a_12")
    return parser


def _run(command: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    options.data = options.data or [recordings.default()]
    _prepare_process()
    try:
        return command(options)
    except (CommandError, DatasetError, app.ListenError) as error:
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
    _allow_descriptors()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _allow_descriptors() -> None:
    """Allow as many connections as the system lets us: the usual limit of 1,024 is soon reached."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource  # There is none on Windows.

        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _open_what_is_closed() -> None:
    """Give a closed standard stream (`>&-`) somewhere to go, lest its number becomes a socket's."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            setattr(sys, name, open(os.devnull, "w" if number else "r"))  # noqa: SIM115  It takes the free number.


def _serve(options: argparse.Namespace) -> int:
    _, index = recordings.load(options.data, stitch=not options.no_stitch)
    chat = _chat(options, index)

    def ready(base_url: str) -> None:
        host = URL(base_url).host or ""
        if not (options.api_key or ip_address(host).is_loopback):
            print(f"Who can reach {host} can read the recordings: --api-key asks for a key", file=sys.stderr)
        print(f"Serving {base_url} (Ctrl-C stops)", flush=True)

    timeouts = {name: getattr(options, name) for name in ("request_timeout", "shutdown_timeout")}
    cut = _on_loop(app.serve(chat, options.host, options.port, ready, **timeouts))
    if cut:
        print(f"Connections cut before they were finished: {cut:,} (see --shutdown-timeout)", file=sys.stderr)
    return FAILED if cut else OK


def _replay(options: argparse.Namespace) -> int:
    _check_outputs([path for path in (options.json, options.failures, options.plot) if path], options.data)
    if options.plot and not plot.is_possible():
        raise CommandError("--plot needs matplotlib: pip install matplotlib, or '.[plot]' in a clone")
    headers = CIMultiDict(options.header)
    if options.api_key:
        headers.setdefault("Authorization", f"Bearer {options.api_key}")
    if URL(options.base_url).user and "Authorization" in headers:
        raise CommandError("--base-url names a user, and a key or Authorization header is given too: give one of them")
    loaded, index = recordings.load(options.data, stitch=not options.no_stitch, quiet=options.quiet)
    if loaded.unanswered and not options.quiet:
        print(f"{loaded.unanswered:,} conversations have no assistant message: nothing is asked of them", flush=True)
    options.shuffle = options.shuffle or options.random_seed is not None
    load = Load(**{field.name: getattr(options, field.name) for field in fields(Load)})
    conversations = len(loaded.conversations)
    total = None if options.duration else min(loaded.replies, options.limit or loaded.replies)

    async def run() -> Result:
        with tqdm(total=total, unit=" requests", leave=False, disable=options.quiet or not sys.stderr.isatty()) as bar:

            def progress(result: Result) -> None:
                bar.set_postfix(failed=len(result.failures), refresh=False)
                bar.update(result.requests - bar.n)

            running = asyncio.create_task(
                replay(
                    loaded.conversations,
                    index,
                    options.base_url,
                    load,
                    model=options.model,
                    headers=headers,
                    progress=progress,
                )
            )
            loop = asyncio.get_running_loop()

            def stop(number: int) -> None:
                loop.remove_signal_handler(number)  # The next one ends it at once.
                running.cancel()

            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, stop, number)
            return await running

    result = _on_loop(run())
    if not options.quiet:
        print(report.summary(result, conversations, load), end="\n\n")
    print(_coloured(report.verdict(result), bool(result.failures)), flush=True)
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
    if result.interrupted:
        return INTERRUPTED
    return FAILED if result.failures or not result.passed else OK


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
    with asyncio.Runner(loop_factory=new_loop) as runner:
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


def _refuse(message: str) -> NoReturn:
    raise argparse.ArgumentTypeError(message)


def _port(value: str) -> int:
    if value.isascii() and value.isdigit() and len(value) < 6 and int(value) < 65536:
        return int(value)
    _refuse(f"{value!r} is no port: give a number from 0 to 65535")


def _positive(value: str) -> int:
    if value.isascii() and value.isdigit() and len(value) < 10 and int(value) > 0:
        return int(value)
    _refuse(f"{value!r} is no whole number of at least 1")


def _positive_number(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    return number if 0 < number < 1e9 else _refuse(f"{value!r} is no number above 0")


def _header(value: str) -> tuple[str, str]:
    name, colon, content = (part.strip() for part in value.partition(":"))
    if colon and re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) and content.isprintable():
        return name, content
    _refuse(f"{value!r} is no header: give one like 'X-Team: search'")


def _picture(value: str) -> Path:
    path = Path(value)
    if path.suffix.lower() in plot.SUFFIXES:
        return path
    _refuse(f"{value!r} must end in one of {', '.join(plot.SUFFIXES)}")


def _host(value: str) -> str:
    return value or _refuse("it is empty, which would mean every address: say 0.0.0.0 if that is meant")


def _api_key(value: str) -> str:
    return value if value and value.isprintable() else _refuse("it is empty or has characters that no header can carry")


def _base_url(value: str) -> str:
    try:
        url = URL(value)
        usable = url.scheme in ("http", "https") and url.host and not (url.query_string or url.fragment or " " in value)
    except ValueError:
        usable = False
    return value if usable else _refuse(f"{value!r} is no base URL: give one like http://127.0.0.1:8000/v1")
