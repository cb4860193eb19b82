"""The files that a run writes: whether they can be written is found out before it, without a trace."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mockchat.core.program import ProgramError
from mockchat.requester import cli

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
    cli.check([tmp_path / name for name in ("link", "file", "fifo", "new")], [])
    cli.check([tmp_path / "chain", Path("/dev/null")], [tmp_path / "file"])
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
            cli.check([path], [])
        assert str(raised.value) == f"can't write {path}: {why}"


def test_no_file_is_written_that_is_read_or_written_already(tmp_path: Path) -> None:
    data, new = tmp_path / "data", tmp_path / "new"
    data.write_text("[]")
    (tmp_path / "link").symlink_to("data")
    for paths in ([data], [tmp_path / "link"], [new, tmp_path / "x" / ".." / "new"]):
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(ProgramError, match="is the file of the recordings, or of another option: give another"):
            cli.check(paths, [data])
    assert data.read_text() == "[]"
    with pytest.raises(ProgramError, match=r"can't write .*/no/f: No such file"):
        cli._write(tmp_path / "no" / "f", lambda path: path.write_text("{}"))
