"""The requester's engine over the first requests of a file: python engine.py URL FILE COUNT N

Prints CPU and elapsed seconds as JSON, loading left out. The twin of `bare.py client`.
"""

import asyncio
import gc
import json
import sys
import time
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).parents[2]))

from mockchat.core import dataset
from mockchat.core.index import ResponseIndex
from mockchat.requester.plan import Load
from mockchat.requester.run import replay


def main(base_url: str, file: Path, count: int, in_flight: int) -> None:
    loaded = dataset.load(file)
    index = ResponseIndex(loaded.conversations)
    gc.freeze()  # As the command line does.
    load = Load(concurrency=in_flight, limit=count)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.get_loop()
        cpu = time.process_time()
        result = runner.run(replay(loaded.conversations, index, base_url, load))
        cpu = time.process_time() - cpu
    if result.passed != count:
        raise SystemExit(f"{result.passed} of {count} verified: {result.failures[:1]}")
    print(json.dumps({"cpu_s": cpu, "elapsed_s": result.elapsed}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
