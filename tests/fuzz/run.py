"""Look for inputs for which a property does not hold: what `make fuzz` runs.

Each target gets a process of its own, in which atheris (https://github.com/google/atheris) makes inputs up, guided by
the lines of mockchat that they reach. What reaches something new is kept in build/fuzz for the next time.
"""

import argparse
import random
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from zlib import crc32

from tests.fuzz import inputs
from tests.programs import ROOT

BUILD = ROOT / "build" / "fuzz"
TARGETS = ("body", "file", "connection")
MAX_SIZE = 10_000  # bytes
TIMEOUT = 20  # seconds that one input may take
MEMORY = 1000  # MB


def main() -> int:
    parser = argparse.ArgumentParser(description="Look for inputs for which a property does not hold.")
    parser.add_argument("--seconds", type=int, default=60, help="how long to look, for each target (60)")
    parser.add_argument("target", nargs="?", choices=TARGETS, help="one target, in this process")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="inputs to try again, or libFuzzer's options")
    options = parser.parse_args()
    if options.target:
        fuzz(options.target, options.arguments)
    return max([search(target, options.seconds) for target in TARGETS])


def search(target: str, seconds: int) -> int:
    """Fuzz a target in a process of its own; gives 1 where something was found."""
    corpus, log = BUILD / target, BUILD / f"{target}.log"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(inputs.seeds(target)):
        (corpus / f"seed-{number}").write_bytes(seed)
    again = [sys.executable, "-m", "tests.fuzz.run", target]
    limits = (f"-max_len={MAX_SIZE}", f"-timeout={TIMEOUT}", f"-rss_limit_mb={MEMORY}", f"-max_total_time={seconds}")
    with log.open("wb") as file:
        # What breaks is kept in the corpus too: it is tried first the next time.
        command = [*again, str(corpus), f"-artifact_prefix={corpus}/", "-print_final_stats=1", *limits]
        status = subprocess.run(command, stdout=file, stderr=file, check=False).returncode
    told = log.read_text(errors="replace")
    if not status:
        tried = re.findall(r"number_of_executed_units: (\d+)", told)[-1]
        print(f"{target}: {int(tried):,} inputs in {seconds} s, nothing found", flush=True)
        return 0
    print(told[told.find("=== Uncaught") if "=== Uncaught" in told else -4000 :][:4000])
    kept = re.findall(r"Test unit written to (\S+)", told)
    problem = f"the fuzzer failed, see {log}"
    if kept:
        problem = f"found {kept[-1]}; to try it again:\n    {' '.join(again)} {kept[-1]}"
    print(f"{target}: {problem}", flush=True)
    return 1


def fuzz(target: str, arguments: Sequence[str]) -> None:
    """Fuzz in this process, until libFuzzer ends it."""
    import atheris

    BUILD.mkdir(parents=True, exist_ok=True)
    with atheris.instrument_imports(include=["mockchat"]):
        check = property_of(target)

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        chance = random.Random(seed)
        if chance.random() < 0.4:
            return atheris.Mutate(data, max_size)
        return inputs.mutated(data, target, chance)[:max_size]

    atheris.Setup([sys.argv[0], *arguments], atheris.instrument_func(check), custom_mutator=mutate)
    atheris.Fuzz()


def property_of(target: str) -> Callable[[bytes], object]:
    """What must hold, as a function of the input alone; further choices that it needs follow from the input."""
    from tests.fuzz import properties

    match target:
        case "body":
            return lambda data: properties.body(data, properties.SAMPLED)
        case "file":
            return lambda data: properties.file(data, 1 + crc32(data) % 300, BUILD / "recordings.json")
        case _:
            return lambda data: properties.connection(data, crc32(data), properties.SAMPLED)


if __name__ == "__main__":
    sys.exit(main())
