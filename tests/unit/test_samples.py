"""The samples of docs/examples/cluster say what the program understands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from traitlets.config import Config
from traitlets.config.loader import PyFileConfigLoader

from backendai_jupyter.cluster.urls import read_etcd_url, read_redis_url
from backendai_jupyter.config import BackendAI, BackendAIAgent

SAMPLES = Path(__file__).parents[2] / "docs/examples/cluster"


@pytest.mark.parametrize(
    ("name", "section"),
    [("jupyter_server_config", BackendAI), ("backendai_agent_config", BackendAIAgent)],
)
def test_every_setting_of_a_sample_is_one_that_is_accepted(
    name: str, section: type[Any], tmp_path: Path
) -> None:
    for file in ("redis-password", "etcd-password", "tls/ca.crt"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch(mode=0o600)
        (tmp_path / file).write_text("secret")
    text = (SAMPLES / f"{name}.py").read_text().replace("/etc/backendai", str(tmp_path))
    (tmp_path / f"{name}.py").write_text(text)
    config = PyFileConfigLoader(f"{name}.py", path=str(tmp_path)).load_config()
    assert set(config[section.__name__]) <= set(section.class_trait_names(config=True))
    settings = section(config=Config(config))
    assert read_etcd_url(settings.etcd_url).tls is not None
    assert read_redis_url(settings.redis_url).user == "backendai"
    assert settings.in_cluster if section is BackendAI else settings.check_cluster() is None
    assert list(settings.hosts()) == ["nfs"]
