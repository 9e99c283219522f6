"""Kernels get their devices in their start, keep them while they are there, and give them back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from backendai_jupyter.cluster import keys
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.domain.wire import Assignment, DeviceReport, KernelReport, Phase
from tests.accelerators import some_devices
from tests.fakes import (
    RuntimeInMemory,
    RuntimeThatRefusesToStart,
    RuntimeThatStopsOnlyAtTheSecondTry,
    answer_at_once,
    time_out,
)
from tests.helpers import eventually
from tests.misbehaviour import RuntimeThatIsHeldWhileItStarts
from tests.unit.agent.one_node import Ask, OneNode

Start = Callable[..., Awaitable[OneNode]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Start agents of one node, one after the other, with two devices."""
    nodes: list[OneNode] = []

    async def make(runtime: RuntimeInMemory | None = None, ask: Ask = answer_at_once) -> OneNode:
        former = nodes[-1] if nodes else None
        if former is not None:
            await former.supervisor.close()
        cluster = former.cluster if former is not None else None
        node = OneNode(tmp_path, runtime or RuntimeInMemory(), ask, cluster)
        node.plugin.devices = some_devices(2)
        nodes.append(node)
        await node.agent.start()
        return node

    yield make
    for node in nodes:
        await node.supervisor.close()


async def assign(node: OneNode, kernel_id: str, *, generation: int = 1, **slots: object) -> None:
    named = {slot.replace("_", "."): amount for slot, amount in slots.items()}
    assignment = Assignment(
        kernel_id=kernel_id,
        session_id="s",
        owner="u",
        generation=generation,
        image="python",
        argv=("python", "{connection_file}"),
        env={"CUDA_VISIBLE_DEVICES": "all of them"},
        limits=Slots.from_json({slot: str(amount) for slot, amount in named.items()}),
    )
    await node.cluster.put(keys.assignment("a", kernel_id), assignment.model_dump_json())


async def until(node: OneNode, kernel_id: str, phase: Phase, generation: int = 1) -> KernelReport:
    async def found() -> KernelReport | None:
        for kernel in (await node.report()).kernels:
            if (kernel.kernel_id, kernel.phase, kernel.generation) == (
                kernel_id,
                phase,
                generation,
            ):
                return kernel
        return None

    kernel = await eventually(found)
    assert kernel is not None
    return kernel


async def devices(node: OneNode) -> tuple[DeviceReport, ...]:
    return (await node.report()).devices


async def until_held(node: OneNode, **expected: str) -> None:
    """Wait until the report says exactly which kernel has which device."""

    async def is_so() -> bool:
        held = {one.id: ",".join(one.held) for one in await devices(node) if one.held}
        return held == expected

    await eventually(is_so)


async def test_the_report_lists_devices_and_who_has_them(start: Start) -> None:
    node = await start()
    report = await node.report()
    assert report.capacity == Slots({"cpu": 1, "cuda.device": 2})
    assert [(one.id, one.slot, int(one.capacity)) for one in report.devices] == [
        ("cuda0", "cuda.device", 1),
        ("cuda1", "cuda.device", 1),
    ]
    await until_held(node)
    await assign(node, "k1", cuda_device=1)
    await until(node, "k1", Phase.RUNNING)
    await until_held(node, cuda0="k1")


async def test_a_kernel_sees_its_own_devices_whatever_it_asked_for(start: Start) -> None:
    node = await start()
    await assign(node, "k1", cuda_device=1)
    await assign(node, "k2", cpu=1)
    await until(node, "k1", Phase.RUNNING)
    await until(node, "k2", Phase.RUNNING)
    specs = node.runtime.specs
    assert specs["k1"].env["CUDA_VISIBLE_DEVICES"] == "cuda0"
    assert specs["k2"].env["CUDA_VISIBLE_DEVICES"] == ""
    assert specs["k2"].env["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert not specs["k2"].devices.devices


@pytest.mark.parametrize(
    ("runtime", "ask"),
    [
        pytest.param(RuntimeThatRefusesToStart, answer_at_once, id="its container does not start"),
        pytest.param(RuntimeInMemory, time_out, id="it does not answer"),
    ],
)
async def test_a_start_that_failed_gives_its_devices_back(
    start: Start, runtime: type[RuntimeInMemory], ask: Ask
) -> None:
    """F15: wherever a start fails, no device stays behind."""
    node = await start(runtime=runtime(), ask=ask)
    for kernel_id in ("k1", "k2", "k3"):
        await assign(node, kernel_id, cuda_device=2)
        await until(node, kernel_id, Phase.FAILED)
        await until_held(node)


async def test_a_device_that_is_not_there_fails_the_start_in_words(start: Start) -> None:
    node = await start()
    await assign(node, "k1", cuda_shares="0.5")
    failed = await until(node, "k1", Phase.FAILED)
    assert failed.exit is not None
    assert failed.exit.step == "devices"
    assert "no cuda.shares" in failed.exit.message


async def test_a_device_is_given_away_again_only_once_its_container_is_gone(start: Start) -> None:
    node = await start(runtime=RuntimeThatStopsOnlyAtTheSecondTry())
    await assign(node, "k1", cuda_device=2)
    await until(node, "k1", Phase.RUNNING)
    node.runtime.refusals = 1_000_000  # type: ignore[attr-defined]
    await node.cluster.delete(keys.assignment("a", "k1"))
    await until(node, "k1", Phase.STOPPING)
    await assign(node, "k2", cuda_device=1)
    await until(node, "k2", Phase.FAILED)
    node.runtime.refusals = 0  # type: ignore[attr-defined]
    await until_held(node)
    await assign(node, "k2", cuda_device=1, generation=2)
    await until(node, "k2", Phase.RUNNING, 2)


async def test_a_restart_keeps_the_devices(start: Start) -> None:
    node = await start()
    await assign(node, "k1", cuda_device=1)
    await until(node, "k1", Phase.RUNNING)
    await assign(node, "k2", cuda_device=1)
    await until(node, "k2", Phase.RUNNING)
    await node.cluster.delete(keys.assignment("a", "k1"))
    await until_held(node, cuda1="k2")
    await assign(node, "k2", cuda_device=1, generation=2)
    await until(node, "k2", Phase.RUNNING, 2)
    await until_held(node, cuda1="k2")
    assert node.runtime.specs["k2"].generation == 2
    assert node.runtime.specs["k2"].env["BACKENDAI_DEVICES"] == "cuda1"


async def test_an_agent_that_was_killed_finds_what_its_kernels_have(start: Start) -> None:
    node = await start()
    await assign(node, "k1", cuda_device=1)
    await until(node, "k1", Phase.RUNNING)
    again = await start(runtime=node.runtime)
    await until(again, "k1", Phase.RUNNING)
    await until_held(again, cuda0="k1")
    await assign(again, "k2", cuda_device=1)
    await until(again, "k2", Phase.RUNNING)
    await until_held(again, cuda0="k1", cuda1="k2")


async def test_a_container_says_what_a_damaged_file_does_not(start: Start) -> None:
    node = await start()
    await assign(node, "k1", cuda_device=1)
    await until(node, "k1", Phase.RUNNING)
    (node.node.scratch_root / "devices" / "k1.json").write_text("damaged")
    again = await start(runtime=node.runtime)
    await until_held(again, cuda0="k1")


async def test_what_a_container_had_that_nobody_wants_is_free_once_it_is_gone(
    start: Start,
) -> None:
    node = await start()
    await assign(node, "k1", cuda_device=1)
    await until(node, "k1", Phase.RUNNING)
    await node.supervisor.close()
    await node.cluster.delete(keys.assignment("a", "k1"))
    again = await start(runtime=node.runtime)
    await until_held(again)
    assert not again.runtime.containers


async def test_an_agent_that_starts_while_a_kernel_is_being_made_takes_nothing_from_it(
    start: Start,
) -> None:
    """F16: devices of a kernel that is being made are not given to another one."""
    runtime = RuntimeThatIsHeldWhileItStarts()
    node = await start(runtime=runtime)
    await assign(node, "k1", cuda_device=1)
    await until_held(node, cuda0="k1")
    seen = runtime.listed
    await eventually(lambda: runtime.listed > seen + 2)  # full passes go by
    again = await start(runtime=runtime)
    await assign(again, "k2", cuda_device=1)
    await until_held(again, cuda0="k1", cuda1="k2")
    runtime.may_go_on.set()
    await asyncio.gather(until(again, "k1", Phase.RUNNING), until(again, "k2", Phase.RUNNING))
    await until_held(again, cuda0="k1", cuda1="k2")


async def test_a_driver_that_breaks_ends_no_kernel(start: Start) -> None:
    node = await start()
    await assign(node, "k1", cuda_device=1)
    await until(node, "k1", Phase.RUNNING)
    node.plugin.devices = ()

    async def offers_what_is_held() -> bool:
        return (await node.report()).capacity["cuda.device"] == 1

    await eventually(offers_what_is_held)
    await until(node, "k1", Phase.RUNNING)
    node.plugin.devices = some_devices(2)
    await until_held(node, cuda0="k1")
