"""Where recordings are: in a clone, in an installed package, or where a name says."""

import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from shutil import copy, copytree

import pytest

from mockchat.core import recordings
from mockchat.core.entries import DatasetError
from tests.helpers import SAMPLE
from tests.programs import ROOT, STOP_TIMEOUT, environment
from tests.requester.test_cli import as_nobody


def test_the_word_sample_is_the_sample_and_a_path_is_a_file() -> None:
    assert recordings.named("sample").resolve() == SAMPLE
    assert recordings.named("./sample") == recordings.named(Path("sample")) == Path("sample")


def test_the_default_is_the_first_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    big, small = tmp_path / "big.json", tmp_path / "small.json"
    monkeypatch.setattr(recordings, "DATASETS", (big, small))
    with pytest.raises(DatasetError, match="name some with --data FILE"):
        recordings.default()
    small.touch()
    assert recordings.default() == small
    big.touch()
    assert recordings.default() == big


def test_an_installed_package_has_the_sample(tmp_path: Path) -> None:
    """Laid out as `setup.cfg` says: it maps `mockchat.data` onto the folder `data`."""
    installed = tmp_path / "mockchat"
    copytree(ROOT / "mockchat", installed)
    (installed / "data").mkdir()
    sample = copy(SAMPLE, installed / "data")
    ask = "from mockchat.core import recordings as r; print(r.default().resolve(), r.named('sample').resolve())"
    ended = subprocess.run(
        [sys.executable, "-c", ask],
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=STOP_TIMEOUT,
        check=True,
    )
    assert ended.stdout == f"{sample} {sample}\n"


def test_setup_cfg_names_every_package_and_of_the_data_only_the_sample() -> None:
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    folders = {file.parent.relative_to(ROOT) for file in (ROOT / "mockchat").rglob("__init__.py")}
    packages = {".".join(folder.parts) for folder in folders}
    assert set(config["options"]["packages"].split()) == packages | {"mockchat.data"}
    assert config["options"]["package_dir"].strip() == "mockchat.data = data"
    assert config["options.package_data"]["mockchat.data"] == SAMPLE.name


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
