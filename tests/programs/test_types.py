"""Every kind of answer by the types of OpenAI's JavaScript SDK: as TypeScript, which its compiler checks."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mockchat.server.errors import ApiError
from tests.programs.test_sdk import SDK
from tests.server import kinds, schema
from tests.server.kinds import KINDS, ask

COMPILER = SDK / "node_modules" / "typescript" / "bin" / "tsc"
# What a type does not name may be there too: in an object literal the compiler takes it for a slip otherwise.
SHAPES = """
import type { ChatCompletion, ChatCompletionChunk } from 'openai/resources/chat/completions';
import type { ErrorObject } from 'openai/resources/shared';
type Open<T> = T extends (infer Item)[] ? Open<Item>[] : OpenObject<T>;
type OpenObject<T> = T extends object ? { [Key in keyof T]: Open<T[Key]> } & { [key: string]: unknown } : T;
export declare function completion(answer: Open<ChatCompletion>): void;
export declare function chunk(answer: Open<ChatCompletionChunk>): void;
export declare function error(answer: Open<{ error: ErrorObject }>): void;
"""
IMPORT = "import { completion, chunk, error } from './shapes.mjs';"
# The compiler tells it too where one of these is no flaw, as all would be none if the types were not found. What stands
# before it is right: else it could be a flaw for another reason than it is meant to be.
FLAWS = """
const message = { role: 'assistant' as const, content: 'Two.', refusal: null };
const choice = { index: 0, message, logprobs: null, finish_reason: 'stop' as const };
const about = { id: 'x', created: 1, model: 'm', object: 'chat.completion' as const };
const delta = { role: 'assistant' as const };
const about_chunk = { ...about, object: 'chat.completion.chunk' as const };
completion({ ...about, choices: [choice] });
// @ts-expect-error
completion({ ...about, choices: [{ ...choice, message: { role: 'assistant', content: 'Two.' } }] });
// @ts-expect-error
completion({ ...about, choices: [{ ...choice, finish_reason: 'end' }] });
chunk({ ...about_chunk, choices: [{ index: 0, delta, finish_reason: null }] });
// @ts-expect-error
chunk({ ...about_chunk, choices: [{ delta, finish_reason: null }] });
error({ error: { message: 'x', type: 'y', param: null, code: null } });
// @ts-expect-error
error({ error: { message: 'x', type: 'y', param: null } });
"""


def calls_of(content: str, n: int = 1) -> Iterator[str]:
    """The answers to a request, plain and streamed, each in a call of the function of its shape."""
    yield f"completion({kinds.whole(ask(content, n=n)).decode()});"
    asked = ask(content, n=n, stream=True, stream_options={"include_usage": True})
    for chunk in filter(schema.has_sdk_type, schema.chunks_of(kinds.streamed(asked))):
        yield f"chunk({json.dumps(chunk)});"


@pytest.mark.skipif(not shutil.which("node"), reason="no Node here")
@pytest.mark.skipif(not COMPILER.exists(), reason="no npm here, so no TypeScript")
def test_answers_have_the_types_of_the_javascript_sdk(tmp_path: Path) -> None:
    programs = {kind.replace(" ", "-"): calls_of(kind) for kind in KINDS}
    programs["several-choices"] = calls_of("any", n=len(KINDS))
    errors = ApiError(429, "x"), ApiError(400, "x", param="n"), ApiError(401, "x", code="invalid_api_key")
    programs["errors"] = (f"error({each.body().decode()});" for each in errors)
    programs["flaws"] = iter([FLAWS])
    for name, calls in programs.items():
        (tmp_path / f"{name}.mts").write_text("\n".join([IMPORT, *calls]), encoding="utf-8")
    (tmp_path / "shapes.mts").write_text(SHAPES, encoding="utf-8")
    (tmp_path / "node_modules").symlink_to(SDK / "node_modules")
    options = ["--noEmit", "--strict", "--skipLibCheck", "--module", "nodenext", "--target", "es2022"]
    command = ["node", str(COMPILER), *options, *[f"{name}.mts" for name in programs]]
    ended = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8", timeout=120, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
