"""make soak: the server under attacks, stopped under load and killed while it records, for a bounded time.

Each attack runs against a server of its own, while a proper client asks 100 times a second and verifies every answer.
Prints a row for each, and ends with status 1 where a proper client got a wrong answer, the server failed or took more
memory than `Attack.allowed_mb`, or a file of recordings was damaged. The times are for you to judge.
"""

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from yarl import URL

from mockchat.core.dataset import load
from tests.helpers import SAMPLE
from tests.programs import REQUESTER, run_requester, running_server
from tests.soak.attacks import ATTACKS, RECORDED, Attack, run

WATCHED = (sys.executable, "-m", "tests.soak.watched", "--port", "0")
RATE = 100  # requests a second of the proper client
COLUMNS = "{:<34}{:>14}{:>12}{:>12}{:>9}{:>9}{:>9}  {}"


def memory_mb(process: "subprocess.Popen[str]", which: str) -> int:
    """`VmRSS` is what the process takes, `VmHWM` its peak (proc(5))."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith(which))


class Attacked(NamedTuple):
    """What an attack did: how much memory the server took for it, and how long it held its loop at most.

    `statuses` are those that the attackers were answered, `proper` is the report of the proper client, if there was
    one, and `well` whether that got right answers alone, the memory was enough, and the server ended well.
    """

    memory_mb: int
    hold_ms: float
    statuses: dict[str, int]
    proper: dict[str, Any]
    well: bool


def under(attack: Attack, seconds: float, folder: Path, *, asking: bool = True) -> Attacked:
    """Attack a server for so long, while a proper client asks it, if `asking`."""
    data, found = folder / "recordings.json", folder / "found.json"
    data.write_text(json.dumps(RECORDED))
    options = ["--data", str(data), "--data", str(SAMPLE), "--shutdown-timeout", "1", *attack.options]
    client = ["--data", str(SAMPLE), "--keep-going", "--rate", str(RATE), "--duration", str(seconds)]
    client += ["--concurrency", "100", "--json", str(found)]
    with running_server(*options, program=WATCHED) as (base_url, process), ThreadPoolExecutor() as pool:
        Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # The peak counts from here (proc(5)).
        before = memory_mb(process, "VmRSS")
        proper = pool.submit(run_requester, *client, "--base-url", base_url) if asking else None
        statuses = asyncio.run(run(attack, URL(base_url).port or 0, seconds))
        well = proper is None or proper.result().returncode == 0
        grown = memory_mb(process, "VmHWM") - before
        process.terminate()
        assert process.stdout
        hold = float(process.stdout.read().split()[-1])
        well = well and process.wait() in (0, 1)  # 1: who did not read was cut.
        well = well and grown <= attack.allowed_mb
    return Attacked(grown, hold, statuses, json.loads(found.read_text()) if asking else {}, well)


def under_attack(attack: Attack, seconds: float, folder: Path) -> bool:
    """Print what an attack does; returns whether all went well."""
    found = under(attack, seconds, folder)
    latency = found.proper["latency_ms"] or {"p50": 0, "p99": 0}
    row = f"{found.memory_mb}/{attack.allowed_mb} MB", f"{found.hold_ms:.1f} ms", found.proper["passed"]
    row += f"{latency['p50']:.1f}", f"{latency['p99']:.0f}", "yes" if found.well else "NO"
    answered = ", ".join(f"{count} x {status}" for status, count in sorted(found.statuses.items()))
    print(COLUMNS.format(attack.name, *row, answered or "-"), flush=True)
    return found.well


def stopped_under_load(seconds: float) -> bool:
    """Stop servers under load, again and again: each finishes what it has begun, and ends with 0."""
    end, stops, bad = time.monotonic() + seconds, 0, 0
    while time.monotonic() < end:
        with running_server("--data", str(SAMPLE)) as (base_url, process):
            asking = [sys.executable, str(REQUESTER), "--data", str(SAMPLE), "--base-url", base_url, "--duration", "60"]
            with subprocess.Popen([*asking, "--concurrency", "16"], stdout=subprocess.DEVNULL) as client:
                time.sleep(random.uniform(0.3, 0.8))
                process.terminate()
                bad += process.wait(30) != 0
                client.wait(30)
        stops += 1
    print(f"Stopped under load {stops} times: {bad} did not finish what they had begun")
    return not bad


def killed_while_recording(seconds: float, folder: Path) -> bool:
    """Kill a server that records, again and again: at most its last line is lost, and the file goes on."""
    end, kills, bad = time.monotonic() + seconds, 0, 0
    file = folder / "recorded.jsonl"
    with running_server("--data", str(SAMPLE)) as (upstream, _):
        while time.monotonic() < end:
            with running_server("--upstream", upstream, "--record", str(file)) as (base_url, process):
                asking = [sys.executable, str(REQUESTER), "--data", str(SAMPLE), "--base-url", base_url]
                with subprocess.Popen([*asking, "--shuffle", "--quiet"], stdout=subprocess.DEVNULL) as client:
                    time.sleep(random.uniform(0.3, 0.9))
                    process.kill()
                    client.wait(30)
            kills += 1
            lines = file.read_bytes().splitlines() if file.exists() else []
            whole = [line for line in lines if line.endswith(b"}")]
            bad += len(whole) < len(lines) - 1
            if kills % 5 == 0:
                file.unlink(missing_ok=True)  # Else nothing is left to record.
        with running_server("--upstream", upstream, "--record", str(file)) as (base_url, _):
            bad += run_requester("--data", str(SAMPLE), "--base-url", base_url).returncode != 0
    bad += load(file).replies == 0
    print(f"Killed while recording {kills} times: {bad} damaged the file")
    return not bad


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120, help="in all, about (default %(default)g)")
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORD", help="the attacks with one of these words")
    chosen = parser.parse_args()
    attacks = [attack for attack in ATTACKS if any(word in attack.name for word in chosen.only)]
    share = chosen.seconds / (len(attacks) + 4)
    print(COLUMNS.format("attack", "memory", "held for", "verified", "p50", "p99", "well", "answered to the attack"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        good = [under_attack(attack, share, folder) for attack in attacks]
        if chosen.only == [""]:
            good += [stopped_under_load(2 * share), killed_while_recording(2 * share, folder)]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
