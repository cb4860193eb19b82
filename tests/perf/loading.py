"""Measure loading: python tests/perf/loading.py FILE [--rounds 3]

Seconds from the file to a ready index against one `ujson.loads` of the whole file, and the memory then and at its
peak against the file's size. Each figure is that of a process of its own, taken in turn; printed are the medians.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

PARSE = """
import sys, time, ujson
started = time.process_time()
parsed = ujson.loads(open(sys.argv[1], "rb").read())
"""
LOAD = """
import sys, time
from pathlib import Path
from mockchat import dataset
from mockchat.index import ResponseIndex
started = time.process_time()
loaded = dataset.load(Path(sys.argv[1]))
index = ResponseIndex(loaded.conversations)
"""
TELL = """
import json, resource
seconds = time.process_time() - started
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps([seconds, *(1024 * int(status[name].split()[0]) for name in ("VmRSS", "VmHWM"))]))
"""


def measure(program: str, path: Path) -> list[float]:
    """CPU seconds, memory in bytes at the end and at its peak."""
    command = [sys.executable, "-c", program + TELL, str(path)]
    figures: list[float] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rounds = [(measure(PARSE, options.file), measure(LOAD, options.file)) for _ in range(options.rounds)]
    size = options.file.stat().st_size
    ratio = statistics.median(load[0] / parse[0] for parse, load in rounds)
    seconds = [statistics.median(figures[0] for figures in column) for column in zip(*rounds, strict=True)]
    ready, peak = (statistics.median(load[number] for _, load in rounds) for number in (1, 2))
    print(f"{options.file}: {size / 1e6:,.0f} MB, {options.rounds} rounds, medians")
    print(f"load and index / one ujson.loads   {ratio:.2f} ({seconds[1]:.2f} s / {seconds[0]:.2f} s of CPU)")
    print(f"memory when ready / file's size    {ready / size:.2f} ({ready / 1e6:,.0f} MB)")
    print(f"memory at its peak / file's size   {peak / size:.2f} ({peak / 1e6:,.0f} MB)")


if __name__ == "__main__":
    main()
