"""The server's command line: load the recordings, serve them until a signal, print a summary."""

import argparse
import sys
from collections.abc import Sequence
from ipaddress import ip_address
from os.path import realpath

from aiohttp.log import server_logger
from yarl import URL

from mockchat.core import program, recordings
from mockchat.core.index import ResponseIndex
from mockchat.server import app, options
from mockchat.server.log import Log, is_writable
from mockchat.server.record_file import RecordFile
from mockchat.server.route import ChatCompletions
from mockchat.server.upstream import Upstream


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the recordings; `arguments` are the process's own by default. Returns the exit status."""
    return program.run(lambda: _run(options.parse(arguments)))


def _run(chosen: argparse.Namespace) -> int:
    route_options = options.of_route(chosen)
    if bool(chosen.upstream) != bool(chosen.record):
        raise program.ProgramError("--upstream and --record need each other: give both, or none")
    file = RecordFile(chosen.record, warn=lambda line: print(line, file=sys.stderr)) if chosen.record else None
    index = _load(chosen)
    chat = ChatCompletions(index, **route_options)
    if file:
        print(f"Asking {chosen.upstream} for what is not recorded, and recording it into {file.path}", flush=True)
        chat.upstream = Upstream(chosen.upstream, index, file, chosen.upstream_timeout)

    def ready(base_url: str) -> None:
        host = URL(base_url).host or ""
        if not (chosen.api_key or ip_address(host).is_loopback):
            print(f"Anyone who can reach {host} can read the recordings: --api-key asks for a key", file=sys.stderr)
        print(f"Serving {base_url} (Ctrl-C stops)", flush=True)

    log = Log(each=chosen.log)
    server_logger.addHandler(log)
    server = app.ChatServer(chat, log)
    listening = app.serve(server, chosen.host, chosen.port, ready, shutdown_timeout=chosen.shutdown_timeout)
    try:
        program.run_on_loop(listening)
    finally:
        server_logger.removeHandler(log)
    said = log.summary(server.requests_count)
    if chat.upstream:
        said += f"\nRecorded {chat.upstream.recorded:,} answers into {chosen.record}; lost {chat.upstream.lost:,}"
    if is_writable(sys.stdout):
        print(said)
    if server.cut:
        log.tell(f"Connections cut before they were finished: {server.cut:,} (see --shutdown-timeout)")
    return program.FAILED if server.cut else program.OK


def _load(chosen: argparse.Namespace) -> ResponseIndex:
    """Load `--data`, and the file to record into, unless it is empty."""
    files = [path for path in chosen.data or [] if not chosen.record or realpath(path) != realpath(chosen.record)]
    if chosen.record and chosen.record.stat().st_size:
        files.append(chosen.record)
    elif not (files or chosen.record):
        files = [recordings.default()]
    if not files:
        return ResponseIndex([], chosen.ignore)
    return recordings.load(files, stitch=not chosen.no_stitch, ignore=chosen.ignore)[1]
