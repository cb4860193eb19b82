"""The server's command line: read the recordings, serve them until a signal, tell what was left unfinished."""

import argparse
import sys
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

from yarl import URL

from mockchat.core import program, recordings
from mockchat.core.program import ProgramError
from mockchat.server import app, options, recorder
from mockchat.server.app import ChatServer
from mockchat.server.route import ChatCompletions
from mockchat.server.upstream import Upstream


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the recordings; `arguments` are the process's own by default. Returns the exit status."""
    return program.run(lambda: _run(options.parse(arguments)))


def _run(chosen: argparse.Namespace) -> int:
    route_options = options.of_route(chosen)
    recording = chosen.upstream or chosen.record
    files = _prepare_recording(chosen) if recording else chosen.data or [recordings.default()]
    index = recordings.index_of([], chosen.ignore)
    if files:
        _, index = recordings.load(files, stitch=not chosen.no_stitch, ignore=chosen.ignore)
    chat = ChatCompletions(index, **route_options)
    if chosen.record:
        print(f"Asking {chosen.upstream} for what is not recorded, and recording it into {chosen.record}", flush=True)
        chat.upstream = Upstream(chosen.upstream, index, chosen.record, chosen.upstream_timeout, chosen.max_answer_mb)

    def ready(base_url: str) -> None:
        host = URL(base_url).host or ""
        if not (chosen.api_key or ip_address(host).is_loopback):
            print(f"Who can reach {host} can read the recordings: --api-key asks for a key", file=sys.stderr)
        print(f"Serving {base_url} (Ctrl-C stops)", flush=True)

    server = ChatServer(chat, chosen.request_timeout)
    listening = app.serve(server, chosen.host, chosen.port, ready, shutdown_timeout=chosen.shutdown_timeout)
    program.run_on_loop(listening)
    if chat.upstream:
        print(f"Recorded {chat.upstream.recorded:,} answers into {chosen.record}")
    if server.cut:
        print(f"Connections cut before they were finished: {server.cut:,} (see --shutdown-timeout)", file=sys.stderr)
    return program.FAILED if server.cut else program.OK


def _prepare_recording(chosen: argparse.Namespace) -> list[Path]:
    """See that what is to be recorded can be; returns the files to read, the one that is recorded into among them."""
    if not (chosen.upstream and chosen.record):
        raise ProgramError("--upstream and --record need each other: give both, or none")
    if URL(chosen.upstream).user:
        raise ProgramError("--upstream names a user: what clients send as Authorization is handed on, and nothing else")
    if removed := recorder.prepare(chosen.record):
        print(removed, file=sys.stderr)
    others = [path for path in chosen.data or [] if path.resolve() != chosen.record.resolve()]
    has_some = chosen.record.exists() and chosen.record.stat().st_size
    return [*others, chosen.record] if has_some else others
