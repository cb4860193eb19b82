"""The real locust as a process, against a real server."""

import importlib.util
import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mockchat.testing.server import MockServer, serve
from tests.helpers import SAMPLE, WriteDataset, entry
from tests.programs import ROOT, environment

# It is not imported: that would change this process's sockets and threads for good.
pytestmark = pytest.mark.skipif(importlib.util.find_spec("locust") is None, reason="locust is not installed")

LOCUST = [sys.executable, "-m", "locust", "-f", str(ROOT / "mockchat" / "requester" / "locustfile.py"), "--headless"]
TIMEOUT = 60  # seconds


def run_locust(server: MockServer, requests: int, *arguments: str, **changes: str) -> tuple[int, dict[str, Any], str]:
    """Run locust until the server has had so many requests: its exit status, its statistics, and what it told."""
    command = [*LOCUST, "--json", *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment(**changes)
    ) as process:
        end = time.monotonic() + TIMEOUT
        while len(server.requests) < requests and process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        printed, told = process.communicate(timeout=TIMEOUT)
    # Of several processes each prints its own, and only the first has any.
    (statistics,), _ = json.JSONDecoder().raw_decode(printed, printed.index("[\n"))
    return process.returncode, statistics, told


def test_conversations_are_replayed_and_verified() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    with serve(SAMPLE, api_key="secret") as server:
        load = ("--host", server.base_url, "--users", "4", "--spawn-rate", "4")
        settings = {"MOCKCHAT_DATA": str(SAMPLE), "MOCKCHAT_MODEL": "gpt-x", "OPENAI_API_KEY": "secret"}
        processes = ("--processes", "2", "--master-port", port, "--master-bind-port", port)
        status, statistics, told = run_locust(server, 50, *load, *processes, **settings)
        assert {request.body["model"] for request in server.requests} == {"gpt-x"}
    assert (status, "Error report" in told) == (0, False), told
    assert told.count("Parsed 70 conversations") == 1
    assert (statistics["method"], statistics["name"], statistics["num_failures"]) == ("POST", "/chat/completions", 0)
    assert statistics["num_requests"] > 0


def test_a_wrong_answer_is_a_failure_with_its_diagnosis(write_dataset: WriteDataset) -> None:
    asked = write_dataset([entry("a", "one", "wrong", "two", "yes")])
    with serve([entry("a", "one", "right\n", "two", "yes")]) as server:
        status, statistics, told = run_locust(server, 9, "--host", f"{server.base_url}/", MOCKCHAT_DATA=str(asked))
    assert (status, "Error report" in told) == (1, True)
    assert statistics["num_failures"] == statistics["num_requests"] > 0
    assert (
        " mismatched: another text; first in conversation a, message 1: "
        r"differs at character 0: got 'right\n' (U+0072), recorded 'wrong' (U+0077)"
    ) in told
    not_found = " not_found: status 404; first in conversation a, message 3: No valid response exists"
    differs = r"messages[1] differs at character 0: sent 'wrong' (U+0077), recorded 'right\n' (U+0072)"
    assert [not_found in line for line in told.splitlines() if differs in line] == [True]


def test_bad_recordings_end_it_with_one_line(tmp_path: Path) -> None:
    path = tmp_path / "none.json"
    env = environment(MOCKCHAT_DATA=str(path))
    ended = subprocess.run(LOCUST, capture_output=True, text=True, timeout=TIMEOUT, check=False, cwd=ROOT, env=env)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.splitlines()[1:] == [f"locust: {path}: No such file or directory"]
