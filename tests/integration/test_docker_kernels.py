"""Real Jupyter kernels in containers, spoken to over their ipc sockets without a relay."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import zmq
import zmq.asyncio
from jupyter_client.session import Session

from backendai_jupyter.agent import kernel_delivery, kernel_members, kernel_output, kernel_reply
from backendai_jupyter.agent.runtime.base import RUN_DIR, ContainerSpec
from tests.engine_materials import KERNELSPECS
from tests.integration.docker_rig import UID, DockerRig

KEY = "0123456789abcdef"
CONNECTION = {
    "transport": "ipc",
    "ip": f"{RUN_DIR}/s",
    **{f"{name}_port": n for n, name in enumerate(("shell", "iopub", "stdin", "control", "hb"), 1)},
    "key": KEY,
    "signature_scheme": "hmac-sha256",
}


def kernel_spec(rig: DockerRig, folder: str) -> ContainerSpec:
    """Return the spec of a kernel that a kernelspec of ours describes."""
    content = json.loads((KERNELSPECS / folder / "kernel.json").read_text())
    argv = tuple(
        word.replace("{connection_file}", f"{RUN_DIR}/connection.json").replace(
            "{kernel_output}", f"{RUN_DIR}/kernel_output.py"
        )
        for word in content["argv"]
    )
    spec = rig.spec("", image=rig.images[folder], argv=argv, memory_mib=512)
    path = spec.run_dir / "connection.json"
    path.write_text(json.dumps(CONNECTION))
    os.chown(path, UID, UID)
    for module in (kernel_output, kernel_delivery, kernel_members, kernel_reply):
        source = Path(str(module.__file__))
        (spec.run_dir / source.name).write_text(source.read_text())
    return spec


async def kernel_info(spec: ContainerSpec) -> dict[str, str]:
    """Ask the kernel who it is, as soon as it listens, and return its answer."""
    session = Session(key=KEY.encode())
    with zmq.asyncio.Context() as context, context.socket(zmq.DEALER) as shell:
        shell.setsockopt(zmq.LINGER, 0)
        shell.setsockopt(zmq.RECONNECT_IVL, 5)
        shell.setsockopt(zmq.RCVTIMEO, 30_000)
        shell.connect(f"ipc://{spec.run_dir}/s-1")
        await shell.send_multipart(session.serialize(session.msg("kernel_info_request")))
        _, parts = session.feed_identities(await shell.recv_multipart())
        content: dict[str, str] = session.deserialize(parts)["content"]
        return content


@pytest.mark.parametrize("folder", ["python", "r"])
async def test_a_kernel_answers_over_its_sockets(
    rig: DockerRig, folder: str, record_property: Callable[[str, object], None]
) -> None:
    spec = kernel_spec(rig, folder)
    began = time.perf_counter()
    await rig.runtime.start(spec)
    record_property("started_s", time.perf_counter() - began)
    answer = await kernel_info(spec)
    record_property("answered_s", time.perf_counter() - began)
    assert answer["implementation"] == {"python": "ipython", "r": "IRkernel"}[folder]
    began = time.perf_counter()
    await rig.runtime.stop(spec.kernel_id, grace_s=20)
    assert time.perf_counter() - began < 15, "the kernel ignored SIGTERM"


async def test_a_kernel_needs_no_network_for_its_channels(offline_rig: DockerRig) -> None:
    spec = kernel_spec(offline_rig, "python")
    await offline_rig.runtime.start(spec)
    assert (await kernel_info(spec))["status"] == "ok"
