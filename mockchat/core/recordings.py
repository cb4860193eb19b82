"""Load recordings for either program: read, seed errors if asked to, build the index, print a summary."""

import gc
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from mockchat.core import dataset, seeding
from mockchat.core.dataset import Dataset
from mockchat.core.entries import DatasetError
from mockchat.core.index import ResponseIndex

_INSTALLED = Path(__file__).parents[1] / "data"  # A clone has it beside the package.
_FOLDER = Path(os.path.relpath(_INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[2] / "data"))
DATASETS = (_FOLDER / "ShareGPT_V3_unfiltered_cleaned_split.json", _FOLDER / "sample.json")
SAMPLE = "sample"


def default() -> Path:
    """The default recordings: the big file if it is there, else the sample. Raises `DatasetError`."""
    for path in DATASETS:
        if os.path.exists(path):
            return path
    raise DatasetError("there are no recordings here: name some with --data FILE")


def named(name: str | os.PathLike[str]) -> Path:
    """The path for a name: `sample` is the sample, `./sample` a file of that name."""
    return DATASETS[-1] if name == SAMPLE else Path(name)


def load(
    paths: Sequence[Path], *, stitch: bool = True, ignore: Sequence[str] = (), quiet: bool = False
) -> tuple[Dataset, ResponseIndex]:
    """Read files of recordings and build their index, after `SEED_ERRORS` if that is set in the environment.

    Messages are compared without what the patterns `ignore` match. Raises `DatasetError`. All existing objects are
    exempt from garbage collection afterwards: the recordings stay until exit.
    """

    def report(line: str) -> None:
        if not quiet:
            print(line, flush=True)

    report(f"Reading {', '.join(map(str, paths))}")
    started = time.perf_counter()
    size = sum(path.stat().st_size for path in paths) if all(map(os.path.isfile, paths)) else None
    with tqdm(total=size, unit="B", unit_scale=True, leave=False, disable=quiet or not sys.stderr.isatty()) as bar:
        loaded = dataset.load(*paths, stitch=stitch, progress=bar.update)
    altered = seeding.seed_errors(loaded.conversations, os.environ.get("SEED_ERRORS", ""))
    index = ResponseIndex(loaded.conversations, ignore)
    gc.freeze()
    report(
        f"Parsed {len(loaded.conversations):,} conversations ({loaded.entries:,} entries, {loaded.replies:,} replies; "
        f"{loaded.joined:,} pieces joined, {loaded.misaligned:,} of them do not line up) "
        f"in {time.perf_counter() - started:.2f} s"
    )
    if loaded.repeated:
        report(f"{loaded.repeated:,} entries are repeated word for word, with their ids: each counts once")
    if loaded.misaligned * 2 > loaded.joined:
        report("Most pieces do not line up: if the ids only look like pieces, use --no-stitch")
    if altered:
        report(f"SEED_ERRORS: {altered:,} messages altered")
    return loaded, index
