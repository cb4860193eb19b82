from pathlib import Path

import pytest

from mockchat.core import recordings
from mockchat.core.entries import DatasetError
from tests.requester.test_outputs import as_nobody


def test_recordings_that_can_t_be_read_are_named(tmp_path: Path) -> None:
    """Also where even whether they are there can't be found out: so it is for a container that runs as nobody."""
    closed = tmp_path / "closed"
    closed.mkdir()
    (closed / "f").write_text("[]")
    closed.chmod(0)
    with as_nobody():
        for path in (closed / "f", tmp_path / ("x" * 300)):
            with pytest.raises(DatasetError) as raised:
                recordings.load([path], quiet=True)
            assert str(raised.value) in (f"{path}: Permission denied", f"{path}: File name too long")
    closed.chmod(0o700)
