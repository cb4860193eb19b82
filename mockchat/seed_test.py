"""Prove that the requester reports exactly what is wrong: `python -m mockchat seed-test`, or `make seed-test`.

Its report is predicted from the data, message by message, by a search that shares nothing with the index: with
SEED_ERRORS for the requester, and for the server. If a history has several replies, each possible outcome is right.
"""

import json
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Sequence

from mockchat.bench import REPLAY, SERVE, environment, running_server
from mockchat.core import arguments, dataset, program, recordings, seeding
from mockchat.core.entries import Conversation
from mockchat.requester.result import place

PASSED = "passed"

Place = tuple[str, int]  # The conversation's id and the message's index.


def main(given: Sequence[str] | None = None) -> int:
    return program.run(lambda: _run(given))


def predict(asking: Iterable[Conversation], answering: Iterable[Conversation]) -> dict[Place, set[str]]:
    """The possible outcomes of each request: `passed`, or a kind of failure."""
    recorded = _replies(answering)
    outcomes: dict[Place, set[str]] = {}
    for history, replies in _replies(asking).items():
        right, answers = set(replies.values()), set(recorded[history].values())
        possible = {PASSED if answer in right else "mismatched" for answer in answers} or {"not_found"}
        outcomes |= dict.fromkeys(replies, possible)
    return outcomes


def _replies(conversations: Iterable[Conversation]) -> dict[tuple[bytes, ...], dict[Place, bytes]]:
    replies: dict[tuple[bytes, ...], dict[Place, bytes]] = defaultdict(dict)
    for conversation in conversations:
        messages = conversation.messages
        for number, _ in conversation.places():
            replies[tuple(messages[:number])][conversation.id, number] = messages[number]
    return replies


def observe(base_url: str, options: Sequence[str], seed: str) -> tuple[int, dict[Place, str]]:
    """Run the requester with this value of SEED_ERRORS; returns the number of requests, and the failures."""
    command = [*REPLAY, "--base-url", base_url, "--keep-going", "--json", "-", *options]
    ended = subprocess.run(command, env=environment(seed), capture_output=True, encoding="utf-8", check=False)
    if ended.returncode not in (program.OK, program.FAILED):
        raise SystemExit(f"the requester ended with exit status {ended.returncode}:\n{ended.stderr}")
    result = json.loads(ended.stdout)
    failures = {(found["conversation_id"], found["message_index"]): found["kind"] for found in result["failures"]}
    if ended.returncode != bool(failures) or len(failures) != result["requests"] - result["passed"]:
        raise SystemExit(f"the requester contradicts itself: exit status {ended.returncode}, {result}")
    return result["requests"], failures


def compare(title: str, predicted: dict[Place, set[str]], requests: int, observed: dict[Place, str]) -> bool:
    """Print whether prediction and observation agree; True if they do."""
    wrong = [
        f"  {place(*at)}: reported {observed.get(at, PASSED)}, predicted {' or '.join(sorted(possible))}"
        for at, possible in predicted.items()
        if observed.get(at, PASSED) not in possible
    ]
    unknown = len(observed.keys() - predicted)
    if requests != len(predicted) or unknown:
        wrong.append(f"  {requests} requests and {unknown} unknown places")
    kinds = list(observed.values())
    found = f"{kinds.count('not_found')} not found, {kinds.count('mismatched')} mismatched of {len(predicted)}"
    print("\n".join([f"{title:<33}{found}, {'NOT as predicted' if wrong else 'as predicted'}", *wrong]))
    return not wrong


def _run(given: Sequence[str] | None) -> int:
    parser = arguments.new_parser("Prove that the requester reports exactly what is wrong.")
    arguments.add_recordings(parser, repr(recordings.SAMPLE))
    seeds = ("1", "2", "3", "4", "word")
    parser.add_argument("--seeds", nargs="+", default=seeds, help=f"values of SEED_ERRORS (default: {' '.join(seeds)})")
    chosen = arguments.parse(parser, given)
    paths = chosen.data or [recordings.named(recordings.SAMPLE)]
    both = [f"--data={path}" for path in paths] + ["--no-stitch"] * chosen.no_stitch

    def load(seed: str) -> list[Conversation]:
        conversations = dataset.load(*paths, stitch=not chosen.no_stitch).conversations
        seeding.seed_errors(conversations, seed)
        return conversations

    agreed = True
    for asking, answering in [("", ""), *((seed, "") for seed in chosen.seeds), *(("", seed) for seed in chosen.seeds)]:
        title = f"requester: {asking or 'clean'}, server: {answering or 'clean'}"
        with running_server([*SERVE, *both], env=environment(answering)) as (base_url, _):
            observed = observe(base_url, both, asking)
        agreed &= compare(title, predict(load(asking), load(answering)), *observed)
    print("Requester and prediction agree." if agreed else "FAILED: requester and prediction do not agree.")
    return program.OK if agreed else program.FAILED
