"""Images of kernelspecs: how they are built, found, and what is in them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backendai_jupyter.agent.runtime.build import build_image
from backendai_jupyter.errors import RuntimeFailed
from tests.engine import PrivateEngine
from tests.engine_materials import KERNELSPECS
from tests.integration.docker_rig import DockerRig

LABELS = 'LABEL ai.backend.kernelspec="1" ai.backend.image.name="tiny"'


class Workshop:
    """A folder with a Dockerfile, and what was said while it was built."""

    tag = "backendai-tiny:test"

    def __init__(self, engine: PrivateEngine, context: Path) -> None:
        self.engine = engine
        self.context = context
        self.lines: list[str] = []

    def write(self, *instructions: str) -> None:
        (self.context / "Dockerfile").write_text("\n".join(instructions))

    async def build(self, **changes: Any) -> Any:
        options: dict[str, Any] = {
            "tag": self.tag,
            "build_args": {"BASE_IMAGE": "backendai-r:latest"},
            "wheels": None,
            "url": self.engine.url,
            "on_line": self.lines.append,
            **changes,
        }
        return await build_image("tiny", self.context, **options)


@pytest.fixture
def workshop(engine: PrivateEngine, tmp_path: Path) -> Iterator[Workshop]:
    yield Workshop(engine, tmp_path)
    with contextlib.closing(engine.client()) as client:
        for image in client.images(name=Workshop.tag.split(":")[0]):
            client.remove_image(image["Id"], force=True)


async def test_a_built_image_is_returned_and_offered(workshop: Workshop, rig: DockerRig) -> None:
    workshop.write("ARG BASE_IMAGE", "FROM ${BASE_IMAGE}", "RUN echo spoken at build", LABELS)
    built = await workshop.build()
    assert (built.name, built.reference) == ("tiny", "backendai-tiny:test")
    assert built in await rig.runtime.images()
    assert "spoken at build" in workshop.lines


async def test_the_build_sees_the_wheels_and_leaves_the_folder_alone(
    workshop: Workshop, tmp_path_factory: pytest.TempPathFactory
) -> None:
    wheels = tmp_path_factory.mktemp("anything")
    (wheels / "a.whl").write_text("")
    workshop.write("ARG BASE_IMAGE", "FROM ${BASE_IMAGE}", "COPY wheels /w", "RUN ls /w", LABELS)
    await workshop.build(wheels=wheels)
    assert "a.whl" in workshop.lines
    assert [path.name for path in workshop.context.iterdir()] == ["Dockerfile"]


async def test_a_failing_step_is_told_with_its_last_lines(workshop: Workshop) -> None:
    workshop.write(
        "ARG BASE_IMAGE", "FROM ${BASE_IMAGE}", "RUN echo before", "RUN echo on the way; exit 3"
    )
    with pytest.raises(RuntimeFailed) as failure:
        await workshop.build()
    told = str(failure.value)
    assert "returned a non-zero code: 3" in told
    assert "on the way" in told.splitlines()[-1]
    assert "before" not in told


async def test_an_image_that_does_not_say_what_it_is_is_refused(workshop: Workshop) -> None:
    workshop.write("ARG BASE_IMAGE", "FROM ${BASE_IMAGE}", 'LABEL ai.backend.image.name="other"')
    with pytest.raises(RuntimeFailed, match=r'ai\.backend\.image\.name="tiny"'):
        await workshop.build()


async def test_a_folder_without_a_dockerfile_is_refused(workshop: Workshop) -> None:
    with pytest.raises(RuntimeFailed, match="no Dockerfile"):
        await workshop.build()


@pytest.mark.parametrize("folder", sorted(path.name for path in KERNELSPECS.iterdir()))
async def test_a_kernelspec_names_an_image_that_its_dockerfile_makes(
    rig: DockerRig, folder: str
) -> None:
    spec = json.loads((KERNELSPECS / folder / "kernel.json").read_text())
    provisioner = spec["metadata"]["kernel_provisioner"]
    image = rig.images[provisioner["config"]["image"]]
    assert provisioner["provisioner_name"] == "backendai-provisioner"
    assert image.labels["ai.backend.runtime-type"] == folder
    assert {"ai.backend.resource.min.cpu", "ai.backend.resource.min.mem"} <= set(image.labels)


async def test_the_python_image_has_what_notebooks_use(rig: DockerRig) -> None:
    names = "ipykernel, ipywidgets, matplotlib, numpy, pandas, sklearn, debugpy"
    spec = rig.spec(f"import {names}; print('all there')", memory_mib=512)
    await rig.runtime.start(spec)
    assert await rig.output(spec) == "all there\n"


async def test_the_python_image_carries_its_bytecode(rig: DockerRig) -> None:
    spec = rig.spec(
        "import asyncio, ipykernel, pathlib, zmq\n"
        "print([m.__name__ for m in (asyncio, ipykernel, zmq)\n"
        "       if not pathlib.Path(m.__cached__).exists()])\n"
    )
    await rig.runtime.start(spec)
    assert await rig.output(spec) == "[]\n"


async def test_the_r_image_has_the_r_kernel(rig: DockerRig) -> None:
    program = ("R", "--slave", "-e", "library(IRkernel); cat('version', R.version$major)")
    spec = rig.spec("", image=rig.images["r"], argv=program)
    await rig.runtime.start(spec)
    assert (await rig.output(spec)).startswith("version 4")
