"""Files that people give in place of recordings: each is told in a line with what to do, and none that can be read."""

import json
import os
import threading
from pathlib import Path

import pytest

from mockchat.core.dataset import load
from mockchat.core.entries import DatasetError

MESSAGES = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
LINES = 'write it as JSON lines, one {"messages": [...]} a line'


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"PAR1\x15\x04\x15\x10", f"is Parquet: {LINES} (pandas: read_parquet("),
        (b"PK\x03\x04\x14\x00", "is a zip archive: unpack it, and name the file in it"),
        (b"BZh91AY&SY", "is compressed by bzip2, xz or zstd: unpack it, or use gzip"),
        (b"\x28\xb5\x2f\xfd\x24", "is compressed by bzip2, xz or zstd: unpack it, or use gzip"),
        (json.dumps([{"messages": MESSAGES}]).encode("utf-16"), "is UTF-16: convert it (iconv -f UTF-16 -t UTF-8 FILE"),
        (json.dumps({"messages": MESSAGES}).encode("utf-16-le"), "is UTF-16: convert it (iconv "),
        (json.dumps({"messages": MESSAGES}).encode("utf-16-be"), "is UTF-16: convert it (iconv "),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer of Git LFS: fetch the file"),
        (b"\n<!DOCTYPE html>\n<html>", "is HTML or XML: a login or error page in place of the download?"),
        (json.dumps(MESSAGES).encode(), f"is a list of messages: {LINES}"),
        (json.dumps(MESSAGES, indent=2).encode(), f"is a list of messages: {LINES}"),
        ("\n".join(map(json.dumps, MESSAGES)).encode(), f"is a list of messages: {LINES}"),
        (b'[{"from": "human", "value": "hi"}]', f"is a list of messages: {LINES}"),
        (b"id,role,content\n1,user,hi\n", f"is CSV, or the like: {LINES}"),
        (b"\xef\xbb\xbfid;role;content\n", f"is CSV, or the like: {LINES}"),
        (b"\t\t{]\n", "is not JSON at line 1"),
        (b"role\tcontent\nuser\thi\n", f"is CSV, or the like: {LINES}"),
        (
            json.dumps([{"messages": MESSAGES}]).encode().replace(b"hello", b"caf\xe9"),
            "is not UTF-8 at line 1, byte 88: byte 0xe9 (iconv -f CP1252 -t UTF-8 may convert it)",
        ),
    ],
)
def test_what_it_is_and_what_to_do(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "f"
    path.write_bytes(content)
    with pytest.raises(DatasetError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: {told}")
    assert "\n" not in str(caught.value)


def test_a_url_is_told_so() -> None:
    with pytest.raises(DatasetError, match=r"example\.org/chats.jsonl: is a URL: download the file, and name that"):
        load(Path("https://example.org/chats.jsonl"))


def test_a_pipe_is_not_opened_again(tmp_path: Path) -> None:
    """Its writer has gone, and opening it would wait for another."""
    path = tmp_path / "f"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(b"PAR1",))
    writer.start()
    with pytest.raises(DatasetError, match="is not JSON"):
        load(path)
    writer.join()


@pytest.mark.parametrize("key", ["role", "from", "content", "value"])
def test_what_can_be_read_is_read(tmp_path: Path, key: str) -> None:
    path = tmp_path / "f"
    path.write_text(json.dumps([{key: "more", "messages": MESSAGES}]))
    assert load(path).replies == 1
