import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mockchat.core.program import ProgramError
from mockchat.requester import files
from mockchat.requester.files import as_json
from mockchat.requester.plan import Load
from mockchat.requester.report import latency_ms
from mockchat.requester.result import Result
from tests.requester.test_report import FAILURES, LOAD, STREAMS, result

NOBODY = 65534


@contextmanager
def as_nobody() -> Iterator[None]:
    """As a user who may not do everything."""
    is_root = os.getuid() == 0
    if is_root:
        os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        if is_root:
            os.setresuid(0, 0, 0)


def picture(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """All that is in a folder: how it is called, what it is, when it was written, what it holds."""
    found = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        found[str(path)] = (status.st_mode, status.st_mtime_ns, content)
    return found


def test_to_find_out_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "chain").symlink_to("link")
    (tmp_path / "file").write_text("kept")
    (tmp_path / "to file").symlink_to("file")
    os.mkfifo(tmp_path / "fifo")
    before = picture(tmp_path)
    files.check([tmp_path / name for name in ("link", "file", "fifo", "new")], [])
    files.check([tmp_path / "chain", Path("/dev/null")], [tmp_path / "file"])
    assert picture(tmp_path) == before
    files.write_json(tmp_path / "chain", {})
    assert (tmp_path / "nowhere").read_text("utf-8") == "{}\n"
    assert (tmp_path / "link").is_symlink()


def test_what_can_t_be_written(tmp_path: Path) -> None:
    (tmp_path / "far").symlink_to("no/where")
    (tmp_path / "file").write_text("")
    for folder in (tmp_path, *tmp_path.parents):  # pytest keeps its folders to itself.
        if folder.name and not folder.stat().st_mode & 0o005:
            folder.chmod(0o755)
    shut, closed = tmp_path / "shut", tmp_path / "closed"
    shut.mkdir(mode=0o500)
    closed.mkdir(mode=0)
    for path, why in (
        (tmp_path, "Is a directory"),
        (tmp_path / "no" / "where", "No such directory"),
        (tmp_path / "far", "No such directory"),
        (tmp_path / "file" / "f", "No such directory"),
        (shut / "f", "Permission denied"),
        (closed / "f", "Permission denied"),
    ):
        with as_nobody(), pytest.raises(ProgramError) as raised:
            files.check([path], [])
        assert str(raised.value) == f"can't write {path}: {why}"


def test_no_file_is_written_that_is_read_or_written_already(tmp_path: Path) -> None:
    data, new = tmp_path / "data", tmp_path / "new"
    data.write_text("[]")
    (tmp_path / "link").symlink_to("data")
    for paths in ([data], [tmp_path / "link"], [new, tmp_path / "x" / ".." / "new"]):
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(ProgramError, match="is the file of the recordings, or of another option: give another"):
            files.check(paths, [data])
    assert data.read_text() == "[]"
    with pytest.raises(ProgramError, match=r"can't write .*/no/f: No such file"):
        files.write_json(tmp_path / "no" / "f", {})


def test_json_may_go_to_standard_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files.check([files.STANDARD_OUTPUT, Path("file")], [])
    for given, streams in ((files.STANDARD_OUTPUT, ("{}\n", "told\n")), (Path("file"), ("told\n{}\n", ""))):
        with files.standard_output_kept(given):
            print("told")
        files.write_json(files.STANDARD_OUTPUT, {})
        assert capsys.readouterr() == streams
    assert not picture(tmp_path)


# The JSON


def test_json_has_the_promised_keys() -> None:
    found = as_json(result(3, *FAILURES), 9, LOAD)
    assert json.loads(json.dumps(found)) == {
        "version": 2,
        "requests": 8,
        "conversations": 9,
        "passed": 3,
        "not_found": 1,
        "mismatched": 1,
        "errors": 3,
        "interrupted": False,
        "processes": 1,
        "lost_processes": [],
        "elapsed_s": 2.0,
        "sending_s": 2.0,
        "drain_s": 0.0,
        "cpu_s": 0.0,
        "requests_per_s": 4.0,
        "concurrency": 2,
        "in_flight": {"mean": 1.75, "max": 2},
        "rate": None,
        "retries": 0,
        "attempts": {"1": 8},
        "bytes_sent": 12345,
        "bytes_received": 999,
        "latency_ms": latency_ms(result().latencies),
        "failure_latency_ms": latency_ms([0.25] * 5),
        "failures": found["failures"],
    }
    assert found["failures"][0] == {
        "conversation_id": "a",
        "message_index": 1,
        "at_s": 0.5,
        "latency_ms": 250.0,
        "kind": "not_found",
        "cause": "status 404",
        "detail": "nothing",
    }


def test_where_nothing_was_timed_there_are_no_figures() -> None:
    found = as_json(Result(), 0, STREAMS)
    assert [found[name] for name in ("latency_ms", "failure_latency_ms", "ttft_ms", "itl_ms")] == [None] * 4
    assert found["requests_per_s"] == found["in_flight"]["mean"] == 0


def test_requests_a_second_are_those_while_they_were_sent() -> None:
    found = result(1000)
    found.elapsed, found.sending = 12.5, 10.0
    told = as_json(found, 9, Load(concurrency=2, rate=100, duration=10))
    assert [told[name] for name in ("elapsed_s", "sending_s", "drain_s", "requests_per_s")] == [12.5, 10, 2.5, 100]


def test_streams_have_the_times_of_their_tokens() -> None:
    found = result()
    found.first_tokens.extend([0.002, 0.004])
    found.gaps.extend([0.01, 0.02, 0.03])
    report = as_json(found, 9, STREAMS)
    assert (report["ttft_ms"]["max"], report["itl_ms"]["mean"]) == (4.0, 20.0)


def test_attempts_and_lost_processes() -> None:
    found = result(1000, *FAILURES)
    found.retried.update({3: 2, 2: 7})
    found.lost.append("process 1 of 3 was ended by signal 9 (Killed)")
    told = as_json(found, 9, Load(concurrency=2, retries=5))
    assert (told["attempts"], told["retries"]) == ({1: 996, 2: 7, 3: 2}, 5)
    assert told["lost_processes"] == found.lost
