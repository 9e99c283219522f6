"""Bridges of sessions of several kernels on a real engine: open or closed, and never too many."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from backendai_jupyter.agent.runtime.docker import DockerRuntime
from backendai_jupyter.agent.runtime.docker_config import network_name
from backendai_jupyter.errors import RuntimeFailed
from tests.engine import PrivateEngine
from tests.integration.docker_rig import DockerRig, new_rig
from tests.siblings import members

# Again and again: a network beside the session's is joined once the program runs.
GATEWAY = """
import socket, struct, time
while True:
    for line in open('/proc/net/route').read().splitlines()[1:]:
        _, target, gateway, *_ = line.split()
        if target == '00000000':
            print(socket.inet_ntoa(struct.pack('<I', int(gateway, 16))), flush=True)
    time.sleep(0.1)
"""
NO_ROOM = "no addresses left.*session_subnets"
ENGINES_BRIDGES = 40  # more than the pools of an engine have room for


async def test_sessions_get_small_subnets_and_are_refused_in_words_when_none_is_left(
    engine: PrivateEngine, short_tmp_path: Path
) -> None:
    async with new_rig(engine, short_tmp_path, session_subnets="10.215.7.0/27") as rig:
        networks, (one, other, third) = rig.runtime.networks, (str(uuid4()) for _ in range(3))
        await networks.open(one, members(2)["main1"])
        await networks.open(other, members(13)["main1"])
        assert subnets(engine, one) | subnets(engine, other) == {"10.215.7.0/28", "10.215.7.16/28"}
        with pytest.raises(RuntimeFailed, match=NO_ROOM):
            await networks.open(third, members(2)["main1"])
        assert await networks.sessions() == {one, other}
        await networks.close(one)
        await networks.open(third, members(2)["main1"])
        assert subnets(engine, third) == {"10.215.7.0/28"}
        for session_id in (other, third):
            await networks.close(session_id)
        with pytest.raises(RuntimeFailed, match=NO_ROOM):
            await networks.open(one, members(30)["main1"])


async def test_a_session_for_which_the_engine_has_no_addresses_is_refused_in_words(
    rig: DockerRig,
) -> None:
    """F27: what was refused leaves nothing, and all that was there ends as ever."""
    networks, made = rig.runtime.networks, 0
    with pytest.raises(RuntimeFailed, match=NO_ROOM):
        for made in range(ENGINES_BRIDGES):
            await networks.open(f"session-{made}", members(2)["main1"])
    assert made >= 20
    assert len(await networks.sessions()) == made
    for session_id in await networks.sessions():
        await networks.close(session_id)
    assert await networks.sessions() == set()


@pytest.mark.parametrize(("network", "is_closed"), [("bridge", False), ("none", True)])
async def test_a_session_is_as_open_to_the_outside_as_other_kernels(
    engine: PrivateEngine, short_tmp_path: Path, network: str, is_closed: bool
) -> None:
    async with new_rig(engine, short_tmp_path, network=network) as rig:
        session_id = str(uuid4())
        await rig.runtime.networks.open(session_id, members(2)["main1"])
        with contextlib.closing(engine.client()) as client:
            assert client.inspect_network(network_name(session_id))["Internal"] is is_closed
        await rig.runtime.networks.close(session_id)


async def test_a_network_of_the_nodes_own_is_joined_beside_the_sessions_and_leads_outside(
    engine: PrivateEngine, short_tmp_path: Path
) -> None:
    own, session_id, place = f"own-{uuid4()}", str(uuid4()), members(2)["main1"]
    with contextlib.closing(engine.client()) as client:
        client.create_network(own)
        (config,) = client.inspect_network(own)["IPAM"]["Config"]
        async with new_rig(engine, short_tmp_path, network=own) as rig:
            spec = rig.spec(GATEWAY, session_id=session_id, membership=place)
            await rig.runtime.networks.open(session_id, place)
            assert client.inspect_network(network_name(session_id))["Internal"] is True
            state = await rig.runtime.start(spec)
            await rig.says(spec, f"{config['Gateway']}\n")
            assert await rig.runtime.start(spec) == state  # as an agent that comes back does
            joined = rig.inspect(state.container_id)["NetworkSettings"]["Networks"]
            assert set(joined) == {own, network_name(session_id)}
            await rig.runtime.stop(spec.kernel_id, grace_s=0)
            await rig.runtime.networks.close(session_id)
        client.remove_network(own)


async def test_kernels_of_a_session_that_start_at_once_have_one_network(
    engine: PrivateEngine, rig: DockerRig
) -> None:
    """F27: whoever comes second finds it."""
    agent_id = str(uuid4())
    twins = [DockerRuntime(url=engine.url, agent_id=agent_id, cluster_id="tests") for _ in range(2)]
    for twin in twins:
        await twin.open()
    session_id, place = str(uuid4()), members(2)["main1"]
    for _ in range(5):
        await asyncio.gather(*(twin.networks.open(session_id, place) for twin in twins))
        assert len(subnets(engine, session_id)) == 1
        await asyncio.gather(*(twin.networks.close(session_id) for twin in twins))
        assert subnets(engine, session_id) == set()
    for twin in twins:
        await twin.close()


async def test_a_network_that_somebody_else_is_on_stays_until_he_leaves(
    engine: PrivateEngine, rig: DockerRig
) -> None:
    """F27: the end of a session does not wait for it; it is tried again."""
    networks, session_id = rig.runtime.networks, str(uuid4())
    await networks.open(session_id, members(2)["main1"])
    stranger = rig.spec(rig.WAIT)
    state = await rig.runtime.start(stranger)
    with contextlib.closing(engine.client()) as client:
        client.connect_container_to_network(state.container_id, network_name(session_id))
        await networks.close(session_id)
        assert await networks.sessions() == {session_id}
        client.disconnect_container_from_network(state.container_id, network_name(session_id))
    await networks.close(session_id)
    assert await networks.sessions() == set()


async def test_a_network_of_somebody_else_with_its_name_is_named(
    engine: PrivateEngine, rig: DockerRig
) -> None:
    session_id = str(uuid4())
    name = network_name(session_id)
    with contextlib.closing(engine.client()) as client:
        client.create_network(name)
        with pytest.raises(RuntimeFailed, match=f"docker network rm {name}"):
            await rig.runtime.networks.open(session_id, members(2)["main1"])
        client.remove_network(name)


def subnets(engine: PrivateEngine, session_id: str) -> set[str]:
    with contextlib.closing(engine.client()) as client:
        found: list[dict[str, Any]] = client.networks(names=[network_name(session_id)])
    return {config["Subnet"] for one in found for config in one["IPAM"]["Config"]}
