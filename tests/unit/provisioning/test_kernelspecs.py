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
        config = {"image": image, "resources": {"cpu": 1, "mem": "1g"}}
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


def report(backend: SmallBackend, agent_id: str, *images: Image | str) -> None:
    named = (made_of(one) if isinstance(one, str) else one for one in images)
    backend.manager.board.reports[agent_id] = AgentReport(
        agent_id=agent_id,
        revision=1,
        version="1",
        capacity=Slots({}),
        images=tuple(named),
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


def test_an_image_that_an_agent_may_fetch_is_offered_as_one_that_is_there(
    specs: BackendAIKernelSpecManager, backend: SmallBackend
) -> None:
    report(backend, "a1")
    fetching = made_of("torch", runtime_type="python"), made_of("r")
    reports = backend.manager.board.reports
    reports["a1"] = reports["a1"].model_copy(update={"pullable": fetching})
    assert offered(specs) == {"backendai-python", "backendai-r", "backendai-torch", "local"}


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


def made_of(name: str, **labels: str) -> Image:
    named = {f"ai.backend.{label.replace('_', '-')}": text for label, text in labels.items()}
    return Image(name=name, reference=name, runtime="docker", labels=named)


def test_an_image_that_no_file_names_has_a_kernelspec_of_its_own(
    specs: BackendAIKernelSpecManager, backend: SmallBackend
) -> None:
    report(backend, "a1", made_of("torch", runtime_type="python", runtime_path="/opt/bin/python"))
    assert offered(specs) == {"backendai-python", "backendai-torch", "local"}
    made = specs.get_kernel_spec("backendai-torch")
    usual = specs.get_kernel_spec("backendai-python")
    assert made.argv == ["/opt/bin/python", *usual.argv[1:]]
    assert made.display_name == "torch (Backend.AI)"
    assert made.resource_dir == usual.resource_dir
    assert made.metadata["kernel_provisioner"]["config"]["image"] == "torch"
    assert usual.metadata["kernel_provisioner"]["config"]["image"] == "python"


def test_its_kernels_are_given_what_the_image_asks_for(
    specs: BackendAIKernelSpecManager, backend: SmallBackend
) -> None:
    minimum = {"ai.backend.resource.min.mem": "2g", "ai.backend.resource.min.cpu": "0.5"}
    labels = {"ai.backend.runtime-type": "r", "ai.backend.kernelspec.display-name": "R, large"}
    big = Image(name="big", reference="b", runtime="docker", labels={**labels, **minimum})
    report(backend, "a1", big)
    assert "backendai-big" in offered(specs)
    made = specs.get_kernel_spec("backendai-big")
    assert made.display_name == "R, large"
    resources = made.metadata["kernel_provisioner"]["config"]["resources"]
    assert Slots.parse(resources, field="resources") == Slots({"cpu": 1, "mem": 2 * 1024**3})


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(made_of("x"), id="nothing is said of its program"),
        pytest.param(made_of("x", runtime_type="cobol"), id="nobody knows how to start it"),
        pytest.param(made_of("a b", runtime_type="python"), id="no name for Jupyter"),
        pytest.param(made_of("python", runtime_type="python"), id="a file names it"),
    ],
)
def test_an_image_without_a_kernelspec_is_not_offered(
    specs: BackendAIKernelSpecManager, backend: SmallBackend, image: Image
) -> None:
    report(backend, "a1", image)
    assert offered(specs) == {"backendai-python", "local"}


def test_one_that_has_gone_is_found_so_that_a_start_can_say_why(
    specs: BackendAIKernelSpecManager, backend: SmallBackend
) -> None:
    report(backend, "a1", made_of("torch", runtime_type="r"))
    assert "backendai-torch" in offered(specs)
    del backend.manager.board.reports["a1"]
    assert offered(specs) == {"backendai-python", "local"}
    for name in ("backendai-torch", "backendai-never-seen"):
        spec = specs.get_kernel_spec(name)
        assert is_ours(spec)
        image = spec.metadata["kernel_provisioner"]["config"]["image"]
        assert name == f"backendai-{image}"


def test_only_allowed_ones_are_made(
    specs: BackendAIKernelSpecManager, backend: SmallBackend
) -> None:
    specs.allowed_kernelspecs = {"backendai-python", "backendai-a"}
    report(backend, "a1", *(made_of(name, runtime_type="python") for name in ("a", "b")))
    assert offered(specs) == {"backendai-python", "backendai-a"}
