"""The least that aiohttp and ujson can do: what `perf.py` compares with.

python bare.py server SIZE               reads each body and answers SIZE fixed bytes; prints where
python bare.py client URL COUNT N < FILE posts bodies made beforehand, N in flight, and looks at nothing
python bare.py parse FILE                reads and parses it at once

The last two print the seconds it took as JSON: CPU, and of the client also those elapsed.
"""

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import ujson
import uvloop
from aiohttp import web


async def serve(size: int) -> None:
    body = b"x" * size

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=body, content_type="application/json")

    application = web.Application(client_max_size=2**30)
    application.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"Serving http://127.0.0.1:{runner.addresses[0][1]}/v1", flush=True)
    await asyncio.Event().wait()


async def post(url: str, bodies: list[bytes], in_flight: int) -> None:
    waiting: Iterator[bytes] = iter(bodies)

    async def work() -> None:
        for body in waiting:
            async with session.post(url, data=body) as response:
                await response.read()

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=in_flight)) as session:
        started, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*[work() for _ in range(in_flight)])
        figures = {"cpu_s": time.process_time() - cpu, "elapsed_s": time.perf_counter() - started}
    print(json.dumps(figures))


def parse(file: Path) -> None:
    cpu = time.process_time()
    parsed = ujson.loads(file.read_bytes())
    cpu = time.process_time() - cpu  # Before all of it is freed again.
    del parsed
    print(json.dumps({"cpu_s": cpu}))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["server", size]:
            uvloop.run(serve(int(size)))
        case ["client", url, count, in_flight]:
            uvloop.run(post(url, sys.stdin.buffer.read().split(b"\n")[: int(count)], int(in_flight)))
        case ["parse", file]:
            parse(Path(file))
