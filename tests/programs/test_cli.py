"""The command lines: what a user sees.

Where nothing but its text and its exit status matters, a program's function is called in this process (`Call`), which
takes a tenth of the time. What a process is, with its signals, its streams and its terminal, is tested with real ones.
"""

import ast
import gzip
import json
import os
import pty
import re
import runpy
import signal
import socket
import subprocess
import sys
import termios
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import mockchat
from mockchat import bench
from mockchat.core import recordings
from mockchat.core.program import ProgramError
from mockchat.testing.server import serve
from tests.helpers import SAMPLE, SHARED, WriteDataset, entry, request_body
from tests.programs import REQUESTER, SERVER, STOP_TIMEOUT, Call, environment, run_requester, running_server

ENV = environment()


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    """A server's, which Ctrl-C stops."""
    with running_server("--data", str(SAMPLE), env=ENV) as (url, process):
        yield url
        process.send_signal(signal.SIGINT)
        assert process.wait(STOP_TIMEOUT) == 0


# The requester


def test_a_clean_run(base_url: str, tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    ended = run_requester("--base-url", base_url, "--data", str(SAMPLE), "--json", str(output), env=ENV)
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = ended.stdout.splitlines()
    assert lines[0] == f"Reading {SAMPLE}"
    assert re.fullmatch(
        r"Parsed 70 conversations \(78 entries, 169 replies; 8 pieces joined, 2 of them do not line up\) "
        r"in \d+\.\d\d s",
        lines[1],
    )
    assert lines[-1] == "All 169 replies verified."
    result = json.loads(output.read_text())
    assert (result["requests"], result["passed"], result["failures"]) == (169, 169, [])
    assert (result["conversations"], result["concurrency"]) == (70, os.cpu_count())


def test_limit_and_retries(base_url: str, call: Call) -> None:
    ended = call(REQUESTER, "--base-url", base_url, "--data", str(SAMPLE), "--limit", "7", "--retries", "2")
    assert ended.returncode == 0
    assert "Requests     7 over 70 conversations" in ended.stdout
    assert "Attempts     1: 7\n" in ended.stdout


def test_streams(base_url: str, call: Call, tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    ended = call(REQUESTER, "--base-url", base_url, "--data", str(SAMPLE), "--stream", "--json", str(output))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "Time to first token, ms" in ended.stdout
    assert json.loads(output.read_text())["ttft_ms"]["min"] > 0


def test_a_server_that_asks_for_a_key(call: Call, tmp_path: Path) -> None:
    """Anyone can reach it, and it does not warn of that."""
    options = ("--data", str(SAMPLE), "--host", "0.0.0.0", "--api-key", "one", "--api-key", " two ")
    errors = tmp_path / "errors"
    with errors.open("w") as file, running_server(*options, env=ENV, stderr=file) as (url, _):
        arguments = ("--base-url", url, "--data", str(SAMPLE))
        assert call(REQUESTER, *arguments, "--api-key", "two").returncode == 0
        assert call(REQUESTER, *arguments, OPENAI_API_KEY="one").returncode == 0
        by_header = ("--header", "authorization: Bearer one")
        assert call(REQUESTER, *arguments, *by_header, OPENAI_API_KEY="other").returncode == 0
        refused = call(REQUESTER, *arguments, "--api-key", "three")
    assert errors.read_text() == ""
    assert refused.returncode == 1
    assert "1 x error: status 401 (p50 " in refused.stdout
    assert "  Incorrect API key provided\n" in refused.stdout


def test_a_miss_is_explained(base_url: str, call: Call, write_dataset: WriteDataset) -> None:
    path = write_dataset([entry("a_0", "tell me a joke\u00a0", "no")])
    ended = call(REQUESTER, "--base-url", base_url, "--data", str(path))
    assert ended.returncode == 1
    assert re.search(r"1 x not_found: status 404 \(.*\)\n  first in conversation a, message 1:\n", ended.stdout)
    told = " ".join(ended.stdout.split())
    assert "No valid response exists for the given request: messages[0] differs at character" in told
    assert "\\xa0" in told


def test_failures_are_told_and_exit_1(base_url: str, call: Call, tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    arguments = ("--base-url", base_url, "--data", str(SAMPLE), "--json", str(output))
    ended = call(REQUESTER, *arguments, "--keep-going", SEED_ERRORS="1")
    assert (ended.returncode, ended.stderr) == (1, "")
    result = json.loads(output.read_text())
    assert result["requests"] == 169
    assert result["not_found"] > 0
    assert result["mismatched"] > 0
    assert len(result["failures"]) == 169 - result["passed"]
    assert "SEED_ERRORS: " in ended.stdout
    assert "FAILED: " in ended.stdout
    ended = call(REQUESTER, *arguments, SEED_ERRORS="1")
    assert ended.returncode == 1
    assert len(json.loads(output.read_text())["failures"]) == 1


def test_no_server_is_a_failure(call: Call) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/v1"
        ended = call(REQUESTER, "--base-url", url, "--data", str(SAMPLE))
    assert (ended.returncode, ended.stderr) == (1, "")
    assert "1 x error: no connection" in ended.stdout
    assert "does a server listen there?" in " ".join(ended.stdout.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ("--concurrency", "0"),
        ("--data", "missing.json"),
        ("--json", "/nowhere/result.json"),
        ("--json", str(SAMPLE), "--data", str(SAMPLE)),
        ("--json", str(SAMPLE), "--data", str(SAMPLE), "--data", "missing.json"),
        ("--data", str(SAMPLE), "--data", "missing.json"),
        ("--json", str(recordings.DATASETS[-1])),
        ("--unknown",),
    ],
)
def test_what_can_not_run_exits_2(arguments: tuple[str, ...], call: Call) -> None:
    ended = call(REQUESTER, *arguments)
    *usage, line = ended.stderr.splitlines()
    assert ended.returncode == 2
    assert usage in ([], ["usage: requester.py [options] (--help lists them)"])
    assert line.startswith("requester.py: ")


def test_what_can_not_run_leaves_the_last_result(tmp_path: Path, call: Call) -> None:
    output = tmp_path / "result.json"
    output.write_text("precious")
    assert call(REQUESTER, "--data", "missing.json", "--json", str(output)).returncode == 2
    assert output.read_text() == "precious"
    output.unlink()
    assert call(REQUESTER, "--data", "missing.json", "--json", str(output)).returncode == 2
    assert not output.exists()


@pytest.mark.parametrize("program", [SERVER, REQUESTER])
def test_output_that_can_not_be_printed_is_one_line(program: Path) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, str(program), "--data", str(SAMPLE)]
        ended = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=STOP_TIMEOUT, check=False, env=ENV
        )
    assert ended.returncode == 2
    assert ended.stderr == f"{program.name}: can't print: No space left on device\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_interrupted_it_tells_what_was_done(tmp_path: Path, number: signal.Signals) -> None:
    """Though the server that it waits for never answers."""
    output = tmp_path / "result.json"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(STOP_TIMEOUT)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        command = [sys.executable, str(REQUESTER), "--base-url", url, "--data", str(SAMPLE), "--json", str(output)]
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENV) as process,
            silent.accept()[0] as accepted,
        ):
            accepted.recv(1)
            process.send_signal(number)
            printed, errors = process.communicate(timeout=STOP_TIMEOUT)
    assert (process.returncode, errors) == (130, "")
    assert "Interrupted: the 0 answers so far are verified." in printed
    result = json.loads(output.read_text())
    assert (result["requests"], result["interrupted"]) == (0, True)


# The requester's processes


def test_several_processes_are_one_run_with_one_report(base_url: str, call: Call, tmp_path: Path) -> None:
    arguments = ("--base-url", base_url, "--data", str(SAMPLE), "--concurrency", "3")
    ended = call(REQUESTER, *arguments, "--processes", "4")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "(limit 4) by 4 processes" in ended.stdout
    assert ended.stdout.count("All 169 replies verified.") == ended.stdout.count("Elapsed") == 1
    found = []
    for processes in ("1", "2"):
        output = tmp_path / f"{processes}.json"
        options = ("--processes", processes, "--keep-going", "--json", str(output))
        assert call(REQUESTER, *arguments, *options, SEED_ERRORS="1").returncode == 1
        found.append(json.loads(output.read_text()))
    one, two = found
    assert (one["processes"], two["processes"], two["lost_processes"]) == (1, 2, [])
    assert one["attempts"] == two["attempts"] == {"1": 169}
    keys = ("conversation_id", "message_index", "kind")
    assert (
        len({tuple(sorted(tuple(failure[key] for key in keys) for failure in run["failures"])) for run in found}) == 1
    )
    assert [failure["at_s"] for failure in two["failures"]] == sorted(failure["at_s"] for failure in two["failures"])


def test_no_more_processes_than_requests(base_url: str, call: Call) -> None:
    arguments = ("--base-url", base_url, "--data", str(SAMPLE), "--processes", "50", "--limit", "1")
    ended = call(REQUESTER, *arguments, "--concurrency", "1", "--duration", "60")
    assert ended.returncode == 0
    assert "1 at most (limit 1)\n" in ended.stdout
    assert "All 1 replies verified." in ended.stdout


@contextmanager
def two_processes(*options: str) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A requester with two processes, each of which waits for an answer; gives it, and their ids."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(STOP_TIMEOUT)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        command = [sys.executable, str(REQUESTER), "--base-url", url, "--data", str(SAMPLE), "--processes", "2"]
        with (
            subprocess.Popen(
                [*command, *options],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=ENV,
                start_new_session=True,
            ) as process,
            silent.accept()[0],
            silent.accept()[0],
        ):
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            yield process, list(map(int, children))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_is_one_interruption(number: signal.Signals) -> None:
    """As a terminal sends it, or `timeout`."""
    with two_processes() as (process, _):
        os.killpg(process.pid, number)
        printed, errors = process.communicate(timeout=STOP_TIMEOUT)
    assert (process.returncode, errors) == (130, "")
    assert printed.count("Interrupted: the 0 answers so far are verified.") == 1


def test_a_process_that_is_killed_is_a_failure(tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    with two_processes("--json", str(output)) as (process, (_, second)):
        os.kill(second, signal.SIGKILL)
        printed, errors = process.communicate(timeout=STOP_TIMEOUT)
    assert (process.returncode, errors) == (1, "")
    how = "process 2 of 2 was ended by signal 9 (Killed)"
    assert printed.endswith(f"\n\nFAILED: {how}, and its results are lost.\n")
    assert json.loads(output.read_text())["lost_processes"] == [how]


def test_processes_do_not_outlive_their_parent() -> None:
    with two_processes() as (process, children):
        process.kill()
        printed, errors = process.communicate(timeout=STOP_TIMEOUT)  # Until the last of them closes its side.
    assert (printed.count("\n"), errors, len(children)) == (3, "", 2)


def test_a_second_signal_ends_it_at_once() -> None:
    with two_processes() as (process, children):
        for child in children:
            os.kill(child, signal.SIGSTOP)  # It will not say what it found.
        signals = 0
        while process.poll() is None and signals < 60:
            process.send_signal(signal.SIGINT)
            signals += 1
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.5)
        assert (process.returncode, signals >= 2) == (130, True)
        assert process.communicate(timeout=STOP_TIMEOUT)[1] == ""


# The server


def test_it_says_where_it_listens(base_url: str) -> None:
    assert re.fullmatch(r"http://127\.0\.0\.1:[1-9]\d*/v1", base_url)
    with urllib.request.urlopen(f"{base_url}/chat/completions", data=request_body(("user", "hi"))) as response:
        assert response.status == 200


def test_ipv6(call: Call) -> None:
    with running_server("--data", str(SAMPLE), "--host", "::1", env=ENV) as (url, _):
        assert url.startswith("http://[::1]:")
        assert call(REQUESTER, "--base-url", url, "--data", str(SAMPLE)).returncode == 0


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
def test_a_larger_body_than_allowed_is_refused(write_dataset: WriteDataset, call: Call) -> None:
    path = write_dataset([entry("a_0", "x" * 2_000_000, "long", "short", "fine")])
    with serve(path, max_body_mb=1) as server:
        ended = call(REQUESTER, "--base-url", server.base_url, "--data", str(path))
    assert ended.returncode == 1
    assert "status 413" in ended.stdout


def test_options_of_the_server_from_its_command_line(write_dataset: WriteDataset, capfd: Any) -> None:
    """Those that no other test of a real server gives. Without a key it warns of who can reach it."""
    path = write_dataset([entry("a_0", "hi 1", "hello"), entry("a_1", "ho", "hello")])
    reading = ("--data", str(path), "--host", "0.0.0.0", "--ignore", r"\d", "--no-stitch")
    limits = ("--max-body-mb", "1", "--max-memory-mb", "1", "--shutdown-timeout", "0.5", "--log")
    simulated = ("--ttft-ms", "1", "--itl-ms", "1", "--jitter", "0.1", "--random-seed", "1", "--fault", "503=first:1")
    statuses = []
    with running_server(*reading, *limits, *simulated, env=ENV) as (url, _):
        for text in ("hi 2", "hi 3", "ho", "ho", "x" * 2**20):
            try:
                with urllib.request.urlopen(f"{url}/chat/completions", request_body(("user", text))) as response:
                    statuses.append(response.status)
            except urllib.error.HTTPError as error:
                statuses.append(error.code)
    assert statuses == [503, 200, 503, 200, 413]
    warning, *logged = capfd.readouterr().err.splitlines()
    assert warning == "Anyone who can reach 0.0.0.0 can read the recordings: --api-key asks for a key"
    assert [int(line.split()[1]) for line in logged] == statuses


def test_a_port_in_use(base_url: str, call: Call) -> None:
    port = base_url.split(":")[2].split("/")[0]
    ended = call(SERVER, "--data", str(SAMPLE), "--port", port)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"server.py: can't listen on '127.0.0.1', port {port}: ")
    assert len(ended.stderr.splitlines()) == 1
    assert "Serving" not in ended.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("--port", "65536"),
        ("--host", "no.such.host.invalid"),
        ("--host", "a..b"),
        ("--host", ""),
        ("--data", "/"),
        ("--fault", "stall=0.5", "--fault", "429=0.6"),
    ],
)
def test_a_server_that_can_not_run_exits_2(arguments: tuple[str, ...], call: Call) -> None:
    ended = call(SERVER, "--data", str(SAMPLE), *arguments)
    *usage, line = ended.stderr.splitlines()
    assert ended.returncode == 2
    assert usage in ([], ["usage: server.py [options] (--help lists them)"])
    assert line.startswith("server.py: ")


@pytest.mark.parametrize("program", [SERVER, REQUESTER])
def test_its_version(program: Path, call: Call) -> None:
    ended = call(program, "--version")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"mockchat {mockchat.__version__}\n", "")


@pytest.mark.parametrize("program", [SERVER, REQUESTER])
def test_an_older_python_is_told_what_is_needed(
    program: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "version_info", (2, 7, 18))
    monkeypatch.setattr(sys, "version", "2.7.18 (default)")
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(program))
    assert ended.value.code == 2
    told = f"{program.name}: this is Python 2.7.18, and 3.11 or later is needed: try python3.13 {program.name}\n"
    assert capsys.readouterr().err == told
    ast.parse(program.read_bytes(), feature_version=(3, 4))


@pytest.mark.parametrize("program", [SERVER, REQUESTER])
def test_without_its_packages_it_says_what_to_do(program: Path) -> None:
    command = [sys.executable, "-S", str(program)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=STOP_TIMEOUT, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    told = f"{program.name}: No module named '\\w+': make install, and then .venv/bin/python {program.name}\n"
    assert re.fullmatch(told, ended.stderr)


def test_a_bad_file_is_one_line(write_dataset: WriteDataset, call: Call) -> None:
    """Though it can't be printed as it is."""
    path = write_dataset(b'[{"id": "\xe9\x88\xba", "conversations": [{"from": "x\\u0000\\n", "value": ""}]}]')
    command = [sys.executable, str(SERVER), "--data", str(path)]
    ascii_only = ENV | {"PYTHONIOENCODING": "ascii"}
    in_ascii = subprocess.run(
        command, capture_output=True, text=True, timeout=STOP_TIMEOUT, check=False, env=ascii_only
    )
    for ended in (in_ascii, call(SERVER, "--data", str(path))):
        assert ended.returncode == 2
        assert len(ended.stderr.splitlines()) == 1
        assert "entry 0" in ended.stderr


def test_files_whose_ids_only_look_like_pieces_get_a_hint(write_dataset: WriteDataset, call: Call) -> None:
    path = write_dataset([entry(f"identity_{number}", f"hi {number}", "hello", "and?", "yes") for number in range(9)])
    hint = "use --no-stitch"
    stitched = call(REQUESTER, "--data", str(path), "--base-url", "http://127.0.0.1:1/v1").stdout
    assert hint in stitched
    assert "Parsed 1 conversations" in stitched
    apart = call(REQUESTER, "--data", str(path), "--base-url", "http://127.0.0.1:1/v1", "--no-stitch").stdout
    assert hint not in apart
    assert "Parsed 9 conversations" in apart


def on_a_terminal(command: list[str], env: dict[str, str] = ENV) -> tuple[int, str]:
    """Run a program on a terminal of 80 columns: its exit status, and all that was shown."""
    terminal, side = pty.openpty()
    termios.tcsetwinsize(side, (24, 80))
    with subprocess.Popen(command, stdout=side, stderr=side, env=env, text=True) as process:
        os.close(side)
        shown = b""
        try:
            while data := os.read(terminal, 4096):
                shown += data
        except OSError:  # The other side is closed.
            pass
        os.close(terminal)
        return process.wait(STOP_TIMEOUT), shown.decode()


def test_on_a_terminal_a_bar_runs_while_a_big_file_loads(write_dataset: WriteDataset) -> None:
    path = write_dataset([entry(f"c{number}_0", f"question {number}", "answer " * 3000) for number in range(1000)])
    command = [sys.executable, str(SERVER), "--data", str(path), "--host", "no.such.host.invalid"]
    status, shown = on_a_terminal(command)
    assert status == 2
    assert "%|" in shown
    assert "21.1M" in shown


@pytest.mark.parametrize(
    ("options", "env", "bar", "colour"),
    [
        ([], {}, True, True),
        (["--processes", "2"], {"NO_COLOR": "1"}, True, False),
        (["--quiet"], {}, False, True),
    ],
)
def test_on_a_terminal_the_requester_shows_how_far_it_is(
    base_url: str, options: list[str], env: dict[str, str], bar: bool, colour: bool
) -> None:
    command = [sys.executable, str(REQUESTER), "--base-url", base_url, "--data", str(SAMPLE), "--rate", "300", *options]
    status, shown = on_a_terminal(command, ENV | env)
    assert status == 0
    assert ("/169 [" in shown) == bar
    assert ("failed=0" in shown) == bar
    assert ("\033[32mAll 169 replies verified.\033[0m" in shown) == colour
    assert ("Elapsed" in shown) == ("--quiet" not in options)


def test_quiet_in_a_pipe_is_one_line(base_url: str, call: Call) -> None:
    ended = call(REQUESTER, "--base-url", base_url, "--data", str(SAMPLE), "--quiet")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "All 169 replies verified.\n", "")


def test_quiet_names_the_first_failure(base_url: str, call: Call) -> None:
    ended = call(REQUESTER, "--base-url", base_url, "--data", str(SAMPLE), "--quiet", SEED_ERRORS="1")
    verdict, first = ended.stdout.splitlines()
    assert (ended.returncode, ended.stderr) == (1, "")
    assert re.fullmatch(r"FAILED: 1 of \d+ requests\.", verdict)
    assert re.match(r"(not_found|mismatched): .*, first in conversation \w+, message \d+: .", first)


def test_standard_output_is_json_alone(base_url: str, call: Call) -> None:
    arguments = ("--base-url", base_url, "--data", str(SAMPLE), "--keep-going", "--processes", "2")
    ended = call(REQUESTER, *arguments, "--json", "-", SEED_ERRORS="1")
    failures = json.loads(ended.stdout)["failures"]
    assert ended.returncode == 1
    assert ended.stderr.endswith(f"FAILED: {len(failures)} of 169 requests.\n")
    assert "Elapsed" in ended.stderr


def test_a_model_is_named(call: Call, write_dataset: WriteDataset) -> None:
    """Gateways refuse a request without one."""
    path = write_dataset([entry("a_0", "hi", "hello")])
    with serve(path) as server:
        for given in ([], ["--model", "gpt-x"]):
            assert call(REQUESTER, "--base-url", server.base_url, "--data", str(path), *given).returncode == 0
        assert [request.body["model"] for request in server.requests] == ["mockchat", "gpt-x"]


def test_at_a_rate_the_cpu_count_is_no_limit(base_url: str, call: Call, tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    arguments = ("--base-url", base_url, "--data", str(SAMPLE), "--limit", "3", "--rate", "100", "--json", str(output))
    for given, limit in (((), 1000), (("--concurrency", "2"), 2)):
        assert call(REQUESTER, *arguments, *given).returncode == 0
        assert json.loads(output.read_text())["concurrency"] == limit


def test_https_to_a_server_of_http_has_a_hint(base_url: str, call: Call) -> None:
    ended = call(REQUESTER, "--base-url", base_url.replace("http:", "https:"), "--data", str(SAMPLE))
    assert ended.returncode == 1
    assert "if it serves http, try http://" in " ".join(ended.stdout.split())


def test_no_id_is_printed_raw(call: Call, write_dataset: WriteDataset) -> None:
    path = write_dataset([entry("a\nAll 5 replies verified.\x1b", "hi", "hello")])
    for options in ((), ("--quiet",)):
        ended = call(REQUESTER, "--base-url", "http://127.0.0.1:1/v1", "--data", str(path), *options)
        assert ended.returncode == 1
        assert "\nAll 5" not in ended.stdout
        assert "\x1b" not in ended.stdout


def test_it_says_what_is_not_asked_for(base_url: str, call: Call) -> None:
    arguments = ("--base-url", base_url, "--data", str(SAMPLE), "--duration", "60", "--limit", "200", "--shuffle")
    ended = call(REQUESTER, *arguments)
    assert ended.returncode == 0
    assert "2 conversations have no assistant message: nothing is asked of them" in ended.stdout
    assert ended.stdout.splitlines()[-1] == "All 200 replies verified."


@pytest.mark.parametrize(
    ("program", "options"),
    [
        (SERVER, "--host --port --data --no-stitch --max-body-mb --api-key"),
        (
            REQUESTER,
            "--base-url --data --no-stitch --concurrency --limit --keep-going --stream --json --model --api-key "
            "--header --rate --duration --shuffle --random-seed --timeout --retries --processes --quiet",
        ),
    ],
)
def test_help_names_every_option(program: Path, options: str, call: Call) -> None:
    ended = call(program, "--help")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert not [option for option in options.split() if option not in ended.stdout]


# make bench


def test_bench_keeps_the_requester_s_status() -> None:
    """Each program gets its own options; SEED_ERRORS is the requester's alone, or nothing would be found.

    That a clean run ends with 0 is what the README's `make bench` shows.
    """
    options = ["--data", str(SAMPLE), "--concurrency", "3", "--processes", "2", "--keep-going", "--ttft-ms", "0"]
    ended = subprocess.run(
        [sys.executable, "-m", "mockchat", "bench", *options, "--stream"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment(SEED_ERRORS="1"),
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("404: not recorded: ")
    assert "(limit 3) by 2 processes" in ended.stdout
    assert "Time to first token, ms" in ended.stdout
    assert "\nSEED_ERRORS: " in ended.stdout
    assert "[server] SEED_ERRORS" not in ended.stdout


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--steam"], "neither the server nor the requester takes --steam: see their --help"),
        (["data.json"], "neither the server nor the requester takes data.json: see their --help"),
        (["--rate", "fast"], "argument --rate: 'fast' is not a number above 0"),
    ],
)
def test_bench_refuses_what_no_program_takes(options: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((SystemExit, ProgramError)) as ended:
        bench.share(["--stream", *options] if options[0].startswith("--") else options)
    assert told in f"{ended.value} {capsys.readouterr().err}"


def test_bench_hands_each_option_to_whom_it_concerns() -> None:
    given = ["--data", "a b", "--ttft-ms=5", "--random-seed", "-7", "--stream", "--header", "K: V"]
    served, replayed = bench.share(given)
    assert served == ["--data", "a b", "--ttft-ms=5", "--random-seed", "-7"]
    assert replayed == ["--data", "a b", "--random-seed", "-7", "--stream", "--header", "K: V"]


@pytest.mark.skipif(not SHARED.exists(), reason="no shared recordings here")
def test_bench_of_files_of_every_form(tmp_path: Path) -> None:
    packed = tmp_path / "sample"
    packed.write_bytes(gzip.compress(SAMPLE.read_bytes()))
    files = [packed, *SHARED.glob("*.json")]
    command = [sys.executable, "-m", "mockchat", "bench", "--no-stitch", *(f"--data={file}" for file in files)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=ENV)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert len(files) == 7
    assert "All 2,451 replies verified." in ended.stdout


def test_bench_without_a_server_exits_2(capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as ended:
            bench.main(["--data", "missing.json"])
        assert ended.value.code == 2
    finally:
        signal.signal(signal.SIGINT, before)
    assert capfd.readouterr().err == "mockchat serve: missing.json: No such file or directory\n"
