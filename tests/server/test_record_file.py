import gzip
import json
import os
import resource
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mockchat.core import wire
from mockchat.core.answer import Completion
from mockchat.core.dataset import load
from mockchat.core.entries import Conversation, DatasetError
from mockchat.core.message import as_object
from mockchat.server.record_file import RecordFile
from mockchat.server.recorder import conversation

HI = wire.message("user", "hi")
HELLO = wire.message("assistant", "hello")
TWO = [[HI, HELLO], [HI, HELLO, wire.message("user", 'a "b" é\n'), wire.message("assistant", "")]]

OTHER = [wire.message("assistant", "unasked")]


def record(path: Path, messages: list[bytes]) -> Conversation:
    """Record a history and its reply, which are texts, given in wire form."""
    *history, said = [as_object(message) for message in messages]
    made = conversation(history, Completion(said, "stop", alone=True))
    with closing(RecordFile(path)) as file:
        file.append(made)
    return made


def prepare(path: Path) -> str | None:
    with closing(RecordFile(path)) as file:
        return file.repaired


def recorded(path: Path) -> list[list[bytes]]:
    return [found.messages for found in load(path).conversations] if path.stat().st_size else []


def test_a_line_an_exchange(tmp_path: Path) -> None:
    path = tmp_path / "f"
    assert prepare(path) is None
    assert not path.exists()
    made = [record(path, messages) for messages in TWO]
    assert load(path).conversations == made
    assert [found.messages for found in made] == TWO
    first, second = map(json.loads, path.read_text().splitlines())
    assert first == {
        "id": made[0].id,
        "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}],
        "finish_reason": "stop",
    }
    assert second["messages"][1] == {"role": "assistant", "content": "hello", "weight": 0}
    assert made[1].replies == [3]
    assert second["messages"][2:] == [{"role": "user", "content": 'a "b" é\n'}, {"role": "assistant", "content": ""}]
    assert made[0].id != made[1].id
    before = path.read_bytes()
    assert prepare(path) is None
    assert path.read_bytes() == before


@given(st.lists(st.lists(st.builds(wire.message, st.sampled_from(wire.API_ROLES), st.text())), max_size=4))
def test_what_is_recorded_is_what_is_read(tmp_path_factory: Any, exchanges: list[list[bytes]]) -> None:
    path = tmp_path_factory.mktemp("recorded") / "f"
    exchanges = [[*history, wire.message("assistant", str(number))] for number, history in enumerate(exchanges)]
    made = [record(path, messages) for messages in exchanges]
    dataset = load(path) if made else None
    assert not made or (dataset and dataset.conversations == made and dataset.joined == 0)


def test_a_crash_loses_one_unfinished_line_at_most_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "f"
    for messages in TWO:
        record(path, messages)
    content = path.read_bytes()
    ends = {0, content.index(b"\n") + 1, len(content)}
    for size in range(len(content) + 1):
        path.write_bytes(content[:size])
        told = prepare(path)
        whole_lines = content[: size + 1].count(b"\n")  # One that lacks nothing but its end is whole.
        assert recorded(path) == TWO[:whole_lines]
        if size in ends or size + 1 in ends:
            assert told is None
        else:
            assert told is not None
            assert f"{path}: line {whole_lines + 1} was never finished" in told
        record(path, OTHER)
        assert recorded(path) == [*TWO[:whole_lines], OTHER]


@pytest.mark.parametrize(
    "content",
    [
        b'[{"messages": []}]',
        b'{\n"messages": []\n}\n',
        b'{\n"messages": []\n}',
        b'\n{"messages": []}\n',
        b"some notes",
        b'[{"id":"a","messages":[]},\n{"id":"b","messages":[]}]',
        gzip.compress(b'{"messages": []}\n', mtime=0),
    ],
)
def test_a_file_of_another_form_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "f"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match="is not JSON lines"):
        prepare(path)
    assert path.read_bytes() == content


def test_a_line_that_somebody_else_left_unfinished_is_left_to_the_loader(tmp_path: Path) -> None:
    path = tmp_path / "f"
    content = b'{"messages": []}\n{"messages": [{"role": "us'
    path.write_bytes(content)
    assert prepare(path) is None
    assert path.read_bytes() == content
    with pytest.raises(DatasetError, match="cut off at line 2, byte 27"):
        load(path)


def test_a_file_that_lost_its_last_line_s_end_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "f"
    first = record(path, TWO[0])
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert load(path).conversations == [first]
    second = record(path, TWO[1])
    assert load(path).conversations == [first, second]


def test_what_can_t_be_recorded_into(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    for path, told in (
        (tmp_path / "loop", "can't be recorded into: Too many levels of symbolic links"),
        (tmp_path / ("x" * 300), "can't be recorded into: File name too long"),
        (tmp_path, "is no regular file"),
        (tmp_path / "fifo", "is no regular file"),
        (tmp_path / "nowhere" / "f", "can't be recorded into: No such file or directory"),
    ):
        with pytest.raises(DatasetError, match=told):
            prepare(path)


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "f"
    record(path, TWO[0])
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, limits[1]))
    try:
        with pytest.raises(OSError, match="No space left"):
            record(path, TWO[1])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    record(path, TWO[1])
    assert recorded(path) == TWO


# One writer at a time


def test_a_file_has_one_recorder_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "f"
    with closing(RecordFile(path)):
        assert path.read_bytes() == b""
        for _ in range(2):
            with pytest.raises(DatasetError, match="another server records into it, so give each a file of its own"):
                RecordFile(path)
        assert path.exists()
    assert not path.exists()
    record(path, TWO[0])
    with closing(RecordFile(path)), pytest.raises(DatasetError, match="another server"):
        RecordFile(path)
    assert recorded(path) == TWO[:1]


def test_nothing_is_removed_from_a_file_that_another_records_into(tmp_path: Path) -> None:
    path = tmp_path / "f"
    with closing(RecordFile(path)):
        path.write_bytes(b'{"id":"half a li')  # As if it were in the middle of a write.
        with pytest.raises(DatasetError, match="another server"):
            RecordFile(path)
        assert path.read_bytes() == b'{"id":"half a li'


def test_the_lock_ends_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "f"
    program = f"""
import pathlib, time
from mockchat.server.record_file import RecordFile
file = RecordFile(pathlib.Path({str(path)!r}))
print("locked", flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(DatasetError, match="another server"):
            RecordFile(path)
        holder.kill()
    record(path, TWO[0])
    assert recorded(path) == TWO[:1]


def test_a_dangling_link_stays_and_what_it_names_is_recorded_into(tmp_path: Path) -> None:
    link, named = tmp_path / "link", tmp_path / "named"
    link.symlink_to("named")
    assert prepare(link) is None
    assert link.is_symlink()
    assert not named.exists()
    record(link, TWO[0])
    assert link.is_symlink()
    assert recorded(named) == TWO[:1]
    with closing(RecordFile(named)), pytest.raises(DatasetError, match="another server"):
        RecordFile(link)


def test_a_file_that_was_replaced_or_removed_meanwhile_loses_nothing(tmp_path: Path) -> None:
    path, other = tmp_path / "f", tmp_path / "other"
    made = [record(other, messages) for messages in TWO]
    other.unlink()
    with closing(RecordFile(path)) as file:
        file.append(made[0])
        other.write_bytes(path.read_bytes())
        other.replace(path)
        file.append(made[1])
        assert recorded(path) == TWO
        path.unlink()
        file.append(made[1])
        assert recorded(path) == TWO[1:]
        path.unlink()
        with closing(RecordFile(path)) as taken:
            with pytest.raises(OSError, match="another server records into it"):
                file.append(made[0])
            taken.append(made[0])
        file.append(made[1])
    assert recorded(path) == TWO
