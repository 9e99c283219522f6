"""What processes make of shared settings: which scope wins, and what a wrong value does."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from traitlets.config import Config, Configurable

from backendai_jupyter.cluster import keys
from backendai_jupyter.cluster.memory import MemoryClusterStore
from backendai_jupyter.cluster.protocols import MAX_AT_ONCE
from backendai_jupyter.cluster.shared_config import (
    GLOBAL,
    SharedConfig,
    SharedSetting,
    agent_scopes,
    delete_setting,
    list_settings,
    manager_scopes,
    put_settings,
    read_settings,
)
from backendai_jupyter.config import BackendAI, BackendAIAgent
from backendai_jupyter.config.shared import SECTIONS, shared_names
from backendai_jupyter.errors import InvalidInput, NotFound
from backendai_jupyter.supervisor import Supervisor
from tests.helpers import eventually

GROUP, NODE = "group:big", "node:a1"
CPU = "BackendAIAgent.cpu_overcommit"


class Process:
    """An agent's or a manager's settings, which follow a store."""

    def __init__(self, store: MemoryClusterStore, settings: Configurable) -> None:
        self.settings: Any = settings
        scopes = manager_scopes()
        if isinstance(settings, BackendAIAgent):
            scopes = agent_scopes(settings)
        self.shared = SharedConfig(store, settings, scopes)
        self.changes = 0
        self.supervisor = Supervisor()

    async def follow(self) -> None:
        """Return once it knows what there is."""
        await self.shared.read()
        self.supervisor.task("shared configuration", self.shared.follow(self._count))

    async def until(self, cpu_overcommit: float) -> None:
        await eventually(lambda: self.settings.cpu_overcommit == cpu_overcommit)

    def _count(self) -> None:
        self.changes += 1


Follow = Callable[..., Awaitable[Process]]


@pytest.fixture
def store() -> MemoryClusterStore:
    return MemoryClusterStore()


@pytest.fixture
async def follow(store: MemoryClusterStore) -> AsyncIterator[Follow]:
    """Return settings that follow the store: by default those of an agent that has no others."""
    processes: list[Process] = []

    async def begin(settings: Configurable | None = None) -> Process:
        process = Process(store, settings or agent())
        processes.append(process)
        await process.follow()
        return process

    yield begin
    for process in processes:
        await process.supervisor.close()


def agent(**own: object) -> BackendAIAgent:
    return BackendAIAgent(
        config=Config(BackendAIAgent={"agent_id": "a1", "resource_group": "big", **own})
    )


async def put(store: MemoryClusterStore, scope: str, text: str, name: str = CPU) -> None:
    """Write as somebody who does not ask us first."""
    await store.put(keys.setting(scope, name), text)


async def test_the_narrowest_scope_wins_and_what_is_deleted_falls_back(
    store: MemoryClusterStore, follow: Follow
) -> None:
    process = await follow()
    for scope, value in ((NODE, 4), (GLOBAL, 2), (GROUP, 3)):
        await put_settings(store, scope, {CPU: value})
        await process.until(4)
    for scope, then in ((NODE, 3), (GROUP, 2), (GLOBAL, 8)):
        await delete_setting(store, scope, CPU)
        await process.until(then)


async def test_what_is_there_holds_from_the_start(
    store: MemoryClusterStore, follow: Follow
) -> None:
    await put_settings(store, GROUP, {CPU: 3})
    await put_settings(store, "group:small", {CPU: 1})
    await put_settings(store, "node:a2", {CPU: 1})
    process = await follow()
    assert process.settings.cpu_overcommit == 3


async def test_what_the_process_itself_was_told_wins(
    store: MemoryClusterStore, follow: Follow
) -> None:
    process = await follow(agent(cpu_overcommit=6.0))
    await put_settings(store, NODE, {CPU: 4, "BackendAIAgent.heartbeat_s": 1})
    await eventually(lambda: process.settings.heartbeat_s == 1)
    assert process.settings.cpu_overcommit == 6


async def test_a_manager_follows_its_own_section(store: MemoryClusterStore, follow: Follow) -> None:
    process = await follow(BackendAI())
    names = {"PENDING": 600}
    await put_settings(store, GLOBAL, {CPU: 1, "BackendAI.start_timeouts": names})
    await eventually(lambda: process.settings.start_timeouts == names)
    await put(store, GLOBAL, "-1")
    await put_settings(store, GLOBAL, {"BackendAI.env_passthrough": ["LANG"]})
    await eventually(lambda: process.settings.env_passthrough == ["LANG"])
    assert process.shared.notes() == ()


WRONG = [
    pytest.param(CPU, "{", "is no JSON: Expecting property name", id="bad JSON"),
    pytest.param(CPU, "NaN", "is no JSON: NaN is no number", id="no number"),
    pytest.param(CPU, '"many"', "not the str 'many'", id="another type"),
    pytest.param(CPU, "true", "may not be true", id="a truth for a number"),
    pytest.param(CPU, "-1", "should not be less than 0.01", id="too small"),
    pytest.param("BackendAIAgent.mem_reserve", '"x"', "'x'", id="no size"),
    pytest.param("BackendAIAgent.kernel_uid", "7", "may not be shared", id="not shared"),
    pytest.param("BackendAIAgent.cpus", "7", "there is no such setting", id="unknown"),
    pytest.param("Agent.cpus", "7", "there is no such setting", id="unknown section"),
    pytest.param("cpus", "7", "there is no such setting", id="no section"),
]


@pytest.mark.parametrize(("name", "text", "problem"), WRONG)
async def test_a_wrong_value_changes_nothing_and_is_told_until_it_is_gone(
    store: MemoryClusterStore,
    follow: Follow,
    caplog: pytest.LogCaptureFixture,
    name: str,
    text: str,
    problem: str,
) -> None:
    await put_settings(store, GLOBAL, {CPU: 4, "BackendAIAgent.mem_reserve": "2g"})
    process = await follow()
    before = {trait: getattr(process.settings, trait) for trait in process.settings.trait_names()}
    await put(store, GLOBAL, text, name)
    await eventually(process.shared.notes)
    [note] = process.shared.notes()
    assert note.startswith(f"config/global/{name} is not applied: ")
    assert problem in note
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR] == [note]
    assert before == {trait: getattr(process.settings, trait) for trait in before}
    assert process.changes == 1
    await delete_setting(store, GLOBAL, name)
    await eventually(lambda: not process.shared.notes())
    assert process.changes == 2


@pytest.mark.parametrize(("name", "text", "problem"), WRONG)
async def test_a_wrong_value_is_told_by_who_starts_with_it_too(
    store: MemoryClusterStore, follow: Follow, name: str, text: str, problem: str
) -> None:
    await put(store, GLOBAL, text, name)
    process = await follow()
    [note] = process.shared.notes()
    assert problem in note
    assert process.settings.cpu_overcommit == 8


async def test_a_wrong_value_that_is_corrected_is_applied(
    store: MemoryClusterStore, follow: Follow
) -> None:
    process = await follow()
    await put(store, NODE, "0")
    await eventually(process.shared.notes)
    await put(store, NODE, "5")
    await process.until(5)
    assert process.shared.notes() == ()


async def test_one_wrong_value_keeps_no_other_back(
    store: MemoryClusterStore, follow: Follow
) -> None:
    process = await follow()
    await put(store, GLOBAL, "oh")
    await put_settings(store, GLOBAL, {"BackendAIAgent.pids_limit": 99})
    await eventually(lambda: process.settings.pids_limit == 99)
    assert len(process.shared.notes()) == 1


async def test_a_process_that_has_missed_changes_reads_all_again(follow: Follow) -> None:
    store = MemoryClusterStore(log_length=1)
    await put_settings(store, GLOBAL, {CPU: 4, "BackendAIAgent.pids_limit": 99})
    process = Process(store, agent())
    await process.shared.read()
    await delete_setting(store, GLOBAL, "BackendAIAgent.pids_limit")
    await put_settings(store, GLOBAL, {CPU: 5})
    process.supervisor.task("shared configuration", process.shared.follow(lambda: None))
    await process.until(5)
    assert process.settings.pids_limit == 1024
    await process.supervisor.close()


@pytest.mark.parametrize(
    ("scope", "settings", "culprit"),
    [
        pytest.param(GLOBAL, {CPU: 2, "BackendAIAgent.pids_limit": "x"}, "pids_limit", id="value"),
        pytest.param(GLOBAL, {CPU: 2, "BackendAIAgent.x": 1}, "BackendAIAgent.x", id="name"),
        pytest.param(GROUP, {CPU: 2, "BackendAI.full_pass_s": 1}, "full_pass_s", id="scope"),
        pytest.param("group:a/b", {CPU: 2}, "'group:a/b' is none of", id="name of a scope"),
        pytest.param("node:", {CPU: 2}, "'node:' is none of", id="scope without a name"),
        pytest.param("everybody", {CPU: 2}, "'everybody' is none of", id="unknown scope"),
    ],
)
async def test_nothing_is_written_where_one_is_wrong(
    store: MemoryClusterStore, scope: str, settings: dict[str, object], culprit: str
) -> None:
    with pytest.raises(InvalidInput, match=culprit):
        await put_settings(store, scope, settings)
    assert await list_settings(store) == []


async def test_what_is_put_together_is_taken_together(
    store: MemoryClusterStore, follow: Follow
) -> None:
    process = await follow()
    await put_settings(store, GLOBAL, {CPU: 2, "BackendAIAgent.pids_limit": 99})
    await process.until(2)
    assert process.settings.pids_limit == 99
    assert process.changes == 1


def test_one_transaction_has_room_for_all_settings() -> None:
    assert sum(len(shared_names(section)) for section in SECTIONS.values()) <= MAX_AT_ONCE


async def test_the_list_shows_right_and_wrong_and_tells_no_secret(
    store: MemoryClusterStore,
) -> None:
    await put_settings(store, NODE, {CPU: 2})
    await put(store, GLOBAL, '"postgresql://user:secret@host/db"', "BackendAI.database_url")
    wrong, right = await list_settings(store)
    assert right == SharedSetting(NODE, CPU, 2)
    assert (wrong.scope, wrong.value) == (GLOBAL, None)
    assert "may not be shared" in wrong.problem
    assert "secret" not in str(wrong)


async def test_what_is_not_there_cannot_be_deleted(store: MemoryClusterStore) -> None:
    with pytest.raises(NotFound, match="not shared in the scope node:a1"):
        await delete_setting(store, NODE, CPU)


def test_a_file_may_have_full_names_and_sections() -> None:
    text = json.dumps({CPU: 2, "BackendAI": {"full_pass_s": 1, "start_timeouts": {"PENDING": 1}}})
    assert read_settings(text, field="f") == {
        CPU: 2,
        "BackendAI.full_pass_s": 1,
        "BackendAI.start_timeouts": {"PENDING": 1},
    }


@pytest.mark.parametrize(
    ("text", "culprit"),
    [
        ("[]", "f: is no JSON object"),
        ("{", "f: is no JSON: .* line 1, column 2"),
        ('{"BackendAI": 1}', "BackendAI: is a section"),
        (f'{{"{CPU}": 1, "{CPU}": 2}}', "is there twice"),
        (f'{{"{CPU}": 1, "BackendAIAgent": {{"cpu_overcommit": 2}}}}', f"{CPU}: is there twice"),
        (f'{{"{CPU}": 1e999}}', "1e999 is no number"),
        ("[" * 100_000, "f: is no JSON"),
    ],
)
def test_a_file_that_is_none_is_refused(text: str, culprit: str) -> None:
    with pytest.raises(InvalidInput, match=culprit):
        read_settings(text, field="f")
