"""The options: which type each has, and what follows from one for another.

And the file that a run writes: whether it can be written is found out before the run, without a trace.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mockchat.core.program import ProgramError
from mockchat.requester import cli

NOBODY = 65534


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("--base-url", "127.0.0.1:8000"),
        ("--base-url", "http://[::1/v1"),
        ("--base-url", "http://127.0.0.1:99999/v1"),
        ("--api-key", "sk-abc\r"),
        ("--header", "no colon"),
        ("--header", "X: a\nb"),
        ("--header", ": b"),
        ("--ignore", "("),
        ("--concurrency", "0"),
        ("--rate", "0"),
        ("--duration", "-1"),
        ("--limit", "-1"),
        ("--random-seed", "x"),
        ("--timeout", "0"),
        ("--retries", "-1"),
        ("--processes", "0"),
    ],
)
def test_what_an_option_refuses(name: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.parse([f"{name}={text}"])
    assert ended.value.code == 2
    assert f"error: argument {name}: " in capsys.readouterr().err


@pytest.mark.parametrize("name", ["--quie", "--conc=3", "--unknown"])
def test_a_name_is_never_cut_short(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.parse([name])
    assert f"unrecognized arguments: {name}" in capsys.readouterr().err


def test_what_follows_from_other_options() -> None:
    assert cli.parse([]).concurrency == os.cpu_count()
    assert cli.parse(["--rate", "5"]).concurrency == cli.IN_FLIGHT_AT_A_RATE
    assert cli.parse(["--rate", "5", "--concurrency", "2"]).concurrency == 2
    assert not cli.parse([]).shuffle
    assert cli.parse(["--random-seed", "0"]).shuffle


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
    for path in [tmp_path / name for name in ("link", "file", "fifo", "new")]:
        cli.check(path, [])
    for path in (tmp_path / "chain", Path("/dev/null")):
        cli.check(path, [tmp_path / "file"])
    assert picture(tmp_path) == before


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
        (tmp_path, "give a file in a folder that exists"),
        (tmp_path / "no" / "where", "give a file in a folder that exists"),
        (tmp_path / "far", "give a file in a folder that exists"),
        (tmp_path / "file" / "f", "give a file in a folder that exists"),
        (shut / "f", "Permission denied"),
        (closed / "f", "Permission denied"),
    ):
        with as_nobody(), pytest.raises(ProgramError) as raised:
            cli.check(path, [])
        assert str(raised.value) == f"can't write {path}: {why}"


def test_no_file_is_written_that_is_read(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.write_text("[]")
    (tmp_path / "link").symlink_to("data")
    (tmp_path / "x").mkdir()
    for path in (data, tmp_path / "link", tmp_path / "x" / ".." / "data"):
        with pytest.raises(ProgramError, match="is the file of the recordings: give another"):
            cli.check(path, [data])
    assert data.read_text() == "[]"
    with pytest.raises(ProgramError, match=r"can't write .*/no/f: No such file"):
        cli._write(tmp_path / "no" / "f", "{}")
