"""An agent that does not see its kernels' engine must not take them for gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from backendai_jupyter.agent.checkpoints import Checkpoint
from backendai_jupyter.agent.daemon import check_without_docker
from backendai_jupyter.agent.equipment import Site
from backendai_jupyter.agent.node import checkpoints_in
from backendai_jupyter.domain.wire import Image
from backendai_jupyter.errors import Unavailable


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site("agent", "cluster", tmp_path / "run", tmp_path / "scratch")


def leave(site: Site, runtime: str) -> None:
    image = Image(name="python", reference="python", runtime=runtime)
    left = Checkpoint(kernel_id=runtime, generation=1, image=image, key="secret")
    checkpoints_in(site.scratch_root).write(left)


def test_an_agent_does_not_start_without_the_engine_that_has_its_kernels(site: Site) -> None:
    check_without_docker(site)
    leave(site, "process")
    check_without_docker(site)
    leave(site, "docker")
    with pytest.raises(Unavailable, match="no Docker engine answers"):
        check_without_docker(site)
