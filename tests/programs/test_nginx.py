"""docs/nginx.conf, where nginx is installed: two servers behind it, and either may go away."""

import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.helpers import SAMPLE, request_body
from tests.programs import ROOT, STOP_TIMEOUT, environment, running_server

NGINX = shutil.which("nginx")
SPREAD = 8  # Requests that no server gets all of.


def free_ports(count: int) -> list[int]:
    with ExitStack() as bound:
        sockets = [bound.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


@contextmanager
def nginx(folder: Path, config: str, port: int) -> Iterator[None]:
    """nginx with this configuration, once it listens; all that it writes is in the folder."""
    assert NGINX
    paths = "".join(
        f"{kind}_temp_path {folder}/{kind}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(config.replace("http {", f"http {{ {paths}"))
    directives = f"daemon off; pid {folder}/nginx.pid; error_log stderr;"
    command = [NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-g", directives]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            end = time.monotonic() + STOP_TIMEOUT
            while True:
                assert process.poll() is None
                try:
                    socket.create_connection(("127.0.0.1", port), STOP_TIMEOUT).close()
                    break
                except ConnectionRefusedError:
                    assert time.monotonic() < end
                    time.sleep(0.02)
            yield
        finally:
            process.terminate()
            process.wait(STOP_TIMEOUT)


@pytest.mark.skipif(NGINX is None, reason="no nginx here")
def test_servers_behind_nginx_may_be_stopped_and_started_in_turn(tmp_path: Path) -> None:
    front, *behind = free_ports(3)
    config = (ROOT / "docs" / "nginx.conf").read_text()
    for old, new in zip((8000, 8001, 8002), (front, *behind), strict=True):
        config = config.replace(f"127.0.0.1:{old}", f"127.0.0.1:{new}")

    def server(port: int) -> ExitStack:
        running = everything.enter_context(ExitStack())
        options = ("--data", str(SAMPLE), "--port", str(port))
        running.enter_context(running_server(*options, env=environment()))
        return running

    def ask() -> None:
        for _ in range(SPREAD):
            url = f"http://127.0.0.1:{front}/v1/chat/completions"
            with urllib.request.urlopen(url, request_body(("user", "hi")), timeout=STOP_TIMEOUT) as response:
                assert response.status == 200

    with ExitStack() as everything:
        first, second = server(behind[0]), server(behind[1])
        everything.enter_context(nginx(tmp_path, config, front))
        ask()
        first.close()
        ask()
        first = server(behind[0])
        second.close()
        ask()
        server(behind[1])
        first.close()
        ask()
