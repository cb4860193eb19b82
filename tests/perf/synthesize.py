"""Write a synthetic ShareGPT file with the shape of the real one, at any size.

Out comes a JSON array of {"id": "dcTB2RK_0", "conversations": [{"from": ..., "value": ...}]}.
The numbers of entries, of conversations (entries joined by id) and of replies (messages from
"gpt", repeats dropped) are exactly those asked for, the size is within 2 % of --megabytes.
Lengths are heavy-tailed, texts random in several scripts; some conversations open alike, copy or
branch off another, have pieces that overlap or leave gaps, or irregular roles. The same arguments
give the same bytes everywhere: the only source is random(), whose sequence Python guarantees, and
no function of the platform's math library is used.
"""

import argparse
import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from string import ascii_letters, digits
from typing import BinaryIO, NoReturn, TypeVar

T = TypeVar("T")
Message = tuple[str, str]  # role, text

CONVERSATIONS, ENTRIES, REPLIES, MEGABYTES = 50142, 94145, 333545, 650
MIN_REPLY_BYTES = 350
ROLES = {"h": "human", "g": "gpt", "s": "system", "H": "human", "G": "gpt"}  # capital: empty text

# Of all values, the share in SHARES is less than the value at the same place in the other rows.
SHARES = (0, 0.05, 0.25, 0.5, 0.75, 0.9, 0.97, 0.99, 0.999, 0.9999, 1)
MORE_REPLIES = (0, 0, 500, 2200, 6200, 14000, 30000, 51000, 125000, 280000, 700000)
USER_BYTES = (5, 15, 40, 100, 270, 680, 1600, 3000, 9500, 25000, 60000)
REPLY_BYTES = (20, 250, 700, 1200, 1950, 3000, 4600, 6500, 12000, 22000, 50000)

ODDITIES = ("g", "h", "s", "Hg", "hG")  # messages put between two exchanges
SPECIAL = ("copy", "branch", "branch", "empty", *ODDITIES, *["opener"] * 10)  # per thousand
OPENERS = ("hi", "hello", "Hi", "hey", "test", "continue", "go on", "thanks", "ok", "yes")
GREETINGS = ("Hello! How can I assist you today?", "Hi there! What can I do for you?")
RARE = "\x00\x07\x1b\x7f\x85\xa0\u200b\u200d\u2028\u202e\ufeff\ufffd"
EMOJI = (*map(chr, range(0x1F600, 0x1F640)), "\U0001f469\u200d\U0001f4bb", "\U0001f44d\U0001f3fd")
ENGLISH = """
a able about above account across act add after again age air all almost also always an and animal
answer any apply area argue arm around array art as ask at back bad bank base be because become
before begin behind best better between big bird black blue board body book both box bring build
business but buy by call can car care case cause change check child choice city class clear close
code cold color column come common company compare complete compute consider contain control copy
correct cost could country course cover create current customer cut dark data day deal decide deep
define describe design detail develop direct discuss document does door down draw dream drive each
early earth east easy eat edge effect eight else email empty end energy engine enough error even
event every example except expect explain extra eye face fact fail fall family far fast feature few
field figure file fill final find fire first five floor follow food for force form found four free
friend from full function future game garden general get give glass go goal good great green group
grow guess guide half hand happen hard have head health hear heart help her here high history hold
home hope hot hour house how human idea if image impact in include index input into is issue it
""".split()  # noqa: SIM905
ENDS = (". ", ". ", ", ", "? ", ": ", ".\n\n", "!\n", ".\n- ")
CODE = (  # "@" stands for a random word
    '```python\ndef @_@(@: str) -> None:\n    print(f"@: {@!r}\\n")\n    return @["@"]\n```\n',
    "```js\nconst @ = @.map((@) => {\n\treturn '@' + @.replace(/\\s+@/g, \"@\");\n});\n```\n",
    '<div class="@ @">\r\n  <a href="https://@.example/@?@=@">@ &amp; @</a>\r\n</div>\n',
    '{"@": "@", "@": [1, 2.5e3, {"@": null}], "@": "C:\\\\@\\\\@.txt"}\n',
    "| @ | @ @ |\n|---|:-:|\n| **@** | `@` |\n\n1. @ @ @\n2. $\\frac{@}{@}$\n",
)
# Share of the conversations, first and last letter, letters in a word, gap, ends of sentences.
FOREIGN = (
    (0.06, 0x4E00, 0x62FF, 2, "", ("\u3002", "\uff0c", "\uff01\n\n")),  # Chinese
    (0.04, 0x3041, 0x30F6, 4, "", ("\u3002", "\u3001", "\u3002\n")),  # Japanese
    (0.04, 0xAC00, 0xD7A3, 3, " ", (". ", ", ", ".\n\n")),  # Korean
    (0.04, 0x0430, 0x044F, 6, " ", (". ", " \u2014 ", ".\n\n")),  # Cyrillic
    (0.03, 0x0627, 0x063A, 5, " ", (". ", "\u061f ", ".\n\n")),  # Arabic
)


class Dice(random.Random):
    def pick(self, items: Sequence[T]) -> T:
        return items[int(self.random() * len(items))]


class Voice:
    """Random text in one script: fresh words, lest texts repeat, then sentences from a pool."""

    def __init__(self, dice: Dice, words: Sequence[str], gap: str, ends: Sequence[str]) -> None:
        self.dice, self.words, self.gap, self.ends = dice, words, gap, ends
        self.pool = [self._sentence(6 + dice.pick(range(14))) for _ in range(4000)]
        for index, char in enumerate(RARE[dice.pick(range(4)) :: 4]):
            self.pool[index] = char + self.pool[index]
        self.word_bytes = len(gap.join(words).encode()) / len(words)
        self.sentence_bytes = len(to_json("".join(self.pool))) / len(self.pool)

    def text(self, size: int) -> str:
        """A text of about `size` bytes as JSON; right on average."""
        fresh = max(3, min(16, int(size / self.word_bytes)))
        count = (size - fresh * self.word_bytes) / self.sentence_bytes + self.dice.random()
        pick, pool = self.dice.pick, self.pool
        return self._sentence(fresh) + "".join([pick(pool) for _ in range(int(count))])

    def _sentence(self, length: int) -> str:
        words = [self.dice.pick(self.words) for _ in range(length)]
        return self.gap.join(words) + self.dice.pick(self.ends)


class Coder(Voice):
    def _sentence(self, length: int) -> str:
        if length % 3:
            return super()._sentence(length)
        first, *others = self.dice.pick(CODE).split("@")
        return first + "".join([self.dice.pick(self.words) + other for other in others])


@dataclass
class Plan:
    """A conversation before it has texts."""

    kind: str
    roles: str  # a letter for each message, see ROLES
    sizes: list[int]  # of the texts, relative to each other
    cuts: list[int] = field(default_factory=list)  # where a new piece begins


def to_json(value: object, indent: int | None = None) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=indent).encode()


def value_at(share: float, values: Sequence[int]) -> int:
    """The value that this share of all values is less than."""
    steps = zip(pairwise(SHARES), pairwise(values), strict=True)
    (low, high), (start, end) = next(step for step in steps if share < step[0][1])
    return int(start + (end - start) * (share - low) / (high - low))


def split(total: int, weights: Sequence[int]) -> Iterator[int]:
    """Whole numbers in proportion to the weights, with exactly this total."""
    whole, passed = max(1, sum(weights)), 0
    for weight in weights:
        yield (passed + weight) * total // whole - passed * total // whole
        passed += weight


def kind_of(index: int) -> str:
    # A stride coprime with 1000 gives each kind its share at any file size.
    return dict(enumerate(SPECIAL)).get((index + 601) * 617 % 1000, "plain")


def make_plans(dice: Dice, conversations: int, entries: int, replies: int) -> list[Plan]:
    kinds = [kind_of(index) for index in range(conversations)]
    counts = reply_counts(dice, kinds, replies)
    plans = [make_plan(dice, kind, count) for kind, count in zip(kinds, counts, strict=True)]
    for whole in (3, 2, 1):  # so many replies stay in one piece
        room = [max(0, count - whole) for count in counts]
        room = [r if k in ("plain", "opener") else 0 for r, k in zip(room, kinds, strict=True)]
        if sum(room) >= entries - conversations:
            break
    else:
        raise ValueError(f"--entries can be at most {conversations + sum(room)}")
    for plan, count, cuts in zip(plans, counts, split(entries - conversations, room), strict=True):
        # Always where the role changes, lest equal messages meet by accident.
        ends = [2 * (count * cut // (cuts + 1)) for cut in range(1, cuts + 1)]
        plan.cuts = [end - (dice.random() < 0.1) for end in ends]
    return plans


def reply_counts(dice: Dice, kinds: list[str], replies: int) -> list[int]:
    # Evenly spaced shares in random order: every seed has the same mean and the same tail.
    order = sorted(range(len(kinds)), key=lambda _: dice.random())
    shares = [(place + 0.5) / len(kinds) for place in order]
    for index, kind in enumerate(kinds):
        if kind in ("copy", "branch"):  # of a length that an earlier conversation has too
            shares[index] = 0.4 + shares[index] / 4
    least = [int(kind != "empty") for kind in kinds]
    weights = [low * value_at(x, MORE_REPLIES) for low, x in zip(least, shares, strict=True)]
    more = split(replies - sum(least), weights)
    return [low + extra for low, extra in zip(least, more, strict=True)]


def make_plan(dice: Dice, kind: str, count: int) -> Plan:
    roles = "hg" * count
    if kind in ODDITIES:
        rest = count - kind.lower().count("g")
        before = dice.pick((0, rest, dice.pick(range(rest + 1))))
        roles = "hg" * before + kind + "hg" * (rest - before)
    curves = {"h": USER_BYTES, "g": REPLY_BYTES, "s": USER_BYTES}
    return Plan(kind, roles, [value_at(dice.random(), curves[r.lower()]) for r in roles])


def make_voices(dice: Dice) -> list[tuple[float, Voice]]:
    """Voices, each with the share of the conversations up to and including its own."""
    voices: list[tuple[float, Voice]] = []
    for part, first, last, letters, gap, ends in FOREIGN:
        alphabet = [chr(code) for code in range(first, last + 1)]
        lengths = [1 + dice.pick(range(2 * letters - 1)) for _ in range(600)]
        words = ["".join([dice.pick(alphabet) for _ in range(length)]) for length in lengths]
        voices.append((part + (voices[-1][0] if voices else 0), Voice(dice, words, gap, ends)))
    voices.append((0.25, Voice(dice, (*ENGLISH[::3], *EMOJI), " ", ENDS)))
    return [*voices, (0.40, Coder(dice, ENGLISH, " ", ENDS)), (1, Voice(dice, ENGLISH, " ", ENDS))]


class Writer:
    def __init__(self, out: BinaryIO, dice: Dice, size: int, indent: int | None) -> None:
        self.out, self.dice, self.size, self.indent = out, dice, size, indent
        self.totals: Counter[str] = Counter()
        self.voices = make_voices(dice)
        self.earlier: dict[str, list[Message]] = {}  # the latest in one piece, by roles
        self.names: set[str] = set()

    def write(self, plans: list[Plan]) -> Counter[str]:
        overhead = 85 if self.indent else 43  # bytes around a text, its part of the entry included
        messages_left = sum(len(plan.roles) for plan in plans)
        sizes_left = sum(sum(plan.sizes) for plan in plans)
        for plan in plans:
            # Sharing out what is left corrects, as it goes, texts that came out too short or long.
            room = max(0, self.size - self.totals["bytes"] - messages_left * overhead)
            self._conversation(plan, room / max(1, sizes_left))
            messages_left -= len(plan.roles)
            sizes_left -= sum(plan.sizes)
        self._put(b"\n]\n" if self.indent else b"]\n")
        return self.totals

    def _conversation(self, plan: Plan, scale: float) -> None:
        messages = self._shared(plan)
        share = self.dice.random()
        voice = next(voice for limit, voice in self.voices if share < limit)
        for role, size in list(zip(plan.roles, plan.sizes, strict=True))[len(messages) :]:
            text = "" if role.isupper() else voice.text(int(size * scale))
            if role == "h" and messages and self.dice.random() < 0.03:
                text = self.dice.pick(OPENERS)
            messages.append((ROLES[role], text))
        if not plan.cuts:
            self.earlier[plan.roles] = messages
        self._count(messages)
        name = self._new_name()
        for suffix, piece in self._pieces(messages, plan.cuts):
            self._entry(f"{name}_{suffix}", piece)

    def _shared(self, plan: Plan) -> list[Message]:
        """The messages that a conversation has in common with earlier ones."""
        earlier, some = self.earlier.get(plan.roles, []), 2 + self.dice.pick(range(5))
        if plan.kind == "opener":
            earlier = [("human", self.dice.pick(OPENERS)), ("gpt", self.dice.pick(GREETINGS))]
            some = 1 + some % 2
        if plan.kind in ("branch", "opener"):
            return earlier[: max(1, min(some, len(plan.roles) - 1))]
        return earlier[:] if plan.kind == "copy" else []

    def _count(self, messages: list[Message]) -> None:
        """Count the replies, and the bodies of the requests for them."""
        self.totals["conversations"] += 1
        request = len('{"messages":[]}')
        for role, text in messages:
            if role == "gpt":
                self.totals["replies"] += 1
                self.totals["request bytes"] += request
            request += len('{"role":"user","content":},') + len(to_json(text))

    def _new_name(self) -> str:
        name = ""
        while not name or name in self.names:
            name = "".join([self.dice.pick(ascii_letters + digits) for _ in range(7)])
        self.names.add(name)
        return name

    def _pieces(self, messages: list[Message], cuts: list[int]) -> Iterator[tuple[int, list[Message]]]:
        before, suffix = 0, 0
        for start, end in pairwise([0, *cuts, len(messages)]):
            share, repeated = self.dice.random() if start else 0.5, 0
            if share < 0.05:  # a gap
                suffix += 2 + 2 * self.dice.pick(range(10))
            elif share < 0.15 and suffix - before > 1:  # the last message again
                repeated = 1
            elif share > 0.997 and suffix - before > 1:  # does not line up
                suffix = before + 1
            piece = messages[start - repeated : end]
            before = suffix - repeated
            yield before, piece
            suffix = before + len(piece)

    def _entry(self, name: str, messages: list[Message]) -> None:
        items = [{"from": role, "value": text} for role, text in messages]
        extra = {"model": ""} if self.dice.random() < 0.002 else {}
        data = to_json([{"id": name, "conversations": items, **extra}], self.indent)
        separator = (b"," if self.indent else b", ") if self.totals["entries"] else b"["
        self._put(separator + data[1 : -2 if self.indent else -1])
        self.totals["entries"] += 1

    def _put(self, data: bytes) -> None:
        self.out.write(data)
        self.totals["bytes"] += len(data)


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def synthesize(parser: Parser) -> None:
    parser.add_argument("out", type=Path)
    parser.add_argument("--conversations", type=int, default=CONVERSATIONS)
    parser.add_argument("--entries", type=int, help="default: in proportion to conversations")
    parser.add_argument("--replies", type=int, help="default: in proportion to conversations")
    parser.add_argument("--megabytes", type=float, help="default: in proportion to conversations")
    parser.add_argument("--random-seed", type=int, default=1)
    parser.add_argument("--indent", action="store_const", const=2, help="write on many lines")
    args = parser.parse_args()
    count = args.conversations
    entries = count * ENTRIES // CONVERSATIONS if args.entries is None else args.entries
    replies = count * REPLIES // CONVERSATIONS if args.replies is None else args.replies
    megabytes = count * MEGABYTES / CONVERSATIONS if args.megabytes is None else args.megabytes
    if not 1 <= count <= entries <= replies:
        raise ValueError("must be: 1 <= conversations <= entries <= replies")
    if not replies * MIN_REPLY_BYTES <= megabytes * 1e6 < 1e12:
        raise ValueError(f"--megabytes must be at least {replies * MIN_REPLY_BYTES / 1e6}")
    dice = Dice(args.random_seed)
    plans = make_plans(dice, count, entries, replies)
    part = Path(f"{args.out}.part")
    with part.open("wb") as out:
        totals = Writer(out, dice, int(megabytes * 1e6), args.indent).write(plans)
    part.replace(args.out)
    average = totals["request bytes"] / totals["replies"] / 1000
    counts = ", ".join(f"{totals[name]} {name}" for name in ("entries", "conversations", "replies"))
    print(f"{args.out}: {totals['bytes']} bytes, {counts}, average request {average:.1f} KB")


if __name__ == "__main__":
    parser = Parser(description="Write a synthetic ShareGPT file.")
    try:
        synthesize(parser)
    except (OSError, ValueError) as error:
        parser.error(str(error))
