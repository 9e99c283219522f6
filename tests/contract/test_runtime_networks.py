"""What an agent may expect of every container runtime for sessions of several kernels."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from backendai_jupyter.agent.runtime.base import ContainerSpec
from backendai_jupyter.domain.wire import ClusterMode
from backendai_jupyter.errors import RuntimeFailed
from tests.contract.test_runtime import FOREVER, Bench, bench, open_path
from tests.siblings import ALL_REACHED, members, reaches_all

__all__ = ["bench", "open_path"]

ROUNDS = 10


async def session(bench: Bench, code: str, *, size: int) -> list[ContainerSpec]:
    """Start all kernels of a session at once, each on its network."""
    session_id, places = str(uuid4()), members(size)
    specs = [
        bench.spec(code, session_id=session_id, hostname=host, membership=place)
        for host, place in places.items()
    ]
    await bench.runtime.networks.open(session_id, places["main1"])
    await asyncio.gather(*(bench.runtime.start(spec) for spec in specs))
    return specs


async def end(bench: Bench, *specs: ContainerSpec) -> None:
    await asyncio.gather(*(bench.runtime.stop(spec.kernel_id, grace_s=0) for spec in specs))
    for session_id in {spec.session_id for spec in specs}:
        await bench.runtime.networks.close(session_id)


async def test_kernels_of_one_session_reach_each_other_and_themselves_by_name(
    bench: Bench,
) -> None:
    """F36: main1 reaches main1, and each host name is that of its container."""
    specs = await session(bench, reaches_all(members(3)), size=3)
    for spec in specs:
        await bench.says(spec, ALL_REACHED)
        for host in members(3):
            assert f"{spec.hostname} has reached {host} at " in await bench.log(spec)
    await end(bench, *specs)


async def test_a_name_stands_for_one_address_wherever_it_is_asked_for(bench: Bench) -> None:
    """F36: main1 itself is told the address at which the others find it."""
    specs = await session(bench, reaches_all(members(2)), size=2)
    for spec in specs:
        await bench.says(spec, ALL_REACHED)
    said = [line.split() for spec in specs for line in (await bench.log(spec)).splitlines()]
    addresses = {(words[3], words[5]) for words in said if words[1:3] == ["has", "reached"]}
    assert len(addresses) == 2, addresses
    assert {host for host, _ in addresses} == set(members(2))
    assert not any(address.startswith(("127.0.0.", "127.0.1.")) for _, address in addresses)
    await end(bench, *specs)


async def test_sessions_have_the_same_names_beside_each_other(bench: Bench) -> None:
    one = await session(bench, reaches_all(members(2)), size=2)
    other = await session(bench, reaches_all(members(2)), size=2)
    for spec in (*one, *other):
        await bench.says(spec, ALL_REACHED)
    of_one, of_other = await bench.log(one[0]), await bench.log(other[0])
    assert set(_addresses(of_one)).isdisjoint(_addresses(of_other))
    await end(bench, *one, *other)


async def test_a_network_is_made_once_and_ended_once(bench: Bench) -> None:
    """F27: making or ending one again succeeds, and changes nothing."""
    session_id, networks = str(uuid4()), bench.runtime.networks
    for _ in range(3):
        await networks.open(session_id, members(2)["main1"])
        assert await networks.sessions() == {session_id}
    for _ in range(3):
        await networks.close(session_id)
        assert await networks.sessions() == set()


async def test_an_agent_that_starts_finds_the_networks_of_the_one_before(bench: Bench) -> None:
    """F27: a network does not outlive its session because its agent was killed."""
    specs = await session(bench, FOREVER, size=2)
    session_id = specs[0].session_id
    await bench.runtime.close()
    bench.runtime = bench.make_twin()
    await bench.runtime.open()
    assert await bench.runtime.networks.sessions() == {session_id}
    assert {state.session_id for state in await bench.runtime.list()} == {session_id}
    await end(bench, *specs)
    assert await bench.runtime.networks.sessions() == set()


async def test_a_kernel_that_starts_again_has_its_name_again(bench: Bench) -> None:
    specs = await session(bench, reaches_all(members(2)), size=2)
    for spec in specs:
        await bench.says(spec, ALL_REACHED)
    again = bench.spec(
        reaches_all(members(2)),
        kernel_id=specs[1].kernel_id,
        session_id=specs[1].session_id,
        generation=2,
        hostname="sub1",
        membership=members(2)["sub1"],
    )
    await bench.runtime.start(again)
    await bench.says(again, ALL_REACHED)
    await end(bench, *specs)


async def test_a_network_across_nodes_is_refused_in_words_where_there_can_be_none(
    bench: Bench,
) -> None:
    networks = bench.runtime.networks
    assert networks.modes() == (ClusterMode.SINGLE_NODE,)
    with pytest.raises(RuntimeFailed, match=r"swarm"):
        await networks.open(str(uuid4()), members(2, ClusterMode.MULTI_NODE)["main1"])
    assert await networks.sessions() == set()


@pytest.mark.timeout(120)
async def test_many_sessions_one_after_the_other_leave_no_network(bench: Bench) -> None:
    """F27: networks and their addresses come back."""
    for _ in range(ROUNDS):
        specs = await session(bench, FOREVER, size=2)
        await end(bench, *specs)
    assert await bench.runtime.networks.sessions() == set()
    assert await bench.runtime.list() == []


def _addresses(log: str) -> list[str]:
    return [line.split()[5] for line in log.splitlines() if " has reached " in line]
