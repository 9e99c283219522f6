"""What ``doctor`` finds out about the stores, the secret and the agents of a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from traitlets.config import Config

from backendai_jupyter.cli import cluster
from backendai_jupyter.cli.checks import run_checks
from backendai_jupyter.cli.findings import Finding, Settings, State
from backendai_jupyter.cluster import keys
from backendai_jupyter.cluster.stores import open_stores
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.domain.wire import AgentReport
from tests.services import EtcdServer, RedisServer


@pytest.fixture
async def config(short_tmp_path: Path) -> AsyncIterator[Config]:
    etcd, redis = EtcdServer(short_tmp_path / "e"), RedisServer(short_tmp_path / "r")
    await etcd.up()
    await redis.up()
    secret = short_tmp_path / "secret"
    secret.touch(mode=0o600)
    secret.write_text("s" * 40)
    config = Config()
    for section in (config.BackendAI, config.BackendAIAgent):
        section.etcd_url, section.redis_url = etcd.url(), redis.url()
        section.cluster_secret_file = str(secret)
        section.vfolder_hosts = {"local": str(short_tmp_path / "vf")}
        section.runtime_dir = str(short_tmp_path / "run")
    config.BackendAI.data_dir = str(short_tmp_path / "data")
    config.BackendAIAgent.runtime = "process"
    yield config
    etcd.kill()
    redis.kill()


@pytest.mark.parametrize("is_agent", [False, True])
async def test_a_sound_cluster_has_nothing_to_complain_of(config: Config, is_agent: bool) -> None:
    await report(config, "a", registered=True)
    found = await findings(config, is_agent=is_agent)
    for name in ("etcd", "redis", "clock", "cluster secret", "agents", "swarm"):
        assert found[name].state is State.OK, found[name]
    assert found["agents"].message == "a"
    assert ("database" in found) is not is_agent


async def test_stores_that_do_not_answer_are_named(config: Config) -> None:
    config.BackendAI.etcd_url = "etcd://127.0.0.1:1"
    config.BackendAI.redis_url = "redis://127.0.0.1:1"
    found = await findings(config)
    assert found["etcd"].state is State.FAIL
    assert found["etcd"].message.startswith("etcd at 127.0.0.1:1 cannot be reached")
    assert found["redis"].state is State.FAIL
    assert "127.0.0.1:1" in found["redis"].message


async def test_a_secret_that_others_may_read_fails(config: Config) -> None:
    await asyncio.to_thread(Path(config.BackendAI.cluster_secret_file).chmod, 0o644)
    found = (await findings(config))["cluster secret"]
    assert found.state is State.FAIL
    assert "chmod 600" in found.message


async def test_agents_that_only_one_store_knows_are_named(config: Config) -> None:
    await report(config, "a", registered=False)
    found = await cluster.agents(Settings.of(config))
    assert found.state is State.WARN
    assert found.message == "a is heard in Redis and not registered in etcd."


async def test_half_a_cluster_is_a_failure_that_names_the_setting(config: Config) -> None:
    config.BackendAI.redis_url = ""
    found = (await findings(config))["redis"]
    assert found.message == "BackendAI.redis_url: is needed in a cluster, and etcd_url is set"


async def findings(config: Config, *, is_agent: bool = False) -> dict[str, Finding]:
    return {one.check: one for one in await run_checks(config, is_agent=is_agent)}


async def report(config: Config, agent_id: str, *, registered: bool) -> None:
    section = config.BackendAI
    report = AgentReport(agent_id=agent_id, revision=1, version="1", capacity=Slots({}))
    async with open_stores(section.etcd_url, section.redis_url) as (store, live):
        if registered:
            await store.put(keys.registration(agent_id), "node")
        await live.put(keys.report(agent_id), report.model_dump_json(), ttl_s=60)
