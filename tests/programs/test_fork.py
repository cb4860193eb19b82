"""A test may fork: the child asks the server too, and ends as it would without one."""

import os
import signal
import subprocess
import sys

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


DISCONNECTED = """
import os, socket, time
from mockchat.testing import serve

with serve([], ttft_ms=300) as server:
    port = int(server.base_url.split(":")[2].split("/")[0])
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.settimeout(30)
        head = b"POST /v1/chat/completions HTTP/1.1\\r\\nHost: x\\r\\nExpect: 100-continue\\r\\n"
        client.sendall(head + b"X-Mockchat-Fault: disconnect\\r\\nContent-Length: 2\\r\\n\\r\\n")
        client.recv(1000)  # The server has accepted the connection, which the child then has open too.
        if not os.fork():
            time.sleep(60)
            os._exit(0)
        client.sendall(b"{}")
        print("closed" if client.recv(1000) == b"" else "open", flush=True)
os._exit(0)
"""


def test_a_disconnect_is_seen_though_a_child_has_the_connection_open() -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", DISCONNECTED]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout
        try:
            assert process.stdout.readline() == "closed\n"
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_children_of_a_process_with_a_server() -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PROGRAM]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.splitlines() == ["sys.exit 7", "os._exit 7", "multiprocessing 0", "parent 4"]
    assert (done.returncode, done.stderr) == (0, "")
