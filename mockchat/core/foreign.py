"""What people give in place of recordings, and what to do about it. It explains only files that could not be read."""

import os
import re
from pathlib import Path

_TO_LINES = 'write it as JSON lines, one {"messages": [...]} a line'
_KINDS = (
    (rb"PAR1", f"is Parquet: {_TO_LINES} (pandas: read_parquet(FILE).to_json(OUT, orient='records', lines=True))"),
    (rb"PK\x03\x04", "is a zip archive: unpack it, and name the file in it"),
    (rb"BZh|\xfd7zXZ|\x28\xb5\x2f\xfd", "is compressed by bzip2, xz or zstd: unpack it, or use gzip"),
    (rb"\xff\xfe|\xfe\xff|\x00[\[{]|[\[{]\x00", "is UTF-16: convert it (iconv -f UTF-16 -t UTF-8 FILE > OUT)"),
    (rb"version https://git-lfs", "is a pointer of Git LFS: fetch the file (git lfs pull)"),
    (rb"\s*<", "is HTML or XML: a login or error page in place of the download?"),
    (rb'\s*\[?\s*\{\s*"(role|from|content|value)"\s*:', f"is a list of messages: {_TO_LINES}"),
    (rb"[^\[{\s][^\[{\n]*[,;\t][^\n]*\n", f"is CSV, or the like: {_TO_LINES}"),
)


def explain(path: Path) -> str | None:
    """What a file is, and what to do about it; None if that is not known."""
    if not os.path.isfile(path):
        return "is a URL: download the file, and name that" if str(path).startswith(("http:/", "https:/")) else None
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError:
        return None
    return next((explanation for begins, explanation in _KINDS if re.match(begins, head)), None)
