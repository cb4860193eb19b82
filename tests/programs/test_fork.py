"""A test may fork: the child asks the server too, and ends as it would without one."""

import os
import subprocess
import sys

import pytest

from tests.programs import ROOT

PROGRAM = """
import json, multiprocessing, os, sys, urllib.request
from mockchat.testing import serve

HI = {"role": "user", "content": "hi"}

def ask(server):
    body = json.dumps({"messages": [HI]}).encode()
    with urllib.request.urlopen(server.base_url + "/chat/completions", body) as answer:
        assert json.load(answer)["choices"][0]["message"]["content"] == "hello"

def end(how, server):
    ask(server)
    if how == "sys.exit":
        sys.exit(7)
    elif how == "os._exit":
        os._exit(7)

def fork(how, server):
    if not (child := os.fork()):
        end(how, server)
    return child

def main():
    with serve([[HI, {"role": "assistant", "content": "hello"}]]) as server:
        for how in ("sys.exit", "os._exit"):
            child = fork(how, server)
            print(how, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        process = multiprocessing.get_context("fork").Process(target=end, args=("return", server))
        process.start()
        process.join()
        print("multiprocessing", process.exitcode, flush=True)
        ask(server)
    print("parent", len(server.requests), flush=True)

main()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows does not fork")
def test_children_of_a_process_with_a_server() -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PROGRAM]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.splitlines() == ["sys.exit 7", "os._exit 7", "multiprocessing 0", "parent 4"]
    assert (done.returncode, done.stderr) == (0, "")
