"""What `--mockchat-record` asks for, before the first test runs: whether it can be done, and into which file."""

import os
from argparse import ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path

import pytest
from yarl import URL

from mockchat.core import arguments
from mockchat.core.entries import DatasetError
from mockchat.server.record_file import RecordFile
from mockchat.testing.server import Recorder

OPTION = "--mockchat-record"


def prepare(config: pytest.Config, upstream: str, files: Sequence[Path]) -> tuple[Recorder, str]:
    """What records the answers of `upstream`, its file open; and what to say of it.

    `files` are those of recordings, of which there must be one. Raises `pytest.UsageError`.
    """
    if os.environ.get("CI") and not config.getoption("mockchat_record_in_ci"):
        raise pytest.UsageError(f"{OPTION} is refused where CI is set: add {OPTION}-in-ci if it is meant")
    if hasattr(config, "workerinput") or config.getoption("dist", "no") != "no":
        raise pytest.UsageError(f"{OPTION}: one process at a time can record, so switch pytest-xdist off by -n 0")
    if len(files) != 1:
        names = ", ".join(map(str, files))
        problem = f"mockchat_data names {len(files)} files, and it can't be known which to record into: {names}"
        raise pytest.UsageError(f"{OPTION}: {problem}: add -o mockchat_data=FILE to name one")
    [path] = files
    try:
        arguments.base_url(upstream)
        if URL(upstream).user:
            raise ArgumentTypeError(
                "it names a user: what clients send as Authorization is handed on, and nothing else"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        file = RecordFile(path)
    except (ArgumentTypeError, DatasetError) as error:
        raise pytest.UsageError(f"{OPTION}: {error}") from None
    except OSError as error:
        raise pytest.UsageError(f"{OPTION}: {path.parent}: can't be made: {error.strerror}") from None
    told = f"mockchat: asking {upstream} for what is not recorded, and recording it into {path}"
    return Recorder(upstream, file), f"{file.repaired}\n{told}" if file.repaired else told
