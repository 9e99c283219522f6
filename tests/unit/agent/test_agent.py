"""The agent converges its containers to its assignments, whatever goes wrong on the way."""

from __future__ import annotations

import signal
from dataclasses import replace

import pytest

from backendai_jupyter.cluster import keys
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.domain.wire import (
    ExitReason,
    Mount,
    Phase,
    Signal,
)
from tests.fakes import (
    RuntimeInMemory,
    RuntimeThatRefusesToStart,
    RuntimeThatStopsOnlyAtTheSecondTry,
    RuntimeWhoseProgramsDieAtOnce,
    answer_at_once,
    never_answer,
    time_out,
)
from tests.helpers import eventually
from tests.unit.agent.one_node import Ask, Start


async def test_a_report_says_which_hosts_are_mounted_and_follows_them(start: Start) -> None:
    node = await start()
    assert (await node.report()).vfolder_hosts == {}
    node.host.prepare()

    async def told() -> dict[str, str]:
        return (await node.report()).vfolder_hosts

    assert await eventually(told) == {"nfs": node.host.marker()}


async def test_settings_that_change_show_in_the_report_at_once(start: Start) -> None:
    node = await start()
    node.settings.heartbeat_s = 600
    node.agent.settings_changed()
    node.cpus, node.notes = 2, ("as it was told",)
    node.agent.settings_changed()

    async def told() -> bool:
        report = await node.report()
        return (report.capacity, report.notes) == (Slots({"cpu": 2}), ("as it was told",))

    await eventually(told)
    assert (await node.report()).resource_group == "default"


async def test_an_assignment_becomes_a_running_kernel_and_then_nothing(start: Start) -> None:
    node = await start()
    await node.assign(mounts=(Mount(source="/srv/x", target="/home/work/data"),))
    kernel = await node.until(Phase.RUNNING)
    assert kernel.connection is not None
    connection = node.sealer.unseal(kernel.connection)
    assert connection.shell_port == node.relay.channels["k"].shell_port
    spec = node.runtime.specs["k"]
    assert spec.argv == ("python", "/run/backendai/connection.json")
    assert (node.node.home_dir("k") / "data").is_dir()
    assert (spec.run_dir / "connection.json").stat().st_mode & 0o777 == 0o600
    await node.until_nothing_is_left(await node.unassign())


async def test_a_restart_keeps_endpoint_and_key(start: Start) -> None:
    node = await start()
    await node.assign()
    before = await node.until(Phase.RUNNING)
    await node.assign(generation=2)
    after = await node.until(Phase.RUNNING, generation=2)
    assert node.runtime.starts == 2
    assert before.connection is not None
    assert after.connection is not None
    assert node.sealer.unseal(before.connection) == node.sealer.unseal(after.connection)


async def test_a_death_is_reported_with_its_reason_and_told_to_the_clients(start: Start) -> None:
    node = await start()
    await node.assign()
    await node.until(Phase.RUNNING)
    node.runtime.die("k", 137, oom_killed=True)
    kernel = await node.until(Phase.EXITED)
    assert kernel.exit is not None
    assert kernel.exit.reason is ExitReason.OUT_OF_MEMORY
    assert "512 MiB" in kernel.exit.message
    assert kernel.exit.log_tail == "log of k"
    ((told, text),) = node.relay.notices
    assert told == "k"
    assert "512 MiB" in text


async def test_a_signal_is_delivered_once(start: Start) -> None:
    node = await start()
    await node.assign()
    await node.until(Phase.RUNNING)
    await node.assign(signal=Signal(seq=1, signum=signal.SIGINT))
    await eventually(lambda: node.runtime.signals)
    await node.assign(signal=Signal(seq=1, signum=signal.SIGINT), workdir="/home/work/x")
    await node.assign(signal=Signal(seq=2, signum=signal.SIGTERM))
    await eventually(lambda: len(node.runtime.signals) > 1)
    assert node.runtime.signals == [("k", signal.SIGINT), ("k", signal.SIGTERM)]


async def test_a_folder_that_cannot_be_added_comes_with_the_next_program(start: Start) -> None:
    one = await start()
    folder = Mount(source="/v/1", target="/home/work/data")
    await one.assign()
    await one.until(Phase.RUNNING)
    await one.assign(mounts=(folder,), signal=Signal(seq=1, signum=2))
    await eventually(lambda: one.runtime.signals)  # the kernel goes on, and is obeyed
    assert not one.runtime.specs["k"].mounts
    await one.assign(generation=2, mounts=(folder,))
    await one.until(Phase.RUNNING, generation=2)
    assert one.runtime.specs["k"].mounts == (folder,)


async def test_an_end_that_was_asked_for_is_not_announced_as_a_death(start: Start) -> None:
    node = await start()
    await node.assign()
    await node.until(Phase.RUNNING)
    await node.assign(signal=Signal(seq=1, signum=signal.SIGKILL))
    await eventually(lambda: node.runtime.signals)
    node.runtime.die("k", 128 + signal.SIGKILL)
    await node.until(Phase.EXITED)
    assert node.relay.notices == []


@pytest.mark.parametrize(
    ("runtime", "ask", "image", "step", "words"),
    [
        pytest.param(RuntimeInMemory, answer_at_once, "r", "image", "no image 'r'", id="image"),
        pytest.param(
            RuntimeThatRefusesToStart,
            answer_at_once,
            "python",
            "container",
            "no space",
            id="engine",
        ),
        pytest.param(
            RuntimeWhoseProgramsDieAtOnce,
            never_answer,
            "python",
            "answer",
            "exit code 1",
            id="dies",
        ),
        pytest.param(RuntimeInMemory, time_out, "python", "answer", "in time", id="silent"),
    ],
)
async def test_a_failed_start_names_its_step_and_leaves_nothing(
    start: Start, runtime: type[RuntimeInMemory], ask: Ask, image: str, step: str, words: str
) -> None:
    """F10, F26: neither container nor channels are left of it."""
    node = await start(runtime(), ask)
    await node.assign(image=image)
    kernel = await node.until(Phase.FAILED)
    assert kernel.step == step
    assert kernel.exit is not None
    assert words in kernel.exit.message
    assert not node.runtime.containers
    assert not node.relay.channels
    await node.until_nothing_is_left(await node.unassign())


async def test_an_end_during_a_start_is_obeyed(start: Start) -> None:
    node = await start(ask=never_answer)
    await node.assign()
    await eventually(lambda: node.runtime.containers)
    await node.until_nothing_is_left(await node.unassign())


async def test_a_container_that_nobody_assigned_is_removed(start: Start) -> None:
    """F24: what no row knows is removed."""
    runtime = RuntimeInMemory()
    node = await start(runtime)
    await node.assign()
    await node.until(Phase.RUNNING)
    spec = runtime.specs["k"]
    await runtime.start(replace(spec, kernel_id="orphan"))
    await eventually(lambda: "orphan" not in runtime.containers)
    assert "k" in runtime.containers


async def test_a_removal_that_fails_is_tried_again(start: Start) -> None:
    node = await start(RuntimeThatStopsOnlyAtTheSecondTry())
    await node.assign()
    await node.until(Phase.RUNNING)
    await node.until_nothing_is_left(await node.unassign())


async def test_a_container_that_somebody_else_removed_is_noticed(start: Start) -> None:
    node = await start()
    await node.assign()
    await node.until(Phase.RUNNING)
    node.runtime.containers.clear()
    kernel = await node.until(Phase.EXITED)
    assert kernel.exit is not None
    assert "removed by somebody else" in kernel.exit.message


async def test_a_log_comes_when_it_is_asked_for(start: Start) -> None:
    node = await start()
    await node.assign()
    await node.until(Phase.RUNNING)
    async with node.live.subscribe(keys.log_hints("k")) as told:
        await node.live.publish(keys.log_requests("a"), "k")
        assert await anext(told) == "k"
    assert await node.live.get(keys.log("k")) == "log of k"


async def test_what_another_version_has_assigned_stays_as_it_is_and_is_told(start: Start) -> None:
    node = await start()
    await node.assign()
    await node.until(Phase.RUNNING)
    await node.cluster.put(keys.assignment("a", "k"), '{"kernel_id": "k", "limits": "new"}')

    async def note() -> str:
        return "".join(n for n in (await node.report()).notes if "is not followed" in n)

    assert "assignments/a/k is not followed: it cannot be read (session_id: " in await eventually(
        note
    )
    await node.until(Phase.RUNNING)
    assert node.runtime.starts == 1
    await node.until_nothing_is_left(await node.unassign())
    assert await note() == ""
