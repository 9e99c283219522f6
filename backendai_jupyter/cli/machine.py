"""Checks of this machine: files, database, relay, engine, sandbox, limits, leftovers."""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backendai_jupyter.agent.accelerators.inquiry import Inquiry
from backendai_jupyter.agent.accelerators.plugins import make_plugin
from backendai_jupyter.agent.catalogue import Catalogue
from backendai_jupyter.agent.node import measure_capacity
from backendai_jupyter.agent.relay.client import RelayClient
from backendai_jupyter.agent.runtime.bubblewrap import find_bubblewrap
from backendai_jupyter.agent.runtime.cgroups import find_cgroups
from backendai_jupyter.agent.runtime.docker_engine import connect, find_engine, read_images
from backendai_jupyter.agent.runtime.limits import limit_notes
from backendai_jupyter.cli.findings import KERNELSPEC_PREFIX, Found, Settings, State
from backendai_jupyter.cli.installation import our_kernelspecs
from backendai_jupyter.domain.resources import parse_size
from backendai_jupyter.errors import BackendError, Unavailable
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.migrate import REVISIONS, revision_of

TOOLKIT_HOOK = "nvidia-container-runtime-hook"  # where it is, the engine gives containers GPUs
MIN_MEMORY_BYTES = 2**30  # what the python kernelspec asks for


def data_dir(settings: Settings) -> Found:
    path = settings.data_dir
    if not path.exists():
        return Found(State.OK, f"{path} will be made at the first start")
    if not os.access(path, os.W_OK):
        return Found(
            State.FAIL, f"{path} is not writable.", "Set BackendAI.data_dir to one that is."
        )
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        return Found(State.FAIL, f"Others may enter {path} ({mode:04o}).", f"chmod 700 {path}")
    return Found(State.OK, str(path))


def secret_files(settings: Settings) -> Found:
    """Comes before ``database``: opening that one mends its mode."""
    names = ("*.sqlite", "*.sqlite-*", "*/facts*.json", "instances/*/facts*.json")
    files = [path for name in names for path in settings.data_dir.glob(name)]
    exposed = [str(path) for path in files if stat.S_IMODE(path.stat().st_mode) & 0o077]
    if exposed:
        advice = f"chmod 600 {' '.join(exposed)}"
        return Found(State.FAIL, f"Others may read {' and '.join(exposed)}.", advice)
    return Found(State.OK, "readable by nobody else" if files else "none yet")


async def database(settings: Settings) -> Found:
    url = settings.manager.database_url
    if await asyncio.to_thread(_is_new, url):
        return Found(State.OK, "will be made at the first start")
    opened = await Database.open(url)
    try:
        if too_old := await opened.too_old():
            return Found(State.FAIL, too_old, "Upgrade the database server.")
        async with opened.read() as connection:
            revision = await revision_of(connection)
    finally:
        await opened.close()
    if revision == REVISIONS[-1]:
        return Found(State.OK, f"schema version {revision}")
    if revision is not None and revision not in REVISIONS:
        return Found(
            State.FAIL,
            f"Schema version {revision} is newer than this program's {REVISIONS[-1]}.",
            "pip install --upgrade backendai_jupyter",
        )
    if opened.is_shared:
        return Found(
            State.FAIL,
            f"Schema version {revision or 'none'}; this program needs {REVISIONS[-1]}.",
            "jupyter backendai schema upgrade",
        )
    message = f"schema version {revision or 'none'}; the next start brings it to {REVISIONS[-1]}"
    return Found(State.WARN, message, "Make a copy of the database first if you may go back.")


def runtime_dir(settings: Settings) -> Found:
    path = settings.runtime_dir
    if not path.exists():
        return Found(State.OK, f"{path} is made when needed")
    info = path.lstat()
    if info.st_uid != os.geteuid() or info.st_mode & 0o022 or path.is_symlink():
        advice = f"Remove it, or set another runtime_dir: rm -r {path}"
        return Found(State.FAIL, f"{path} is not a directory of yours alone.", advice)
    return Found(State.OK, str(path))


async def relay(settings: Settings) -> Found:
    with _short_directory(settings) as directory:
        client = RelayClient(
            directory / "relay", bind=settings.agent.relay_bind, host=settings.agent.relay_host
        )
        try:
            await client.open()
            prefix = str(directory / "k")
            endpoint = await client.open_kernel(
                "doctor",
                prefix,
                secrets.token_hex(16),
                journal=directory / "journal",
                journal_bytes=settings.agent.journal_bytes,
            )
            await client.close_kernel("doctor")
        finally:
            await client.close(stop=True)
    return Found(State.OK, f"forwards channels at {endpoint.host}")


async def docker(settings: Settings) -> Found:
    choice, url = settings.agent.runtime, settings.agent.docker_url or None
    if choice == "process":
        return Found(State.OK, "not used: BackendAIAgent.runtime is 'process'")
    if await find_engine(url):
        return Found(State.OK, "the engine answers")
    advice = "Start it (e.g. apt-get install docker.io), or set BackendAIAgent.docker_url."
    if choice == "docker":
        return Found(State.FAIL, "No Docker Engine answers.", advice)
    return Found(
        State.WARN, "No Docker Engine answers: kernels run as sandboxed processes.", advice
    )


async def images(settings: Settings) -> Found:
    url = settings.agent.docker_url or None
    if settings.agent.runtime == "process" or not await find_engine(url):
        return Found(State.OK, "python, as a process of this machine")
    catalogue = Catalogue(settings.agent)
    await catalogue.refresh()
    if notes := catalogue.notes():
        advice = "See BackendAIAgent.registry_images and BackendAIAgent.registries."
        return Found(State.WARN, " ".join(notes), advice)
    built = await asyncio.to_thread(_image_names, url) | set(catalogue.offers)
    wanted = {
        name.removeprefix(KERNELSPEC_PREFIX) for name in await asyncio.to_thread(our_kernelspecs)
    }
    missing = sorted(wanted - built)
    if not missing:
        return Found(State.OK, ", ".join(sorted(built)))
    advice = "; ".join(f"jupyter backendai image build {name}" for name in missing)
    needed = settings.agent.runtime == "docker" and "python" in missing
    message = f"There is no image for {' and '.join(missing)}."
    return Found(State.FAIL if needed else State.WARN, message, advice)


async def sandbox(settings: Settings) -> Found:
    with _short_directory(settings) as directory:
        try:
            await asyncio.to_thread(find_bubblewrap, hidden=directory)
        except BackendError as error:
            message = f"Processes run without a sandbox, because {error}."
            return Found(State.WARN, message, "apt-get install bubblewrap")
    return Found(State.OK, "bubblewrap works")


def limits(_: Settings) -> Found:
    cgroups = find_cgroups(f"backendai-doctor-{os.getpid()}")
    cgroups.close()
    if notes := limit_notes(cgroups.enforced):
        advice = "Run as a systemd user service with Delegate=yes, or use Docker."
        return Found(State.WARN, " ".join(notes), advice)
    return Found(State.OK, f"{', '.join(sorted(cgroups.enforced))} by cgroups")


def capacity(settings: Settings) -> Found:
    agent = settings.agent
    slots = measure_capacity(
        cpu_overcommit=agent.cpu_overcommit,
        mem_reserve_bytes=parse_size(agent.mem_reserve),
    )
    if slots["mem"] < MIN_MEMORY_BYTES:
        advice = "Lower BackendAIAgent.mem_reserve, or give this machine more memory."
        return Found(State.WARN, f"Kernels can have only {slots.for_people()}.", advice)
    return Found(State.OK, slots.for_people())


async def accelerators(settings: Settings) -> Found:
    agent = settings.agent
    if agent.accelerators == "none":
        return Found(State.OK, "not used: BackendAIAgent.accelerators is 'none'")
    plugin = make_plugin(agent)
    inquiry = Inquiry(plugin.inventory, what="The driver of this machine's accelerators")
    try:
        inventory = await inquiry.answer(within_s=agent.accelerator_timeout_s)
    except Unavailable as error:
        return Found(State.WARN, f"No accelerators are offered. {error}")
    names = ", ".join(f"{one.id} ({one.name or one.kind})" for one in inventory.devices)
    if inventory.notes:
        return Found(State.WARN, " ".join((names, *inventory.notes)).strip())
    by_toolkit = any(one.by_toolkit for one in inventory.devices)
    if by_toolkit and agent.runtime != "process" and shutil.which(TOOLKIT_HOOK) is None:
        advice = "Install NVIDIA's container toolkit and restart the Docker Engine."
        return Found(State.WARN, f"{names}; but kernels in containers cannot have them.", advice)
    return Found(State.OK, names or "none")


def remains(settings: Settings) -> Found:
    locks = list((settings.data_dir / "instances").glob("*/lock"))
    dead = [path.parent for path in locks if _is_free(path)]
    if dead:
        message = f"{len(dead)} killed processes have left kernels, files or rows behind."
        return Found(
            State.WARN, message, "The next start clears them away: jupyter backendai agent ls"
        )
    server = settings.data_dir / "server" / "lock"
    if server.exists() and _is_free(server):
        return Found(State.OK, "none; kernels of a server that was stopped wait for the next one")
    at_work = len(locks) + server.exists()
    return Found(State.OK, f"none; {at_work} at work" if at_work else "none")


@contextmanager
def _short_directory(settings: Settings) -> Iterator[Path]:
    """Make a directory where the backend would make its sockets."""
    root = settings.runtime_dir
    parent = root if root.is_dir() else root.parent
    with tempfile.TemporaryDirectory(prefix="doctor-", dir=parent) as name:
        yield Path(name)


def _is_new(url: str) -> bool:
    return url.startswith("sqlite") and not Path(url.partition(":///")[2]).exists()


def _image_names(url: str | None) -> set[str]:
    client = connect(url)
    try:
        return {image.name for image in read_images(client)}
    finally:
        client.close()


def _is_free(lock: Path) -> bool:
    """Whether the process that held this lock is gone."""
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
