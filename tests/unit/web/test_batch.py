"""What a batch session is made of: its notebook's own wishes below those of the request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel

from backendai_jupyter.domain.batch import SessionType
from backendai_jupyter.domain.options import merge
from backendai_jupyter.domain.records import SYSTEM
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.errors import InvalidInput
from backendai_jupyter.web.batch import asked_for
from backendai_jupyter.web.batch_models import NewBatch
from backendai_jupyter.web.dry_run import NewSession
from backendai_jupyter.web.operation import read_body
from tests.unit.one_machine import OneMachine, Start


class TwoSpecs(KernelSpecManager):
    """Has ours of Python and of R, and one that is not ours."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        languages = {"backendai-python": "python", "backendai-r": "R", "local": "python"}
        if kernel_name not in languages:
            raise NoSuchKernel(kernel_name)
        stanza = {"provisioner_name": "backendai-provisioner", "config": {"image": "python"}}
        return KernelSpec(
            argv=[kernel_name],
            language=languages[kernel_name],
            metadata={} if kernel_name == "local" else {"kernel_provisioner": stanza},
        )


async def ours(work: Any) -> Any:
    return await work


async def put(machine: OneMachine, text: str) -> None:
    (folder,) = await machine.manager.vfolders.list(SYSTEM)
    (Path(folder.path) / "nb.ipynb").write_text(text)


def notebook(**metadata: Any) -> str:
    return json.dumps({"cells": [], "metadata": metadata, "nbformat": 4, "nbformat_minor": 5})


def body(**fields: Any) -> NewSession:
    made = {"batch": {"notebook": "data/nb.ipynb"}, **fields}
    return read_body(NewSession, json.dumps({"type": "batch", **made}).encode())


async def test_its_notebook_says_which_kernel_and_how_much_of_what(start: Start) -> None:
    machine = await start()
    wishes = {"resources": {"cpu": 1, "mem": "2g"}, "priority": 7}
    await put(machine, notebook(backendai=wishes, kernelspec={"name": "backendai-r"}))
    manager = machine.manager
    asked = body(backendai={"resources": {"mem": "4g"}})
    request, _ = await asked_for(asked, manager, manager.viewer, TwoSpecs(), ours)
    options = merge(request.layers)
    assert options.resources == Slots.parse({"cpu": 1, "mem": "4g"})
    assert options.priority == 7
    assert (request.kernelspec, request.argv) == ("backendai-r", ("backendai-r",))
    assert (request.name, request.contents_path) == ("nb.ipynb", "data")


@pytest.mark.parametrize("name", ["local", "python3", ""])
async def test_a_kernel_of_another_kind_becomes_ours(start: Start, name: str) -> None:
    machine = await start()
    await put(machine, notebook(kernelspec={"name": name}))
    manager = machine.manager
    request, _ = await asked_for(body(), manager, manager.viewer, TwoSpecs(), ours)
    assert request.kernelspec == "backendai-python"
    named = body(kernelspec="backendai-r", name="mine")
    request, _ = await asked_for(named, manager, manager.viewer, TwoSpecs(), ours)
    assert (request.kernelspec, request.name) == ("backendai-r", "mine")


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("no JSON", "batch.notebook"),
        ("[]", "batch.notebook"),
        ('{"cells": 1, "metadata": {}}', "batch.notebook"),
        (notebook(backendai={"resources": {"mem": "much"}}), "metadata.backendai.resources.mem"),
    ],
)
async def test_what_is_no_notebook_is_refused(start: Start, text: str, field: str) -> None:
    machine = await start()
    await put(machine, text)
    manager = machine.manager
    with pytest.raises(InvalidInput) as refused:
        await asked_for(body(), manager, manager.viewer, TwoSpecs(), ours)
    assert refused.value.field == field


def test_a_request_is_read_strictly() -> None:
    asked = body(batch={"command": ["true"], "timeout": "1h", "retries": 2})
    assert asked.type is SessionType.BATCH
    assert asked.batch_request().timeout_s == 3600
    assert NewBatch(command=["true"]).request().timeout_s is None
    for wrong, name in [({"kommand": []}, "kommand"), ({"timeout": True}, "batch: True")]:
        with pytest.raises(InvalidInput, match=name):
            body(batch=wrong).batch_request()
    with pytest.raises(InvalidInput, match="what is to be run"):
        NewSession(type=SessionType.BATCH).batch_request()
