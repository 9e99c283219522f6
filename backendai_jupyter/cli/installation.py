"""Checks of what is installed: versions, the extension, kernelspecs."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from contextlib import suppress

import zmq
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_core.paths import jupyter_config_path
from jupyter_server.extension.config import ExtensionConfigManager

from backendai_jupyter.cli.findings import KERNELSPEC_PREFIX, Found, Settings, State
from backendai_jupyter.cli.server import find_server

NEEDED = {"jupyter_server": (2, 21), "jupyter_client": (8, 10), "jupyterlab": (4, 6)}
PYTHON = (3, 11)
EXTENSION = "backendai_jupyter"
PROVISIONER = "backendai-provisioner"


def python(_: Settings) -> Found:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < PYTHON:
        wanted = ".".join(map(str, PYTHON))
        return Found(State.FAIL, f"Python {version}", f"Use Python {wanted} or newer.")
    if not zmq.has("curve"):
        advice = "Install the pyzmq wheel from PyPI instead."
        return Found(State.FAIL, "This pyzmq was built without CurveZMQ.", advice)
    return Found(State.OK, f"Python {version}, pyzmq {zmq.__version__}")


def packages(_: Settings) -> Found:
    versions = {name: _version(name) for name in NEEDED}
    old = [n for n, version in versions.items() if _numbers(version) < NEEDED[n]]
    message = ", ".join(f"{name} {version or 'missing'}" for name, version in versions.items())
    if not old:
        return Found(State.OK, message)
    wanted = " ".join(f"'{n}>={'.'.join(map(str, NEEDED[n]))}'" for n in old)
    return Found(State.FAIL, message, f"pip install --upgrade {wanted}")


def extension(_: Settings) -> Found:
    manager = ExtensionConfigManager(read_config_path=jupyter_config_path())
    enabled = manager.get_jpserver_extensions()
    if enabled.get(EXTENSION):
        return Found(State.OK, "enabled")
    advice = f"jupyter server extension enable {EXTENSION}"
    return Found(State.FAIL, "Jupyter Servers do not load the extension.", advice)


async def server(_: Settings) -> Found:
    found = await find_server()
    return Found(State.OK, "none runs" if found is None else f"one runs at {found.url}")


def kernelspecs(_: Settings) -> Found:
    ours = sorted(name.removeprefix(KERNELSPEC_PREFIX) for name in our_kernelspecs())
    if "python" not in ours:
        message = f"There is no kernelspec {KERNELSPEC_PREFIX}python."
        return Found(State.FAIL, message, "pip install --force-reinstall backendai_jupyter")
    points = importlib.metadata.entry_points(group="jupyter_client.kernel_provisioners")
    if PROVISIONER not in points.names:
        message = f"The kernel provisioner {PROVISIONER} is not installed."
        return Found(State.FAIL, message, "pip install --force-reinstall backendai_jupyter")
    return Found(State.OK, ", ".join(ours))


def our_kernelspecs() -> list[str]:
    found = KernelSpecManager().find_kernel_specs()
    return [name for name in found if name.startswith(KERNELSPEC_PREFIX)]


def _version(package: str) -> str:
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])
