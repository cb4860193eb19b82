import gzip
import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import ujson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mockchat.core import wire
from mockchat.core.dataset import Dataset, load
from mockchat.core.entries import DatasetError
from tests.fuzz import inputs, properties
from tests.helpers import SAMPLE, SHARED, WriteDataset, entry


def contents(dataset: Dataset) -> dict[str, list[str]]:
    return {talk.id: [wire.content_of(message) for message in talk.messages] for talk in dataset.conversations}


@pytest.mark.skipif(not SHARED.exists(), reason="no shared recordings here")
@pytest.mark.parametrize(
    ("name", "stitch", "conversations", "replies"),
    [
        ("sharegpt_real.json", True, 64, 301),
        ("sharegpt_real.json", False, 77, 302),
        ("dialogstudio_sharegpt.json", True, 4, 14),
        ("fastchat_identity.json", False, 500, 1000),
        ("llamafactory_toolcall.json", True, 300, 957),
        ("axolotl_single.json", True, 1, 6),
        ("torchtune_chat_tiny.json", True, 1, 2),
    ],
)
def test_real_files_have_the_known_numbers(name: str, stitch: bool, conversations: int, replies: int) -> None:
    dataset = load(SHARED / name, stitch=stitch)
    assert (len(dataset.conversations), dataset.replies) == (conversations, replies)


def test_the_sample_shows_every_oddity() -> None:
    dataset = load(SAMPLE)
    assert dataset.entries == 78
    assert (dataset.joined, dataset.misaligned) == (8, 2)
    assert len(dataset.conversations) == 70
    assert any(not talk.messages for talk in dataset.conversations)
    assert any(talk.messages and wire.is_assistant(talk.messages[0]) for talk in dataset.conversations)


# Pieces


def test_pieces_are_joined_in_file_order(write_dataset: WriteDataset) -> None:
    path = write_dataset([entry("a_0", "1", "2"), entry("b_0", "x", "y"), entry("a_2", "3", "4"), entry("a_9", "5")])
    assert contents(load(path)) == {"a": ["1", "2", "3", "4", "5"], "b": ["x", "y"]}
    assert [load(path).joined, load(path).misaligned] == [2, 0]


def test_pieces_that_take_turns_are_joined_in_linear_time(write_dataset: WriteDataset) -> None:
    """To join a conversation for each of its pieces took minutes: ids like en_0 and de_0 only look like pieces."""
    ids = [f"{name}_{2 * number}" for number in range(20_000) for name in ("en", "de")]
    path = write_dataset([entry(each, each, "x" * 1000) for each in ids])
    assert [len(talk.messages) for talk in load(path).conversations] == [40_000, 40_000]


def test_a_repeated_message_is_dropped_once(write_dataset: WriteDataset) -> None:
    again = {"id": "a_1", "conversations": [{"from": "gpt", "value": "2"}, {"from": "human", "value": "3"}]}
    assert contents(load(write_dataset([entry("a_0", "1", "2"), again]))) == {"a": ["1", "2", "3"]}


def test_the_same_words_of_another_role_are_no_repetition(write_dataset: WriteDataset) -> None:
    other = {"id": "a_2", "conversations": [{"from": "human", "value": "2"}]}
    assert contents(load(write_dataset([entry("a_0", "1", "2"), other]))) == {"a": ["1", "2", "2"]}


def test_an_empty_piece_joins_nothing(write_dataset: WriteDataset) -> None:
    path = write_dataset([entry("a_0"), entry("a_0", "1", "2"), entry("a_2")])
    assert contents(load(path)) == {"a": ["1", "2"]}
    assert load(path).misaligned == 0


def test_pieces_that_do_not_line_up_are_counted(write_dataset: WriteDataset) -> None:
    path = write_dataset([entry(f"identity_{number}", "hi", "hello", "and?", "yes") for number in range(5)])
    assert (load(path).joined, load(path).misaligned) == (4, 4)
    assert len(load(path, stitch=False).conversations) == 5
    assert load(path, stitch=False).conversations[3].id == "identity_3"


@pytest.mark.parametrize(
    ("entry_id", "name"),
    [
        ("FQi5DlJ_57", "FQi5DlJ"),
        ("a_b_7", "a_b"),
        ("a\n_7", "a\n"),
        ("plain", "plain"),
        ("a_", "a_"),
        ("a_x1", "a_x1"),
        ("a_٣", "a_٣"),
        ("a_7\n", "a_7\n"),
        ("_4", ""),
        ("", ""),
        ("a_" + "9" * 5000, "a_" + "9" * 5000),
    ],
)
def test_the_id_of_a_piece(write_dataset: WriteDataset, entry_id: str, name: str) -> None:
    (talk,) = load(write_dataset([entry(entry_id, "1", "2")])).conversations
    assert talk.id == name


# Names


def test_an_id_may_be_a_number(write_dataset: WriteDataset) -> None:
    path = write_dataset([entry("", "1", "2") | {"id": 7}, entry("7", "3"), entry("7_3", "4")])
    assert [talk.id for talk in load(path).conversations] == ["7", "7", "7"]
    assert [talk.id for talk in load(path, stitch=False).conversations] == ["7", "7", "7_3"]


def test_an_id_that_names_no_position_names_a_whole_conversation(write_dataset: WriteDataset) -> None:
    same = entry("a", "1", "2")
    path = write_dataset([same, entry("a", "3", "4"), same, entry("a_0", "1", "2"), entry("a_0", "1", "2"), same])
    dataset = load(path)
    assert [(talk.id, len(talk.messages)) for talk in dataset.conversations] == [("a", 2), ("a", 2), ("a", 4)]
    assert (dataset.entries, dataset.repeated, dataset.joined) == (6, 2, 1)
    assert load(path, stitch=False).repeated == 0
    assert load(path, path).repeated == 4  # Within each file: several files are one dataset, in which ids may repeat.


def test_both_forms_in_one_file(write_dataset: WriteDataset) -> None:
    openai = {"id": "b", "messages": [{"role": "user", "content": "3"}, {"role": "assistant", "content": "4"}]}
    assert contents(load(write_dataset([entry("a", "1", "2"), openai]))) == {"a": ["1", "2"], "b": ["3", "4"]}


def test_entries_without_id_are_called_by_their_position(write_dataset: WriteDataset, tmp_path: Path) -> None:
    talk = {"conversations": entry("", "1", "2")["conversations"]}
    path = write_dataset([talk, entry("entry 2", "3"), talk])
    assert [talk.id for talk in load(path).conversations] == ["entry 0", "entry 2", "entry 2"]
    other = tmp_path / "other_0"
    other.write_text(json.dumps(talk))
    names = [talk.id for talk in load(path, other).conversations]
    assert names == [f"entry 0 of {path}", "entry 2", f"entry 2 of {path}", f"entry 0 of {other}"]


def test_pieces_are_joined_within_a_file(write_dataset: WriteDataset, tmp_path: Path) -> None:
    path = write_dataset([entry("a_0", "1", "2"), entry("a_2", "3")])
    other = tmp_path / "other.json"
    other.write_text(json.dumps([entry("a_0", "1", "2"), entry("a_2", "4")]))
    dataset = load(path, other)
    assert [[wire.content_of(message) for message in talk.messages] for talk in dataset.conversations] == [
        ["1", "2", "3"],
        ["1", "2", "4"],
    ]
    assert (dataset.entries, dataset.joined, dataset.misaligned) == (4, 2, 0)


ONE = json.dumps(entry("a", "1", "2")).encode()
TWO = json.dumps(entry("b", "3", "é")).encode()


@pytest.mark.parametrize(
    ("content", "ids"),
    [
        (ONE, ["a"]),
        (ONE + b"\n", ["a"]),
        (json.dumps(entry("a", "1", "2"), indent=4).encode(), ["a"]),
        (json.dumps(entry("a", "1", "2"), indent=4).replace("\n", "\r\n").encode(), ["a"]),
        (ONE + b"\n" + TWO, ["a", "b"]),
        (ONE + b"\r\n" + TWO + b"\r\n", ["a", "b"]),
        (b"\n \r\n " + ONE + b" \n\n\r\n\t\n" + TWO + b"\n\n", ["a", "b"]),
        (b"\xef\xbb\xbf" + ONE + b"\n" + TWO, ["a", "b"]),
        (b"\xef\xbb\xbf\r\n [" + ONE + b"\r\n,\r\n" + TWO + b"\r\n]\r\n", ["a", "b"]),
    ],
)
def test_what_a_file_is_its_content_says(write_dataset: WriteDataset, content: bytes, ids: list[str]) -> None:
    plain = load(write_dataset(content))
    assert [talk.id for talk in plain.conversations] == ids
    assert load(write_dataset(gzip.compress(content, mtime=0))) == plain
    halves = gzip.compress(content[:9], mtime=0) + gzip.compress(content[9:], mtime=0)
    assert load(write_dataset(halves), block_size=1) == plain


def test_a_packed_file_is_read_in_blocks(write_dataset: WriteDataset) -> None:
    """10 MB packed in 20 KB, of which next to nothing stays: both as lines and as an array without ids."""
    padded = json.dumps({"messages": [{"role": "assistant", "content": ""}], "padding": " " * 100_000}).encode()
    for content in (b"\n".join([padded] * 100), b"[" + b",".join([padded] * 100) + b"]"):
        path = write_dataset(gzip.compress(content, mtime=0))
        tracemalloc.start()
        try:
            assert load(path).entries == 100
            assert tracemalloc.get_traced_memory()[1] < 6_000_000
        finally:
            tracemalloc.stop()


# Blocks

values = st.text(max_size=8) | st.sampled_from(['"},{"id":"', '{"id":', '},\n {"id"', "]}", '\\"', "\ud800", "\\"])
messages = st.fixed_dictionaries(
    {"from": st.sampled_from(["human", "gpt"]), "value": values}, optional={"id": values, "x": st.none()}
)
entries = st.fixed_dictionaries(
    {"id": st.sampled_from(["a_0", "a_2", "b_1", "c"]) | values, "conversations": st.lists(messages, max_size=3)},
    optional={"model": values, "nested": st.just({"id": [{"id": {}}, {"id": 1}]})},
)


@st.composite
def layouts(draw: st.DrawFn) -> bytes:
    """A file of entries in any layout of its JSON."""
    given_entries = draw(st.lists(entries, min_size=1, max_size=5))
    if draw(st.booleans()):
        given_entries = [dict(reversed(item.items())) for item in given_entries]
    text = json.dumps(
        given_entries,
        indent=draw(st.sampled_from([None, 0, 1, "\t"])),
        ensure_ascii=draw(st.booleans()),
        separators=(draw(st.sampled_from([",", ", ", " ,\r\n"])), draw(st.sampled_from([":", ": ", "\t:\n"]))),
    )
    space = draw(st.sampled_from(["", " ", "\r\n\t "]))
    return (space + text + space).encode("utf-8", "surrogatepass")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(given_entries=st.lists(entries, min_size=1, max_size=4), end=st.sampled_from(["\n", "\r\n", " \n\n"]))
def test_lines_give_what_an_array_gives(tmp_path: Path, given_entries: list[dict[str, Any]], end: str) -> None:
    array, lines = tmp_path / "array", tmp_path / "lines"
    array.write_text(json.dumps(given_entries))
    lines.write_bytes("".join(json.dumps(item) + end for item in given_entries).encode())
    expected, outcomes = outcome(array, 1), outcome(lines, 1)
    assert str(outcomes).replace(str(lines), "") == str(expected).replace(str(array), "")


def outcome(path: Path, block_size: int) -> Any:
    try:
        dataset = load(path, block_size=block_size)
    except DatasetError as error:
        return str(error)
    return dataset


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layout=layouts(), block_size=st.integers(1, 300))
def test_what_loads_replays_clean_whatever_the_blocks(tmp_path: Path, layout: bytes, block_size: int) -> None:
    properties.file(layout, block_size, tmp_path / "recordings.json")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(inputs.seeds("file")), st.integers(0).map(random.Random), st.integers(1, 300))
def test_the_sample_with_changes_does_too(tmp_path: Path, data: bytes, chance: random.Random, block_size: int) -> None:
    properties.file(inputs.mutated(data, "file", chance), block_size, tmp_path / "recordings.json")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layout=layouts(), cut=st.floats(0, 1), junk=st.binary(max_size=3), block_size=st.integers(1, 300))
def test_damaged_files_are_refused_alike(
    tmp_path: Path, layout: bytes, cut: float, junk: bytes, block_size: int
) -> None:
    position = int(cut * len(layout))
    damaged = layout[:position] + junk + layout[position + len(junk) + 1 :]
    path = tmp_path / "recordings.json"
    path.write_bytes(damaged)
    try:
        ujson.loads(damaged.removeprefix(b"\xef\xbb\xbf"))
        whole = True
    except ValueError:
        whole = False
    told = outcome(path, block_size)
    assert told == outcome(path, len(damaged) + 1)
    assert whole or isinstance(told, str)


def test_every_block_size_gives_the_same() -> None:
    expected = load(SAMPLE)
    size = SAMPLE.stat().st_size
    for block_size in (*range(1, size // 2, 997), 7, 64, 1000, size - 1, size, size + 1):
        assert load(SAMPLE, block_size=block_size) == expected


def test_progress_adds_up_to_the_file() -> None:
    sizes: list[int] = []
    load(SAMPLE, progress=sizes.append, block_size=1000)
    assert sum(sizes) == SAMPLE.stat().st_size
    assert max(sizes) < 20_000  # It really is read in blocks.


def test_progress_counts_packed_bytes(write_dataset: WriteDataset) -> None:
    for content in (SAMPLE.read_bytes(), json.dumps(entry("a", "1", "2"), indent=1).encode()):
        path = write_dataset(gzip.compress(content, mtime=0))
        sizes: list[int] = []
        load(path, progress=sizes.append)
        assert sum(sizes) == path.stat().st_size


# Bad files

GOOD = json.dumps(entry("good_0", "hi", "hello")).encode()
PACKED = gzip.compress(b"[" + GOOD + b"]", mtime=0)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b" \n\n ", "is empty"),
        (b"hello", "is not JSON"),
        (b"<html>", "is HTML or XML"),
        (b"\xef\xbb\xbf", "is empty"),
        (b'{"id": "a"}', 'entry 0 (line 1, id \'a\'): must have either "conversations" or "messages"'),
        (b"3", "entry 0 (line 1, without id): is a number, not an object"),
        (b'{"id": ', "is cut off at line 1, byte 8: fetch it again, or remove that entry"),
        (b"\n\n" + GOOD[:20], "is cut off at line 3, byte 21"),
        (GOOD + b"\n\r\n" + GOOD[:-9], "is cut off at line 3, byte "),
        (GOOD + b"\n" + GOOD[:50] + b"\n" + GOOD + b"\n", "is cut off at line 3, byte 1"),
        (GOOD[:50] + b"\n" + GOOD + b"\n", "is not JSON at line 2, byte 3: Expecting ',' delimiter"),
        (b"{\n" + GOOD[1:] + b"\n" + GOOD, "is not JSON at line 3, byte 1: Extra data"),
        (GOOD + b",\n" + GOOD, "is not JSON at line 1, byte 105: Extra data"),
        (GOOD + b"\n" + GOOD + b",\n" + GOOD, "is not JSON at line 2, byte 105: Extra data"),
        (GOOD + b"\n" + GOOD + GOOD, "is not JSON at line 2, byte 105: Extra data"),
        (GOOD + b"\n\xef\xbb\xbf" + GOOD, "is not JSON at line 2, byte 1"),
        (GOOD + b'\n{"id": "\xff"}\n', "is not UTF-8 at line 2, byte 9: byte 0xff"),
        (GOOD + b'\n{"id": "\xc3', "is cut off at line 2, byte "),
        (GOOD + b"\n[]\n", "entry 1 (line 2, without id): is an array, not an object"),
        (GOOD + b'\n\n{"id": "x"}\n', 'entry 1 (line 3, id \'x\'): must have either "conversations" or "messages"'),
        (b"\x1f\x8b", "is broken gzip"),
        (b"\x1f\x8b\x07" + bytes(20), "is broken gzip"),
        (PACKED[:-1], "is broken gzip, fetch it again: Compressed file ended"),
        (PACKED[:20], "is broken gzip"),
        (PACKED[:12] + b"\xff\xff" + PACKED[14:], "is broken gzip"),
        (PACKED[:-8] + bytes(8), "is broken gzip, fetch it again: CRC check failed"),
        (PACKED + b"more", "is broken gzip"),
        (gzip.compress(b"", mtime=0), "is empty"),
        (gzip.compress(GOOD + b"\n" + GOOD[:9], mtime=0), "is cut off at line 2, byte "),
        ("[]".encode("utf-16"), "is UTF-16"),
        (b"[" + GOOD + b',{"id": "\xff"}]', "is not UTF-8 at line 1, byte 115: byte 0xff"),
        (b"[]", "no assistant message is recorded"),
        (b'[{"id": "a", "conversations": [{"from": "human", "value": "hi"}]}]', "no assistant message is recorded"),
        (b"[" + GOOD, "is cut off at line 1, byte "),
        (b"[" + GOOD + b",", "is cut off at line 1, byte "),
        (b"[" + GOOD + b"," + GOOD[:-1], "is cut off at line 1, byte "),
        (b"[" + GOOD + b"," + GOOD[:50], "is cut off at line 1, byte "),
        (b"[" + GOOD + b',{"id": "\xc3', "is cut off at line 1, byte "),
        (b"[" + GOOD[:20], "is cut off at line 1, byte 22"),
        (b"[" + GOOD + b"," + GOOD + b" x]", "is not JSON at line 1, byte 212: Expecting ',' delimiter"),
        (b"[" + GOOD + GOOD + b"]", "is not JSON at line 1, byte 106: Expecting ',' delimiter"),
        (b"[" + GOOD + b",]", "is not JSON at line 1, byte 107: Expecting value"),
        (b"[" + GOOD + b"] []", "is not JSON at line 1, byte 108: Extra data"),
        (b"[" + GOOD + b"," + b"[" * 3000 + b"]" * 3000 + b"]", "is nested too deeply"),
        (b"[" + b"[" * 100_000, "nested too deeply"),
        (b"[" + GOOD + b',{"id": ' + b"1" * 5000 + b"}]", "is not JSON: Exceeds the limit"),
        (b"[3]", "entry 0 (without id): is a number, not an object"),
        (b"[" + GOOD + b", null]", "entry 1 (without id): is null, not an object"),
        (b"[[]]", "entry 0 (without id): is an array, not an object"),
        (b'[{"id": "x"}]', 'entry 0 (id \'x\'): must have either "conversations" or "messages"'),
        (b'[{"id": 7}]', "entry 0 (id '7'): must have either"),
        (b'[{"id": null, "conversations": []}]', 'entry 0 (without id): "id" is null, not a string'),
        (b'[{"id": "bad_0", "conversations": ["hi"]}]', "entry 0 (id 'bad_0'): message 0 is a string, not an object"),
    ],
)
def test_bad_files_are_refused_in_one_line(write_dataset: WriteDataset, content: bytes, reason: str) -> None:
    path = write_dataset(content)
    with pytest.raises(DatasetError) as caught:
        load(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert reason in line
    assert "\n" not in line
    assert outcome(path, 1) == line


def test_files_that_can_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="No such file"):
        load(tmp_path / "missing.json")
    with pytest.raises(DatasetError, match="Is a directory"):
        load(tmp_path)


def test_a_bad_entry_far_into_the_file_is_named(write_dataset: WriteDataset) -> None:
    good = [entry(f"conversation{number}_0", "hi", "hello" * 100) for number in range(3000)]
    path = write_dataset([*good, {"id": "culprit_0", "conversations": [{"from": "who", "value": "x"}]}, *good])
    with pytest.raises(DatasetError, match=r"entry 3000 \(id 'culprit_0'\)"):
        load(path)
    damaged = path.read_bytes().replace(b'"culprit_0",', b'"culprit_0"')
    path.write_bytes(damaged)
    place = damaged.index(b'culprit_0" ') + len('culprit_0" ') + 1  # Counted from 1.
    with pytest.raises(DatasetError, match=f"is not JSON at line 1, byte {place}: Expecting ',' delimiter"):
        load(path)
