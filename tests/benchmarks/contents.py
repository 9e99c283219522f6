"""How fast files are, beside a stock file manager: ``python -m tests.benchmarks.contents``.

A stock Jupyter Server and one of ours run at the same time and take turns, so that a busy
machine disturbs both alike.  Before the figures comes what moving one large file costs the
memory of ours.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from tests.benchmarks.contenders import STOCK, Contender, contender
from tests.benchmarks.relay import say

SIZES = {"1 KB": 1_000, "1 MB": 1_000_000, "50 MB": 50_000_000}
LISTINGS = (2_000, 5_000)
CHUNK_BYTES = 1 << 20
ROUNDS = {"1 KB": 20, "1 MB": 3}  # of one measurement; others are long enough by themselves
MAX_RATIO = 1.0

Work = Callable[[Contender, str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Case:
    label: str
    work: Work
    rounds: int = 1


async def main() -> None:
    arguments = _parse(sys.argv[1:])
    load_before = os.getloadavg()
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(contender("ours", {"runtime": "process"}))
        if arguments.large > 0:
            await _large(ours, arguments.large << 20)
        stock = await stack.enter_async_context(contender(STOCK, {}))
        taken = await _measure([stock, ours], arguments.n)
    _print(taken)
    for label, load in {"load before": load_before, "load after": os.getloadavg()}.items():
        say(f"{label}: {' '.join(f'{value:.2f}' for value in load)}")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=20, help="measurements of each kind")
    parser.add_argument("--large", type=int, default=2048, help="MiB of the large file; 0: none")
    return parser.parse_args(arguments)


async def _measure(contenders: Sequence[Contender], count: int) -> dict[str, dict[str, float]]:
    """Return the median milliseconds of each case and contender, after one that does not count."""
    taken: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in contenders:
        await _fill(one)
    for case in _cases():
        for turn in range(count + 1):
            # Who comes first has an advantage of up to a fifth where a client is busy, too.
            for one in contenders if turn % 2 else reversed(contenders):
                begin = time.perf_counter()
                for _ in range(case.rounds):
                    await case.work(one, one.directory)
                took_ms = (time.perf_counter() - begin) * 1e3 / case.rounds
                if turn > 0:
                    taken[case.label][one.name].append(took_ms)
    return {
        label: {name: statistics.median(values) for name, values in of_one.items()}
        for label, of_one in taken.items()
    }


def _cases() -> list[Case]:
    cases = [Case(f"list {count:,} files", _lists(count)) for count in LISTINGS]
    for label, size in SIZES.items():
        rounds = ROUNDS.get(label, 1)
        cases.append(Case(f"write {label}", _writes(size), rounds))
        cases.append(Case(f"read {label}", _reads(size), rounds))
        cases.append(Case(f"download {label}", _downloads(size), rounds))
    return cases


async def _fill(one: Contender) -> None:
    for count in LISTINGS:
        path = f"{one.directory}/list{count}"
        await _put(one, path, {"type": "directory"})
        await asyncio.to_thread(_touch, one.host_path(path), count)


def _touch(directory: Path, count: int) -> None:
    for n in range(count):
        (directory / f"{n}.txt").touch()


def _lists(count: int) -> Work:
    async def work(one: Contender, directory: str) -> None:
        listed = (await _get(one, f"{directory}/list{count}")).json()["content"]
        assert len(listed) == count

    return work


def _writes(size: int) -> Work:
    body = {"type": "file", "format": "text", "content": "x" * size}

    async def work(one: Contender, directory: str) -> None:
        await _put(one, f"{directory}/{size}.txt", body)

    return work


def _reads(size: int) -> Work:
    async def work(one: Contender, directory: str) -> None:
        assert len((await _get(one, f"{directory}/{size}.txt")).content) > size

    return work


def _downloads(size: int) -> Work:
    async def work(one: Contender, directory: str) -> None:
        answer = await one.server.get(f"files/{directory}/{size}.txt")
        assert len(answer.content) == size

    return work


async def _large(one: Contender, size: int) -> None:
    """Upload as JupyterLab does, and by tus; download; say what it costs in memory."""
    name = f"{one.directory}/large.bin"
    process = psutil.Process(one.server.pid)
    say(f"\na file of {size >> 20} MiB, and how much the server's memory grew meanwhile")
    for label, work in {
        "upload in chunks": _upload_in_chunks(one, name, size),
        "upload by tus": _upload_by_tus(one, size),
        "download": _download(one, name, size),
    }.items():
        before, peak, begin = process.memory_info().rss, 0, time.perf_counter()
        task = asyncio.ensure_future(work)
        while not task.done():
            peak = max(peak, process.memory_info().rss)
            await asyncio.wait([task], timeout=0.05)
        await task
        took_s = time.perf_counter() - begin
        say(
            f"  {label:18}{took_s:8.1f} s {size / took_s / 1e6:8.0f} MB/s"
            f"{max(peak - before, 0) / 2**20:8.0f} MiB more"
        )


async def _upload_in_chunks(one: Contender, path: str, size: int) -> None:
    content = base64.b64encode(os.urandom(CHUNK_BYTES)).decode()
    count = size // CHUNK_BYTES
    for n in range(1, count + 1):
        body = {"type": "file", "format": "base64", "content": content}
        await _put(one, path, {**body, "chunk": -1 if n == count else n})


async def _upload_by_tus(one: Contender, size: int) -> None:
    headers = {"Tus-Resumable": "1.0.0", "Upload-Length": str(size)}
    url = f"backendai/v1/vfolders/{one.directory}/uploads?path=tus.bin"
    made = await one.server.post(url, headers=headers)
    made.raise_for_status()
    sent = await one.server.request(
        "PATCH",
        made.headers["Location"],
        headers={
            "Tus-Resumable": "1.0.0",
            "Upload-Offset": "0",
            "Content-Type": "application/offset+octet-stream",
            "Content-Length": str(size),
        },
        content=_blocks(size),
        timeout=600,
    )
    sent.raise_for_status()


async def _blocks(size: int) -> AsyncIterator[bytes]:
    block = os.urandom(CHUNK_BYTES)
    for _ in range(size // CHUNK_BYTES):
        yield block


async def _download(one: Contender, path: str, size: int) -> None:
    seen = 0
    async for chunk in one.server.stream(f"files/{path}"):
        seen += len(chunk)
    assert seen == size


async def _get(one: Contender, path: str) -> httpx.Response:
    answer = await one.server.get(f"api/contents/{path}")
    answer.raise_for_status()
    return answer


async def _put(one: Contender, path: str, body: Mapping[str, object]) -> None:
    (await one.server.request("PUT", f"api/contents/{path}", json=body)).raise_for_status()


def _print(taken: dict[str, dict[str, float]]) -> None:
    say(f"\n{'median [ms]':24}{'stock':>10}{'ours':>10}{'ours / stock':>14}")
    for label, values in taken.items():
        ratio = values["ours"] / values[STOCK]
        verdict = "holds" if ratio <= MAX_RATIO else "MISSED"
        say(f"  {label:22}{values[STOCK]:10.2f}{values['ours']:10.2f}{ratio:14.2f}  {verdict}")
    say("")


if __name__ == "__main__":
    asyncio.run(main())
