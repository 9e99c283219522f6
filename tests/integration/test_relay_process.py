"""The relay as a process: how agents start, share, leave and lose it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from backendai_jupyter.agent.relay.client import RelayClient
from backendai_jupyter.agent.relay.layout import listens
from backendai_jupyter.agent.relay.probe import kernel_info
from backendai_jupyter.errors import RelayFailed, TimedOut
from tests.helpers import eventually
from tests.integration.relay_rig import open_kernel, rig, run, stock_client

AGENT = """
import asyncio, json, sys
from pathlib import Path
from backendai_jupyter.agent.relay.client import RelayClient

async def main(control, prefix, orphan_command):
    relay = RelayClient(Path(control), orphan_command=orphan_command)
    await relay.open()
    journal = Path(control + ".journal")
    await relay.open_kernel("k1", prefix, "key", journal=journal, journal_bytes=1 << 20)
    print(relay.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main(*json.loads(sys.argv[1])))
"""


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[RelayClient]:
    relay = RelayClient(path / "control")
    await relay.open()
    try:
        yield relay
    finally:
        await relay.close(stop=True)


def runs(pid: int) -> bool:
    """Return whether the process exists and is not a zombie that nobody collects."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def relay_of_killed_agent(path: Path, orphan_command: Sequence[str] | None) -> int:
    """Let an agent open a kernel's channels and die; return the relay's process id."""
    arguments = json.dumps([str(path / "control"), f"{path}/k", orphan_command])
    agent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", AGENT, arguments, stdout=asyncio.subprocess.PIPE
    )
    assert agent.stdout is not None
    pid = int(await agent.stdout.readline())
    agent.kill()
    await agent.wait()
    return pid


async def test_the_next_agent_finds_the_relay_and_the_same_endpoint(short_tmp_path: Path) -> None:
    async with rig(short_tmp_path) as kernel, stock_client(kernel.connection) as client:
        await client.do(run, "x = 'kept'")
        successor = RelayClient(short_tmp_path / "control")
        await successor.open()
        assert successor.pid == kernel.relay.pid
        assert await successor.kernels() == ["k1"]
        assert await open_kernel(successor, short_tmp_path) == kernel.endpoint
        await successor.close(stop=False)
        assert await client.do(run, "print(x)") == "kept\n"


async def test_agents_that_start_at_once_share_one_relay(short_tmp_path: Path) -> None:
    agents = [RelayClient(short_tmp_path / "control") for _ in range(5)]
    await asyncio.gather(*(agent.open() for agent in agents))
    assert len({agent.pid for agent in agents}) == 1
    for agent in agents[1:]:
        await agent.close(stop=False)
    await agents[0].close(stop=True)


async def test_a_stopped_relay_leaves_no_process_no_socket_and_no_complaint(
    short_tmp_path: Path,
) -> None:
    async with opened(short_tmp_path) as relay:
        await open_kernel(relay, short_tmp_path)
    await eventually(lambda: not runs(relay.pid))
    assert not (short_tmp_path / "control").exists()
    assert (short_tmp_path / "control.log").read_text() == ""


async def test_requests_of_one_agent_may_overlap(short_tmp_path: Path) -> None:
    async with opened(short_tmp_path) as relay:
        ids = [f"k{i}" for i in range(20)]
        endpoints = await asyncio.gather(
            *(
                open_kernel(relay, short_tmp_path, name, prefix=f"{short_tmp_path}/{name}")
                for name in ids
            )
        )
        assert len({endpoint.shell_port for endpoint in endpoints}) == 20
        await asyncio.gather(*(relay.close_kernel(name) for name in ids))
        assert await relay.kernels() == []


async def test_closing_twice_is_harmless_and_a_closed_kernel_is_unreachable(
    short_tmp_path: Path,
) -> None:
    async with rig(short_tmp_path) as kernel:
        await kernel.relay.close_kernel("k1")
        await kernel.relay.close_kernel("k1")
        with pytest.raises(TimedOut, match="did not answer within"):
            await kernel_info(kernel.connection, timeout_s=0.3)


async def test_a_kernel_that_is_open_with_another_key_is_refused(short_tmp_path: Path) -> None:
    async with opened(short_tmp_path) as relay:
        await open_kernel(relay, short_tmp_path)
        with pytest.raises(RelayFailed, match="with another key"):
            await open_kernel(relay, short_tmp_path, key="another")


async def test_a_path_too_long_for_a_socket_is_refused(short_tmp_path: Path) -> None:
    async with opened(short_tmp_path) as relay:
        with pytest.raises(RelayFailed, match="at most 105 fit"):
            await open_kernel(relay, short_tmp_path, prefix=f"{short_tmp_path}/{'k' * 100}")
    with pytest.raises(RelayFailed, match="too many for a socket"):
        await RelayClient(short_tmp_path / ("c" * 100)).open()


async def test_a_relay_that_cannot_start_says_where_the_reason_is(short_tmp_path: Path) -> None:
    (short_tmp_path / "control").mkdir()
    with pytest.raises(RelayFailed, match=r"did not start; .*control\.log says why"):
        await RelayClient(short_tmp_path / "control").open()
    assert "control" in (short_tmp_path / "control.log").read_text()


async def test_only_the_agents_own_user_may_talk_to_the_relay(short_tmp_path: Path) -> None:
    async with opened(short_tmp_path):
        for name in ("control", "control.log", "control.lock"):
            mode = (short_tmp_path / name).stat().st_mode
            assert stat.S_IMODE(mode) & 0o077 == 0, name


async def test_a_malformed_request_is_answered_and_does_no_harm(short_tmp_path: Path) -> None:
    async with opened(short_tmp_path):
        reader, writer = await asyncio.open_unix_connection(short_tmp_path / "control")
        for line in (b"no json", b"[]", b"{}", b'{"id": 7, "op": "open"}', b'{"op": ["own"]}'):
            writer.write(line + b"\n")
            assert "does not understand" in json.loads(await reader.readline())["error"]
        writer.write(b'{"id": 8, "op": "list"}\n')
        assert json.loads(await reader.readline()) == {"id": 8, "ok": True, "kernels": []}
        writer.close()
        await writer.wait_closed()


async def test_the_loss_of_the_relay_is_told_once_and_every_call_then_says_so(
    short_tmp_path: Path,
) -> None:
    told: list[str] = []
    relay = RelayClient(short_tmp_path / "control", on_lost=lambda: told.append("lost"))
    await relay.open()
    os.kill(relay.pid, signal.SIGKILL)
    await eventually(lambda: told)
    for _ in range(2):
        with pytest.raises(RelayFailed, match="has ended"):
            await relay.kernels()
    await relay.close(stop=True)
    assert told == ["lost"]


async def test_a_relay_that_was_killed_is_replaced_at_the_next_open(short_tmp_path: Path) -> None:
    async with opened(short_tmp_path) as former:
        os.kill(former.pid, signal.SIGKILL)
        await eventually(lambda: not listens(short_tmp_path / "control"))
        async with opened(short_tmp_path) as relay:
            assert relay.pid != former.pid


async def test_an_orphaned_relay_becomes_the_command_it_was_given(short_tmp_path: Path) -> None:
    done = short_tmp_path / "done"
    record = f"import os; open({str(done)!r}, 'w').write(str(os.getpid()))"
    command = [sys.executable, "-c", record]
    pid = await relay_of_killed_agent(short_tmp_path, command)
    await eventually(lambda: done.exists() and done.read_text() == str(pid))
    await eventually(lambda: not runs(pid))


async def test_a_relay_without_an_orphan_command_waits_for_the_next_agent(
    short_tmp_path: Path,
) -> None:
    pid = await relay_of_killed_agent(short_tmp_path, None)
    async with opened(short_tmp_path) as relay:
        assert relay.pid == pid
        assert await relay.kernels() == ["k1"]


async def test_a_relay_whose_agent_took_its_leave_is_no_orphan(short_tmp_path: Path) -> None:
    never = ["/usr/bin/touch", str(short_tmp_path / "never")]
    relay = RelayClient(short_tmp_path / "control", orphan_command=never)
    await relay.open()
    await relay.close(stop=False)
    async with opened(short_tmp_path) as successor:
        assert successor.pid == relay.pid
    await eventually(lambda: not runs(relay.pid))
    assert not (short_tmp_path / "never").exists()
