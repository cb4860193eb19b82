"""The two command lines: options, what is printed, exit statuses. All else is tested without them."""

import argparse
import asyncio
import contextlib
import io
import json
import os
import re
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

from mockchat import app, plot, processes, recorder, recordings, report, upstream
from mockchat.connection import REQUEST_TIMEOUT
from mockchat.dataset import DatasetError
from mockchat.index import ResponseIndex
from mockchat.replay import TIMEOUT, Load, Result, replay
from mockchat.simulation import FAULT_HEADER, Simulation

tqdm.monitor_interval = 0  # No thread that watches the bars: we may fork.

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
    recording = parser.add_argument_group("recording (both are needed)")
    recording.add_argument(
        "--upstream",
        type=_base_url,
        metavar="URL",
        help="base URL of a server to ask for what is not recorded, with the client's Authorization",
    )
    recording.add_argument(
        "--record",
        type=Path,
        metavar="FILE",
        help="append its answers to this file, which is read beside --data, or alone where there is none",
    )
    recording.add_argument(
        "--upstream-timeout",
        type=_positive_number,
        default=upstream.TIMEOUT,
        metavar="S",
        help="for an answer to begin, and between its parts (default %(default)g s)",
    )
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
    simulated = parser.add_argument_group("what is simulated (default: nothing; every answer at once, and right)")
    simulated.add_argument("--ttft-ms", type=_non_negative, metavar="MS", help="time to first token")
    simulated.add_argument("--itl-ms", type=_non_negative, metavar="MS", help="inter-token latency")
    simulated.add_argument(
        "--jitter",
        type=_non_negative,
        metavar="F",
        help="of both: log-normal, F is the standard deviation over the mean",
    )
    simulated.add_argument(
        "--fault",
        action="append",
        dest="faults",
        metavar="KIND=HOW",
        help="fail with a status (429, 503, ...), disconnect or stall; HOW is a rate (0.05) or first:N of each "
        f"history; 'header' lets requests name a kind in {FAULT_HEADER}; repeatable",
    )
    simulated.add_argument(
        "--random-seed", type=int, metavar="N", help="the same replies, jitter and faults in each run"
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
        simulation = _simulation(chosen)
        index = recordings.load_shared(chosen.data or [recordings.default()], stitch=not chosen.no_stitch)
        return partial(_chat, chosen, index, simulation), chosen.request_timeout
    except (CommandError, DatasetError) as error:
        print(f"create_app: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except SystemExit:  # The parser has told why.
        pass
    raise SystemExit(APP_LOAD_ERROR)


def _chat(options: argparse.Namespace, index: ResponseIndex, simulation: Simulation | None) -> app.ChatCompletions:
    return app.ChatCompletions(index, options.max_body_mb * 1024 * 1024, options.api_key, simulation)


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
        "--timeout", type=_positive_number, default=TIMEOUT, metavar="S", help="of an attempt (default %(default)g s)"
    )
    load.add_argument(
        "--retries", type=_whole, default=0, metavar="N", help="try again so often, as OpenAI's SDKs do (default 0)"
    )
    load.add_argument(
        "--processes", type=_positive, default=1, metavar="N", help="share all this among N processes (default 1)"
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
    options.data = options.data or ([] if getattr(options, "record", None) else [recordings.default()])
    _prepare_process()
    try:
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
    simulation = _simulation(options)
    _prepare_recording(options)
    index = recordings.load(options.data, stitch=not options.no_stitch)[1] if options.data else ResponseIndex([])
    chat = _chat(options, index, simulation)
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
    if cut:
        print(f"Connections cut before they were finished: {cut:,} (see --shutdown-timeout)", file=sys.stderr)
    return FAILED if cut else OK


def _simulation(options: argparse.Namespace) -> Simulation | None:
    names = ("ttft_ms", "itl_ms", "jitter", "faults", "random_seed")
    asked = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    try:
        return Simulation(**asked) if asked else None
    except ValueError as error:
        raise CommandError(f"--fault: {error}") from None


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
    known = {path.resolve() for path in options.data}
    if options.record.stat().st_size and options.record.resolve() not in known:
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
            result = _on_loop(_until_signal(ask(loaded.conversations, load=load, progress=progress)))
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
    if result.interrupted:
        return INTERRUPTED
    return FAILED if result.failures or result.lost or not result.passed else OK


async def _until_signal(replaying: Coroutine[Any, Any, Result]) -> Result:
    running = asyncio.create_task(replaying)
    loop = asyncio.get_running_loop()

    def stop(number: int) -> None:
        loop.remove_signal_handler(number)  # The next one ends it at once.
        running.cancel()

    for number in processes.SIGNALS:
        loop.add_signal_handler(number, stop, number)
    return await running


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


def _refuse(message: str) -> NoReturn:
    raise argparse.ArgumentTypeError(message)


def _port(value: str) -> int:
    if value.isascii() and value.isdigit() and len(value) < 6 and int(value) < 65536:
        return int(value)
    _refuse(f"{value!r} is no port: give a number from 0 to 65535")


def _whole(value: str, least: int = 0) -> int:
    if value.isascii() and value.isdigit() and len(value) < 10 and int(value) >= least:
        return int(value)
    _refuse(f"{value!r} is no whole number of at least {least}")


def _positive(value: str) -> int:
    return _whole(value, 1)


def _positive_number(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    return number if 0 < number < 1e9 else _refuse(f"{value!r} is no number above 0")


def _non_negative(value: str) -> float:
    return 0.0 if value == "0" else _positive_number(value)


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
