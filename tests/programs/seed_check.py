"""make seed-test: prove that the requester reports exactly what is wrong, message by message.

What it must report is predicted from the data alone, by a search that shares nothing with the index: once with
SEED_ERRORS on the requester's side and once on the server's. Where chance decides among several recorded replies,
the prediction allows each outcome.
"""

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from mockchat.core import dataset, seeding
from mockchat.core.entries import Conversation
from mockchat.core.recordings import DATASETS
from tests.programs import REQUESTER, environment, run_requester, running_server

SEEDS = ("1", "2", "3", "4", "word")
PASSED = "passed"

Place = tuple[str, int]  # The conversation's id and the message's index.


def predict(asking: Iterable[Conversation], answering: Iterable[Conversation]) -> dict[Place, set[str]]:
    """What can come of each request: `passed`, or the kind of failure."""
    expected, recorded = _replies(asking), _replies(answering)
    outcomes: dict[Place, set[str]] = {}
    for conversation, number, history in _requests(asking):
        possible = {PASSED if reply in expected[history] else "mismatched" for reply in recorded.get(history, ())} or {
            "not_found"
        }
        outcomes[conversation.id, number] = possible
    return outcomes


def _requests(conversations: Iterable[Conversation]) -> Iterable[tuple[Conversation, int, tuple[bytes, ...]]]:
    for conversation in conversations:
        for number in conversation.replies:
            yield conversation, number, tuple(conversation.messages[:number])


def _replies(conversations: Iterable[Conversation]) -> dict[tuple[bytes, ...], set[bytes]]:
    replies = defaultdict(set)
    for conversation, number, history in _requests(conversations):
        replies[history].add(conversation.messages[number])
    return replies


def observe(base_url: str, options: list[str], seed: str, program: Path) -> tuple[int, dict[Place, str]]:
    """Run the real requester, with SEED_ERRORS where `seed` is not empty: the requests and the failures it reports."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "result.json"
        arguments = ["--base-url", base_url, "--keep-going", "--json", str(output), *options]
        ended = run_requester(*arguments, env=environment(SEED_ERRORS=seed), program=program)
        if ended.returncode not in (0, 1):
            raise SystemExit(f"the requester ended with exit status {ended.returncode}:\n{ended.stderr}")
        result = json.loads(output.read_text(encoding="utf-8"))
    failures = {(found["conversation_id"], found["message_index"]): found["kind"] for found in result["failures"]}
    if ended.returncode != bool(failures) or len(failures) != result["requests"] - result["passed"]:
        raise SystemExit(f"the requester contradicts itself: exit status {ended.returncode}, {result}")
    return result["requests"], failures


def compare(title: str, predicted: dict[Place, set[str]], requests: int, observed: dict[Place, str]) -> bool:
    """Print how prediction and observation agree; true if they do."""
    wrong = [
        f"  conversation {place[0]}, message {place[1]}: reported {observed.get(place, PASSED)}, "
        f"predicted {' or '.join(sorted(possible))}"
        for place, possible in predicted.items()
        if observed.get(place, PASSED) not in possible
    ]
    if requests != len(predicted) or observed.keys() - predicted:
        wrong.append(f"  {requests} requests and {len(observed.keys() - predicted)} unknown places")
    kinds = list(observed.values())
    found = f"{kinds.count('not_found')} not found, {kinds.count('mismatched')} mismatched of {len(predicted)}"
    chance = sum(len(possible) > 1 for possible in predicted.values())
    print(f"{title:<28}{found}, {'NOT as predicted' if wrong else 'as predicted'} ({chance} left to chance)")
    for line in wrong:
        print(line)
    return not wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, action="append")
    parser.add_argument("--no-stitch", action="store_true")
    parser.add_argument("--requester", type=Path, default=REQUESTER, help="another requester, to see this check fail")
    parser.add_argument("--seeds", nargs="+", default=SEEDS)
    options = parser.parse_args()
    paths = options.data or [DATASETS[-1]]
    both = [f"--data={path}" for path in paths] + ["--no-stitch"] * options.no_stitch

    def load(seed: str = "") -> list[Conversation]:
        conversations = dataset.load(*paths, stitch=not options.no_stitch).conversations
        seeding.seed_errors(conversations, seed)
        return conversations

    def agrees(title: str, asking: str, answering: str, base_url: str) -> bool:
        return compare(
            title, predict(load(asking), load(answering)), *observe(base_url, both, asking, options.requester)
        )

    with running_server(*both, env=environment()) as (base_url, _):
        agreed = [agrees("clean", "", "", base_url)]
        agreed += [agrees(f"requester seeded with {seed}", seed, "", base_url) for seed in options.seeds]
    for seed in options.seeds:
        with running_server(*both, env=environment(SEED_ERRORS=seed)) as (base_url, _):
            agreed.append(agrees(f"server seeded with {seed}", "", seed, base_url))
    print("Requester and prediction agree." if all(agreed) else "FAILED: requester and prediction do not agree.")
    return 0 if all(agreed) else 1


if __name__ == "__main__":
    sys.exit(main())
