"""The samples of docs/examples/cluster say what the program understands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped] # it has no types
from sqlalchemy.engine import make_url
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


def test_the_settings_that_a_compose_file_names_lead_to_its_services(tmp_path: Path) -> None:
    text = (SAMPLES / "compose.yaml").read_text()
    (tmp_path / "secret").touch(mode=0o600)
    (tmp_path / "secret").write_text("x" * 64)
    lines = re.findall(r"^#   (c\.BackendAI\..*?)(?:      \(.*)?$", text, re.MULTILINE)
    sample = "\n".join(lines).replace("/path/of", str(tmp_path))
    (tmp_path / "config.py").write_text(sample)
    config = PyFileConfigLoader("config.py", path=str(tmp_path)).load_config()
    settings = BackendAI(config=Config(config))
    assert settings.in_cluster
    services = yaml.safe_load(text)["services"]
    database = make_url(settings.database_url)
    assert services["postgres"]["environment"] == {
        "POSTGRES_USER": database.username,
        "POSTGRES_PASSWORD": database.password,
        "POSTGRES_DB": database.database,
    }
    urls = {"postgres": settings.database_url, "redis": settings.redis_url}
    urls["etcd"] = settings.etcd_url
    standard = {"postgres": 5432, "redis": 6379, "etcd": 2379}
    for name, url in urls.items():
        host, port, _ = services[name]["ports"][0].split(":")
        assert (host, int(port)) == (make_url(url).host, make_url(url).port or standard[name])
    assert f"--listen-client-urls=http://0.0.0.0:{standard['etcd']}" in services["etcd"]["command"]
