"""The pool gives devices away once, keeps what it gave, and takes it back whole."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from backendai_jupyter.agent.accelerators.pool import DevicePool
from backendai_jupyter.config import BackendAIAgent
from backendai_jupyter.domain.devices import Device, DeviceFile, is_whole
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.errors import NoCapacity
from tests.accelerators import (
    PluginInMemory,
    PluginThatBreaks,
    PluginThatHangs,
    PluginWhoseDriverIsGone,
    make_pool,
    some_devices,
)
from tests.helpers import eventually

WHOLE = Slots({"cpu": 1, "cuda.device": 1})
HALF = Slots.parse({"cpu": 1, "cuda.shares": "0.5"})


async def opened(scratch_root: Path, plugin: PluginInMemory, **traits: object) -> DevicePool:
    pool = make_pool(scratch_root, plugin, BackendAIAgent(**traits))
    await pool.refresh()
    return pool


def held(pool: DevicePool) -> dict[str, dict[str, Decimal]]:
    return {device.id: device.held for device in pool.report() if device.held}


async def test_whole_devices_go_to_one_kernel_each(tmp_path: Path) -> None:
    pool = await opened(tmp_path / "a", PluginInMemory(some_devices(2)))
    assert pool.capacity() == Slots({"cuda.device": 2})
    first, second = await pool.allot("k1", WHOLE), await pool.allot("k2", WHOLE)
    assert [d.id for d in (*first.devices, *second.devices)] == ["cuda0", "cuda1"]
    with pytest.raises(NoCapacity, match=r"cuda\.device 1 was asked for, and 0"):
        await pool.allot("k3", WHOLE)
    assert held(pool) == {"cuda0": {"k1": 1}, "cuda1": {"k2": 1}}


async def test_what_was_given_back_twice_is_free_once(tmp_path: Path) -> None:
    pool = await opened(tmp_path / "a", PluginInMemory(some_devices(1)))
    await pool.allot("k1", WHOLE)
    await pool.release("k1")
    await pool.release("k1")
    await pool.allot("k2", WHOLE)
    with pytest.raises(NoCapacity):
        await pool.allot("k3", WHOLE)


async def test_parts_share_a_device_until_it_is_full(tmp_path: Path) -> None:
    pool = await opened(tmp_path / "a", PluginInMemory(some_devices(2)), divide_devices=True)
    assert pool.capacity() == Slots({"cuda.shares": 2})
    for kernel_id in ("k1", "k2", "k3"):
        await pool.allot(kernel_id, HALF)
    half = Decimal("0.5")
    assert held(pool) == {"cuda0": {"k1": half, "k2": half}, "cuda1": {"k3": half}}


async def test_evenly_keeps_kernels_apart(tmp_path: Path) -> None:
    traits = {"divide_devices": True, "device_strategy": "evenly"}
    pool = await opened(tmp_path / "a", PluginInMemory(some_devices(2)), **traits)
    await pool.allot("k1", HALF)
    await pool.allot("k2", HALF)
    assert [list(holders) for holders in held(pool).values()] == [["k1"], ["k2"]]


async def test_a_kernel_keeps_its_devices_when_it_starts_again(tmp_path: Path) -> None:
    pool = await opened(tmp_path / "a", PluginInMemory(some_devices(2)))
    await pool.allot("k1", WHOLE)
    await pool.allot("k2", WHOLE)
    await pool.release("k1")
    assert [d.id for d in (await pool.allot("k2", WHOLE)).devices] == ["cuda1"]


async def test_a_kernel_whose_device_has_gone_gets_another_one(tmp_path: Path) -> None:
    plugin = PluginInMemory(some_devices(2))
    pool = await opened(tmp_path / "a", plugin)
    await pool.allot("k1", WHOLE)
    plugin.devices = plugin.devices[1:]
    await pool.refresh()
    assert pool.capacity() == Slots({"cuda.device": 2})  # of which the ledger subtracts k1's
    assert [d.id for d in (await pool.allot("k1", WHOLE)).devices] == ["cuda1"]
    assert pool.capacity() == Slots({"cuda.device": 1})


async def test_a_new_pool_over_the_same_files_gives_nothing_away_twice(tmp_path: Path) -> None:
    """F16: what an agent knew is in its files, for every agent of this machine."""
    plugin = PluginInMemory(some_devices(2))
    before = await opened(tmp_path / "a", plugin)
    await before.allot("k1", WHOLE)
    again, beside = await opened(tmp_path / "a", plugin), await opened(tmp_path / "b", plugin)
    assert held(again) == held(beside) == {"cuda0": {"k1": 1}}
    found = await asyncio.gather(
        again.allot("k2", WHOLE), beside.allot("k3", WHOLE), return_exceptions=True
    )
    assert sorted(type(one).__name__ for one in found) == ["Exposure", "NoCapacity"]


async def test_a_slot_that_a_node_lacks_is_refused(tmp_path: Path) -> None:
    """F17: on the node too, a slot that is not there is not there."""
    pool = await opened(tmp_path / "a", PluginInMemory(some_devices(1)))
    with pytest.raises(NoCapacity, match=r"no cuda\.shares; of devices it offers cuda\.device"):
        await pool.allot("k1", HALF)
    with pytest.raises(NoCapacity, match=r"no quantum\.bits; of devices"):
        await pool.allot("k1", Slots({"quantum.bits": 1}))
    assert held(pool) == {}


async def test_of_two_slots_both_are_given_or_none(tmp_path: Path) -> None:
    """F15: half of what was asked for is nothing."""
    devices = (*some_devices(1), *some_devices(1, kind="tpu"))
    pool = await opened(tmp_path / "a", PluginInMemory(devices))
    assert pool.capacity() == Slots({"cuda.device": 1, "tpu.device": 1})
    with pytest.raises(NoCapacity, match=r"tpu\.device"):
        await pool.allot("k1", Slots({"cuda.device": 1, "tpu.device": 2}))
    assert held(pool) == {}
    await pool.allot("k1", Slots({"cuda.device": 1, "tpu.device": 1}))
    assert held(pool) == {"cuda0": {"k1": 1}, "tpu0": {"k1": 1}}


async def test_a_device_that_was_given_whole_is_not_offered_in_parts(tmp_path: Path) -> None:
    plugin = PluginInMemory(some_devices(2))
    settings = BackendAIAgent()
    pool = make_pool(tmp_path / "a", plugin, settings)
    await pool.refresh()
    await pool.allot("k1", WHOLE)
    settings.divide_devices = True
    assert pool.capacity() == Slots({"cuda.shares": 1})
    await pool.allot("k2", HALF)
    assert held(pool) == {"cuda0": {"k1": 1}, "cuda1": {"k2": Decimal("0.5")}}
    settings.divide_devices = False
    assert pool.capacity() == Slots({"cuda.device": 1})
    await pool.release("k2")
    assert pool.capacity() == Slots({"cuda.device": 2})


async def test_a_driver_that_is_gone_offers_nothing_and_says_so(tmp_path: Path) -> None:
    pool = await opened(tmp_path / "a", PluginWhoseDriverIsGone(some_devices(1)))
    assert not pool.capacity()
    assert pool.notes() == ("No accelerators are offered. The driver is gone.",)
    with pytest.raises(NoCapacity, match="The driver is gone"):
        await pool.allot("k1", WHOLE)


async def test_a_driver_that_breaks_in_an_unknown_way_is_said_too(tmp_path: Path) -> None:
    pool = await opened(tmp_path / "a", PluginThatBreaks(some_devices(1)))
    assert not pool.capacity()
    [note] = pool.notes()
    assert "broke: KeyError('a field that an older driver lacks')" in note


async def test_a_driver_that_hangs_is_asked_once_and_waited_for_once(tmp_path: Path) -> None:
    plugin = PluginThatHangs(some_devices(1))
    pool = await opened(tmp_path / "a", plugin, accelerator_timeout_s=0.1)
    assert "did not answer within 0.1 s" in pool.notes()[0]
    async with asyncio.timeout(30):
        for _ in range(100):
            await pool.refresh()
    assert plugin.asked == 1
    assert "does not answer" in pool.notes()[0]
    plugin.may_go_on.set()

    async def is_back() -> bool:
        await pool.refresh()
        return pool.capacity() == Slots({"cuda.device": 1})

    await eventually(is_back)
    assert pool.notes() == ()


async def test_a_kernel_that_starts_again_keeps_its_devices_while_the_driver_does_not_answer(
    tmp_path: Path,
) -> None:
    plugin = PluginThatHangs(some_devices(1))
    plugin.may_go_on.set()
    pool = await opened(tmp_path / "a", plugin, accelerator_timeout_s=0.1)
    first = await pool.allot("k1", WHOLE)
    plugin.may_go_on.clear()
    await pool.refresh()
    assert pool.capacity() == WHOLE - Slots({"cpu": 1})  # what k1 has, and no more
    assert await pool.allot("k1", WHOLE) == first
    with pytest.raises(NoCapacity, match="not answer"):
        await pool.allot("k2", WHOLE)
    plugin.may_go_on.set()


async def test_only_what_the_book_misses_is_learned_from_containers(tmp_path: Path) -> None:
    plugin = PluginInMemory(some_devices(3))
    pool = await opened(tmp_path / "a", plugin)
    lost, kept = await pool.allot("k1", WHOLE), await pool.allot("k2", WHOLE)
    [path] = (tmp_path / "a").glob("devices/k1.json")
    path.write_text("{")
    again = await opened(tmp_path / "a", plugin)
    assert held(again) == {"cuda1": {"k2": 1}}
    claimed = json.loads(kept.record)
    claimed["pieces"][0]["device_id"] = "cuda2"
    records = {"k1": lost.record, "k2": json.dumps(claimed), "k3": "", "k4": "{", "k5": lost.record}
    await again.adopt(records)
    assert held(again) == {"cuda0": {"k1": 1}, "cuda1": {"k2": 1}}


async def test_what_a_kernel_sees(tmp_path: Path) -> None:
    files = (DeviceFile("/dev/zero", "/dev/x0"), DeviceFile("/dev/null", "/dev/xctl"))
    one = Device("gpu0", memory_bytes=10 << 30, files=files)
    two = Device("gpu1", memory_bytes=10 << 30, shares=Decimal(2), files=files[1:])
    pool = await opened(tmp_path / "a", PluginInMemory((one, two)), divide_devices=True)
    nothing = await pool.allot("k0", Slots({"cpu": 1, "mem": 1}))
    assert nothing.env == {"CUDA_VISIBLE_DEVICES": "", "NVIDIA_VISIBLE_DEVICES": "void"}
    found = await pool.allot("k1", Slots.parse({"cuda.shares": "2.5"}))
    assert found.env == {
        "CUDA_VISIBLE_DEVICES": "gpu0,gpu1",
        "NVIDIA_VISIBLE_DEVICES": "gpu0,gpu1",
        "BACKENDAI_DEVICES": "gpu0,gpu1",
        "BACKENDAI_DEVICE_SHARES": "gpu0:0.5,gpu1:2",
        "BACKENDAI_DEVICE_MEMORY": f"gpu0:{5 << 30},gpu1:{10 << 30}",
    }
    assert found.files == files


async def test_closing_lets_go_of_the_driver(tmp_path: Path) -> None:
    plugin = PluginInMemory()
    pool = await opened(tmp_path / "a", plugin)
    await pool.close()
    assert plugin.is_closed


class PoolMachine(RuleBasedStateMachine):
    """Two agents of one machine, whose kernels come, start again and go in any order."""

    kernels = st.integers(0, 7)

    @initialize(
        count=st.integers(0, 3),
        shares=st.sampled_from(["1", "2"]),
        divided=st.booleans(),
        strategy=st.sampled_from(["fill", "evenly"]),
    )
    def open(self, count: int, shares: str, divided: bool, strategy: str) -> None:
        self.root = self.make_root()
        self.settings = BackendAIAgent(divide_devices=divided, device_strategy=strategy)
        self.devices = some_devices(count, shares=shares)
        self.slot = "cuda.shares" if divided else "cuda.device"
        self.has: dict[str, Decimal] = {}
        self.pools = [self._pool(name) for name in ("a", "b")]

    make_root: Callable[[], Path]

    def _pool(self, name: str) -> DevicePool:
        pool = make_pool(self.root / name, PluginInMemory(self.devices), self.settings)
        asyncio.run(pool.refresh())
        return pool

    @rule(number=kernels, amount=st.sampled_from(["0.001", "0.25", "0.5", "1", "1.5", "2", "3"]))
    def allot(self, number: int, amount: str) -> None:
        kernel_id = f"k{number}"
        asked = Decimal(math.ceil(Decimal(amount))) if is_whole(self.slot) else Decimal(amount)
        size = self.has.get(kernel_id, asked)
        free = self._capacity() - sum(self.has.values())
        before = self._held().get(kernel_id)
        try:
            asyncio.run(self._of(number).allot(kernel_id, Slots({self.slot: size})))
        except NoCapacity:
            assert kernel_id not in self.has
            assert size > free
        else:
            assert before in (None, self._held()[kernel_id])
            self.has[kernel_id] = size

    @rule(number=kernels)
    def release(self, number: int) -> None:
        asyncio.run(self._of(number).release(f"k{number}"))
        self.has.pop(f"k{number}", None)

    @rule(which=st.integers(0, 1))
    def restart(self, which: int) -> None:
        self.pools[which] = self._pool("ab"[which])

    @invariant()
    def nothing_is_given_twice_or_lost(self) -> None:
        if not hasattr(self, "pools"):
            return
        totals = {kernel_id: sum(parts.values()) for kernel_id, parts in self._held().items()}
        assert totals == self.has
        assert self.pools[0].capacity()[self.slot] == self._capacity()
        for device in self.pools[0].report():
            assert sum(device.held.values()) <= device.capacity

    def _of(self, number: int) -> DevicePool:
        return self.pools[number % 2]

    def _capacity(self) -> Decimal:
        return sum((device.amount(self.slot) for device in self.devices), Decimal(0))

    def _held(self) -> dict[str, dict[str, Decimal]]:
        """Return what each kernel has, as the first agent reports it."""
        asyncio.run(self.pools[0].refresh())
        found: dict[str, dict[str, Decimal]] = {}
        for device in self.pools[0].report():
            for kernel_id, amount in device.held.items():
                found.setdefault(kernel_id, {})[device.id] = amount
        return found


def test_whatever_comes_and_goes_no_device_is_overcommitted(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    class Machine(PoolMachine):
        make_root = staticmethod(lambda: tmp_path_factory.mktemp("pool"))

    machine = Machine.TestCase
    machine.settings = hypothesis_settings(max_examples=25, stateful_step_count=20, deadline=None)
    machine().runTest()
