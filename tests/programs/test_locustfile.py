"""The real locust as a process, against the real server."""

import csv
import importlib.util
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import SAMPLE, WriteDataset, entry
from tests.programs import ROOT, environment, running_server

# It is not imported: that would change this process's sockets and threads for good.
pytestmark = pytest.mark.skipif(importlib.util.find_spec("locust") is None, reason="locust is not installed")

ENV = environment()


def run_locust(
    output: Path, *arguments: str, **changes: str
) -> tuple[subprocess.CompletedProcess[str], dict[str, str], list[str]]:
    """Run locust for a second, with `changes` in its environment: gives its totals and its failures."""
    command = [
        sys.executable,
        "-m",
        "locust",
        "-f",
        str(ROOT / "mockchat" / "requester" / "locustfile.py"),
        "--headless",
    ]
    ended = subprocess.run(
        [*command, "--run-time", "1s", "--csv", str(output / "run"), *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
        check=False,
        cwd=ROOT,
        env=environment(**changes),
    )
    totals, failures = (
        list(csv.DictReader(path.read_text(encoding="utf-8").splitlines())) if path.exists() else []
        for path in (output / "run_stats.csv", output / "run_failures.csv")
    )
    return ended, totals[0] if totals else {}, [failure["Error"] for failure in failures]


def test_conversations_are_replayed_and_verified(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    with running_server("--data", str(SAMPLE), "--api-key", "secret", env=ENV) as (url, _):
        load = ("--host", url, "--api-key", "secret", "--users", "4", "--spawn-rate", "4")
        processes = ("--processes", "2", "--master-port", port, "--master-bind-port", port)
        ended, totals, failures = run_locust(tmp_path, *load, *processes, MOCKCHAT_DATA=str(SAMPLE))
    assert (ended.returncode, failures) == (0, []), ended.stderr
    assert ended.stderr.count("Parsed 70 conversations") == 1
    assert (totals["Type"], totals["Name"], totals["Failure Count"]) == ("POST", "/chat/completions", "0")
    assert int(totals["Request Count"]) > 0


def test_a_wrong_answer_is_a_failure_with_its_diagnosis(tmp_path: Path, write_dataset: WriteDataset) -> None:
    served = write_dataset([entry("a", "one", "right\n", "two", "yes")]).rename(tmp_path / "served.json")
    asked = write_dataset([entry("a", "one", "wrong", "two", "yes")])
    with running_server("--data", str(served), env=ENV) as (url, _):
        ended, totals, failures = run_locust(tmp_path, "--host", f"{url}/", MOCKCHAT_DATA=str(asked))
    assert ended.returncode == 1
    assert int(totals["Failure Count"]) == int(totals["Request Count"]) > 0
    mismatched, not_found = sorted(failures)
    assert mismatched == (
        "mismatched: another text; first in conversation a, message 1: "
        r"differs at character 0: got 'right\n' (U+0072), recorded 'wrong' (U+0077)"
    )
    assert not_found.startswith("not_found: status 404; first in conversation a, message 3: No valid response exists")
    assert r"messages[1] differs at character 0: sent 'wrong' (U+0077), recorded 'right\n' (U+0072)" in not_found


def test_bad_recordings_end_it_with_one_line(tmp_path: Path) -> None:
    ended, *_ = run_locust(tmp_path, MOCKCHAT_DATA=str(tmp_path / "none.json"))
    lines = ended.stderr.splitlines()
    assert (ended.returncode, ended.stdout) == (1, "")
    assert lines[1:] == [f"locust: {tmp_path / 'none.json'}: No such file or directory"]
