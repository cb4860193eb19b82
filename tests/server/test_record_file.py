import fcntl
import gzip
import json
import os
import resource
import subprocess
import sys
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
from mockchat.server import recorder
from mockchat.server.record_file import RecordFile
from mockchat.server.recorder import conversation

HI = wire.message("user", "hi")
HELLO = wire.message("assistant", "hello")
TWO = [[HI, HELLO], [HI, HELLO, wire.message("user", 'a "b" é\n'), wire.message("assistant", "")]]

OTHER = [wire.message("assistant", "unasked")]


def record(path: Path, messages: list[bytes]) -> Conversation:
    """Record a history and its reply, which are texts, given in wire form."""
    *history, said = [as_object(message) for message in messages]
    made = conversation({"messages": history}, Completion(said, "stop"))
    RecordFile(path, print).append(made)
    return made


def prepare(path: Path) -> str | None:
    """Make ready to record; returns what is told."""
    told: list[str] = []
    RecordFile(path, told.append)
    assert len(told) < 2
    return told[0] if told else None


def unfinished(path: Path) -> Path:
    return path.with_name(f"{path.name}.unfinished")


def recorded(path: Path) -> list[list[bytes]]:
    return [found.messages for found in load(path).conversations] if path.stat().st_size else []


def test_a_line_an_exchange(tmp_path: Path) -> None:
    path = tmp_path / "f"
    assert prepare(path) is None
    assert path.read_bytes() == b""
    made = [record(path, messages) for messages in TWO]
    assert load(path).conversations == made
    assert [found.messages for found in made] == TWO
    first, second = map(json.loads, path.read_text().splitlines())
    assert first == {
        "id": made[0].id,
        "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}],
        "finish_reason": "stop",
        "request": {},
    }
    assert second["messages"][1] == {"role": "assistant", "content": "hello", "weight": 0}
    assert [number for number, _ in made[1].places()] == [3]
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


def test_what_a_crash_cut_off_is_moved_away_and_told(tmp_path: Path) -> None:
    path = tmp_path / "f"
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    usage = {"total_tokens": -15, "x": [1.5e300, True, False, None, {}], "y": "\x01\\\ud800é😀"}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    made = [
        record(path, TWO[0]),
        conversation({"messages": []}, Completion(message, "tool_calls", about={"usage": usage})),
    ]
    RecordFile(path, print).append(made[1])
    content = path.read_bytes()
    first = content.index(b"\n") + 1
    for size in range(len(content) + 1):
        path.write_bytes(content[:size])
        unfinished(path).unlink(missing_ok=True)
        told = prepare(path)
        whole_lines = content[: size + 1].count(b"\n")  # One that lacks nothing but its end is whole.
        assert recorded(path) == [each.messages for each in made[:whole_lines]]
        if size in (0, first - 1, first, len(content) - 1, len(content)):
            assert (told, unfinished(path).exists()) == (None, False)
        else:
            assert told is not None
            assert f"{path}: line {whole_lines + 1} was never finished" in told
            assert f"it is moved to {unfinished(path)}" in told
            assert unfinished(path).read_bytes() == content[first if whole_lines else 0 : size] + b"\n"
        record(path, OTHER)
        assert recorded(path) == [*[each.messages for each in made[:whole_lines]], OTHER]


def test_what_was_moved_away_before_stays(tmp_path: Path) -> None:
    path = tmp_path / "f"
    for number in range(2):
        path.write_bytes(b'{"id":"%d' % number)
        assert prepare(path) is not None
    assert unfinished(path).read_bytes() == b'{"id":"0\n{"id":"1\n'
    assert path.read_bytes() == b""


def test_a_line_that_is_cut_off_while_another_process_records(tmp_path: Path) -> None:
    path, told = tmp_path / "f", list[str]()
    file = RecordFile(path, told.append)
    first = record(path, TWO[0])
    content = path.read_bytes()
    with path.open("ab") as other:
        other.write(content[:50])
    assert not file.append(first)
    assert (path.read_bytes(), unfinished(path).read_bytes()) == (content, content[:50] + b"\n")
    assert [line.split(" was never")[0] for line in told] == [f"{path}: line 2"]


ONE = b'{"id":"a","messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"hello"}]}'


@pytest.mark.parametrize(
    ("content", "number"),
    [
        (b'[{"messages": []}]', 1),
        (b'{\n"messages": []\n}\n', 1),
        (b'{\n"messages": []\n}', 1),
        (b"some notes", 1),
        (b'[{"id":"a","messages":[]},\n{"id":"b","messages":[]}]', 1),
        (gzip.compress(b'{"messages": []}\n', mtime=0), 1),
        (ONE + ONE + b"\n", 1),
        (ONE + b"\n" + ONE.replace(b",", b"", 1) + b"\n" + ONE, 2),
        (ONE + b"\n\n" + b'{"messages": [{"role": "us', 3),
        (ONE + b"\n\xef\xbb\xbf" + ONE, 2),
        (b'{"id":' + b"[" * 100_000, 1),
        (ONE + b"\n7\n", 2),
        (ONE + b'\n{"id":"a",\n' + ONE + b"\n", 2),
        (b'{"id":"a","messages":[\n' + ONE, 1),
    ],
)
def test_a_line_that_is_no_entry_is_named_and_stays(tmp_path: Path, content: bytes, number: int) -> None:
    path = tmp_path / "f"
    path.write_bytes(content)
    with pytest.raises(DatasetError) as caught:
        prepare(path)
    assert str(caught.value).startswith(f"{path}: line {number} is not an entry of JSON lines: ")
    assert (path.read_bytes(), unfinished(path).exists()) == (content, False)


@pytest.mark.parametrize("before", [b"", ONE + b"\n"])
@pytest.mark.parametrize(
    "last",
    [
        ONE + ONE,
        ONE + b"," + ONE,
        ONE.replace(b",", b"", 1),
        ONE.replace(b"hi", b"caf\xe9"),
        ONE.replace(b"hi", b"caf\xe9")[:-5],
        ONE.replace(b",", b"", 1)[:-5],
        b'{"id":"\xef\xbb\xbf',
    ],
)
def test_a_damaged_last_line_is_moved_away_whatever_its_damage(tmp_path: Path, before: bytes, last: bytes) -> None:
    path = tmp_path / "f"
    path.write_bytes(before + last)
    assert prepare(path) is not None
    assert (path.read_bytes(), unfinished(path).read_bytes()) == (before, last + b"\n")


def test_a_file_of_nothing_but_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"\xef\xbb\xbf")
    assert prepare(path) is None
    record(path, OTHER)
    assert recorded(path) == [OTHER]


@pytest.mark.parametrize("before", [b"\xef\xbb\xbf", b"\n", b" \r\n\t\n", b"\xef\xbb\xbf\n", b""])
@pytest.mark.parametrize("end", [b"\n", b"", b"\r\n", b"\n \n", b"\n "])
def test_a_byte_order_mark_and_blank_lines_are_no_matter(tmp_path: Path, before: bytes, end: bytes) -> None:
    path = tmp_path / "f"
    path.write_bytes(before + ONE + end)
    assert prepare(path) is None
    record(path, OTHER)
    assert path.read_bytes().startswith(before + ONE + end)
    assert recorded(path) == [TWO[0], OTHER]


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
        (tmp_path, "is not a regular file"),
        (tmp_path / "fifo", "is not a regular file"),
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
        with pytest.raises(DatasetError, match="can't be recorded into: No space left"):
            record(path, TWO[1])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    record(path, TWO[1])
    assert recorded(path) == TWO


# Several recorders


def test_the_same_line_of_several_recorders_is_written_once(tmp_path: Path) -> None:
    path = tmp_path / "f"
    one, other = RecordFile(path, print), RecordFile(path, print)
    made = record(tmp_path / "elsewhere", TWO[0])
    assert one.append(made)
    second = record(path, TWO[1])
    assert not other.append(second)
    assert not other.append(made)
    assert recorded(path) == TWO


def test_processes_record_into_one_file_at_the_same_time(tmp_path: Path) -> None:
    path = tmp_path / "f"
    program = f"""
import pathlib, sys
from mockchat.core.answer import Completion
from mockchat.server.record_file import RecordFile
from mockchat.server.recorder import conversation
file = RecordFile(pathlib.Path({str(path)!r}), print)
for number in range(100):
    for name in ("same", sys.argv[1]):
        text = name + str(number) + "x" * 10_000
        asked = {{"messages": [{{"role": "user", "content": text}}]}}
        file.append(conversation(asked, Completion({{"content": "hello"}}, "stop")))
"""
    processes = [subprocess.Popen([sys.executable, "-c", program, name]) for name in ("one", "two")]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert len(path.read_bytes().splitlines()) == 300
    assert len(load(path).conversations) == 300


def test_a_lock_that_stays_is_told_and_ends_with_its_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    made = record(path, TWO[0])
    file = RecordFile(path, print)
    monkeypatch.setattr("mockchat.server.record_file._LOCK_ATTEMPTS", 2)
    program = (
        f"import fcntl, time; f = open({str(path)!r}); fcntl.flock(f, 2); print('locked', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        for attempt in (lambda: file.append(made), lambda: RecordFile(path, print)):
            with pytest.raises(DatasetError, match="another process keeps it locked: end that, or record into another"):
                attempt()
        holder.kill()
    record(path, TWO[1])
    assert recorded(path) == TWO


def test_a_dangling_link_stays_and_what_it_names_is_recorded_into(tmp_path: Path) -> None:
    link, named = tmp_path / "link", tmp_path / "named"
    link.symlink_to("named")
    assert prepare(link) is None
    record(link, TWO[0])
    assert link.is_symlink()
    assert recorded(named) == TWO[:1]


def test_a_file_that_was_replaced_or_removed_meanwhile_loses_nothing(tmp_path: Path) -> None:
    path, other = tmp_path / "f", tmp_path / "other"
    made = [record(other, messages) for messages in TWO]
    other.unlink()
    file = RecordFile(path, print)
    file.append(made[0])
    other.write_bytes(path.read_bytes())
    other.replace(path)
    file.append(made[1])
    assert recorded(path) == TWO
    path.unlink()
    file.append(made[0])
    assert recorded(path) == TWO[:1]


def test_a_file_that_is_replaced_before_it_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, other = tmp_path / "f", tmp_path / "other"
    made = [record(other, messages) for messages in TWO]
    other.write_bytes(recorder.line(made[0]))
    file = RecordFile(path, print)
    lock = fcntl.flock

    def replaced_first(locked: Any, how: int) -> None:
        if other.exists():
            other.replace(path)
        lock(locked, how)

    monkeypatch.setattr(fcntl, "flock", replaced_first)
    file.append(made[1])
    assert recorded(path) == TWO


@pytest.mark.parametrize("edited", [b"\n\n%b", b'{"messages":[]}\n%b', b'{"messages":[]}\n', b" %b "])
def test_a_file_that_is_edited_in_place_meanwhile(tmp_path: Path, edited: bytes) -> None:
    path = tmp_path / "f"
    file = RecordFile(path, print)
    file.append(record(tmp_path / "other", TWO[0]))
    lines = path.read_bytes()
    path.write_bytes(edited.replace(b"%b", lines))
    file.append(record(tmp_path / "other", TWO[1]))
    kept = [TWO[0]] if b"%b" in edited else []
    assert [found for found in recorded(path) if found] == [*kept, TWO[1]]
