"""What people are told of an agent's devices: whose they are, unless it is somebody else."""

from __future__ import annotations

from decimal import Decimal

from backendai_jupyter.cli.agent import agent_facts, device_row
from backendai_jupyter.domain.records import Agent
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.domain.wire import AgentReport, DeviceReport
from backendai_jupyter.web import models

CAPACITY = Slots({"cpu": 4, "cuda.shares": 2})
SESSION = "0123456789-session"


def answer(*, alive: bool = True) -> models.Agent:
    used = Slots.parse({"cuda.shares": "0.75"})
    agent = Agent("a1", "1", CAPACITY, used, ("python",), ("A note.",), 5.0)
    device = DeviceReport(
        id="gpu0",
        kind="cuda",
        name="H100",
        memory_bytes=80 << 30,
        slot="cuda.shares",
        capacity=Decimal("1.000"),
        held={"mine": Decimal("0.500"), "theirs": Decimal("0.250")},
    )
    report = AgentReport(
        agent_id="a1", revision=1, version="1", capacity=CAPACITY, devices=(device,)
    )
    # As every record, it must survive the way through Redis.
    reports = {"a1": AgentReport.model_validate_json(report.model_dump_json())} if alive else {}
    [found] = models.agents_of([agent], reports, {"mine": SESSION}.get).root
    return found


def test_a_device_says_which_of_my_sessions_have_it_and_hides_those_of_others() -> None:
    [device] = answer().devices
    assert device.model_dump() == {
        "id": "gpu0",
        "kind": "cuda",
        "name": "H100",
        "memory_bytes": 80 << 30,
        "slot": "cuda.shares",
        "capacity": "1",
        "used": "0.75",
        "holders": [
            {"kernel_id": "mine", "session_id": SESSION, "amount": "0.5"},
            {"kernel_id": None, "session_id": None, "amount": "0.25"},
        ],
    }


def test_of_a_lost_agent_nobody_knows_the_devices() -> None:
    assert answer(alive=False).devices == []


def test_a_person_is_shown_the_same() -> None:
    found = answer()
    assert ("cuda.shares", "0.75 of 2") in agent_facts(found)
    assert ("note", "A note.") in agent_facts(found)
    holders = "01234567 (0.5), another (0.25)"
    row = ("gpu0", "cuda", "H100", "80 GiB", "cuda.shares", "0.75 of 1", holders)
    assert device_row(found.devices[0]) == row
