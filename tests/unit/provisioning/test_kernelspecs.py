"""Which kernelspecs are offered, and which are only to be found by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.kernelspec import NoSuchKernel

from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.domain.wire import AgentReport, Image
from backendai_jupyter.provisioning.backends import BACKENDS
from backendai_jupyter.provisioning.kernelspecs import BackendAIKernelSpecManager, is_ours
from tests.unit.contents.small_backend import SmallBackend


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[SmallBackend]:
    backend = SmallBackend(tmp_path / "data")
    BACKENDS.serve(backend.as_backend())
    yield backend
    BACKENDS.serve(None)


@pytest.fixture
def specs(backend: SmallBackend, tmp_path: Path) -> BackendAIKernelSpecManager:
    """Ours for Python, R and Julia, and a local one."""
    for image in ("python", "r", "julia"):
        config = {"image": image}
        stanza = {"provisioner_name": "backendai-provisioner", "config": config}
        write(tmp_path, f"backendai-{image}", {"kernel_provisioner": stanza})
    write(tmp_path, "local", {})
    manager = BackendAIKernelSpecManager(ensure_native_kernel=False)
    manager.kernel_dirs = [str(tmp_path)]
    return manager


def write(kernels: Path, name: str, metadata: dict[str, Any]) -> None:
    (kernels / name).mkdir()
    spec = {"argv": ["x"], "display_name": name, "language": "x", "metadata": metadata}
    (kernels / name / "kernel.json").write_text(json.dumps(spec))


def report(backend: SmallBackend, agent_id: str, *images: str) -> None:
    backend.manager.board.reports[agent_id] = AgentReport(
        agent_id=agent_id,
        revision=1,
        version="1",
        capacity=Slots({}),
        images=tuple(Image(name=name, reference=name, runtime="docker") for name in images),
    )


def offered(specs: BackendAIKernelSpecManager) -> set[str]:
    assert set(specs.get_all_specs()) == set(specs.find_kernel_specs())
    return set(specs.get_all_specs())


def test_ours_are_offered_where_an_agent_has_the_image(
    specs: BackendAIKernelSpecManager, backend: SmallBackend
) -> None:
    assert offered(specs) == {"backendai-python", "local"}
    report(backend, "a1", "python", "r")
    report(backend, "a2", "julia")
    assert offered(specs) == {"backendai-python", "backendai-r", "backendai-julia", "local"}
    del backend.manager.board.reports["a2"]
    assert offered(specs) == {"backendai-python", "backendai-r", "local"}


def test_local_ones_can_be_hidden(specs: BackendAIKernelSpecManager, backend: SmallBackend) -> None:
    backend.settings.hide_local_kernelspecs = True
    report(backend, "a1", "r")
    specs.ensure_native_kernel = True
    assert offered(specs) == {"backendai-python", "backendai-r"}
    for name in ("local", "python3", "no-such-kernel"):
        with pytest.raises(NoSuchKernel):
            specs.get_kernel_spec(name)


def test_one_of_ours_without_an_image_is_found_so_that_a_start_can_say_why(
    specs: BackendAIKernelSpecManager,
) -> None:
    assert is_ours(specs.get_kernel_spec("backendai-r"))
    assert not is_ours(specs.get_kernel_spec("local"))


def test_names_are_shown_as_the_kernelspec_has_them(specs: BackendAIKernelSpecManager) -> None:
    shown = specs.get_all_specs()["backendai-python"]["spec"]["display_name"]
    assert shown == "backendai-python"


def test_a_broken_kernelspec_hides_no_other(
    specs: BackendAIKernelSpecManager, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "kernel.json").write_text("{")
    assert set(specs.get_all_specs()) == {"backendai-python", "local"}
    assert "broken" in caplog.text
