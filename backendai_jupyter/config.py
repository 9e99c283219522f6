"""Every setting, as traits: ``c.BackendAI...`` for managers, ``c.BackendAIAgent...`` for agents.

Both sections are read from ``jupyter_server_config.py``, also by tools that run without a
server (nbclient, papermill), so that one file configures a machine.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from jupyter_core.paths import jupyter_config_path, jupyter_data_dir
from traitlets import Bool, Dict, Enum, Float, Int, List, TraitError, Unicode, default, validate
from traitlets.config import Config, Configurable
from traitlets.config.application import Application

from backendai_jupyter.domain.progress import StartLimits
from backendai_jupyter.domain.resources import parse_size
from backendai_jupyter.errors import InvalidInput
from backendai_jupyter.storage.hosts import VFolderHost, read_hosts

MIN_JOURNAL_BYTES = 1 << 20
SECTIONS = ("BackendAI", "BackendAIAgent")
DATABASE_URL = "BackendAI.database_url"
DATABASES = ("sqlite+aiosqlite", "postgresql", "postgresql+psycopg")


class BackendAI(Configurable):
    """The manager's settings."""

    data_dir = Unicode(
        help="""Directory of the embedded database, the virtual folders and kernels' scratch
        space.  Default: ``backendai`` in the Jupyter data directory.""",
    ).tag(config=True)

    runtime_dir = Unicode(
        help="""Directory for sockets.  Its path must be short, at most 50 bytes, because the
        system limits socket paths to 107.  Default: below ``XDG_RUNTIME_DIR``, else below the
        temporary directory.""",
    ).tag(config=True)

    database_url = Unicode(
        help="""Where sessions, folders and the rest are remembered: an SQLite file, e.g.
        ``sqlite+aiosqlite:////srv/backendai.sqlite``, or PostgreSQL, e.g.
        ``postgresql://backendai@db.example/backendai?sslmode=verify-full``.  All that libpq
        knows may follow the ``?``.  The password is better in a ``passfile`` than here.
        Default: an SQLite file in ``data_dir``.""",
    ).tag(config=True)

    vfolder_hosts = Dict(
        Unicode(),
        help="""Where virtual folders are: mount points by name, e.g.
        ``{"local": "/mnt/vfroot/local", "nfs": "/mnt/vfroot/nfs"}``.  Each is the same storage
        at the same path on every node.  Default: ``vfolders`` in ``data_dir``, as ``local``.""",
    ).tag(config=True)

    default_vfolder_host = Unicode(
        help="""Name of the host that a new folder goes to.  Default: the first one of
        ``vfolder_hosts``.""",
    ).tag(config=True)

    full_pass_s = Float(
        2.0,
        help="""Seconds between full passes of the scheduler, reconciler and observer.

        Hints normally wake them within milliseconds; this bounds the delay when one is lost,
        or when another process on this machine made the change.  Smaller reacts sooner and
        costs a few queries per pass.""",
    ).tag(config=True)

    restart_grace_s = Float(
        15.0,
        help="""Seconds that a kernel whose program ended keeps its place, so that its owner
        (JupyterLab does it by itself within 3 seconds) can start it again.  Larger holds the
        slots of dead kernels longer.""",
    ).tag(config=True)

    # All time-outs that a user can meet are the three that follow, and of the agent
    # ``answer_timeout_s`` and ``engine_timeout_s``.

    start_timeouts = Dict(
        help="""Seconds that a start may stay in one status, by its name, e.g.
        ``{"PENDING": 600, "CREATING": 180}``; 0 is as long as it takes.  A start that takes
        longer is given up, and its error and its history name the status and the step.

        What is not given stays as it is: ``PENDING`` (waiting for room) 0, ``SCHEDULED``
        (waiting for the agent) 30, ``PREPARING`` (directories, channels) 60, ``PULLING`` 600,
        ``CREATING`` (making the container, and its first answer) 90, ``RESTARTING`` (all of a
        restart in place) 120.  Where ``BackendAIAgent.answer_timeout_s`` is raised,
        ``CREATING`` and ``RESTARTING`` must be too.""",
    ).tag(config=True)

    start_timeout_s = Float(
        0.0,
        help="""Seconds after which a start that is not finished is given up, in whichever status
        it is, waiting for room included.  0 leaves it to ``start_timeouts``.""",
    ).tag(config=True)

    end_timeout_s = Float(
        20.0,
        help="""Seconds that a shutdown waits until nothing of its kernel is left.  What takes
        longer is ended in the background.""",
    ).tag(config=True)

    end_kernels_with_server = Bool(
        False,
        help="""Whether kernels end with their Jupyter Server.  By default they go on, with their
        variables, when it stops or dies, and the next one with the same ``data_dir`` has them
        again.  Kernels of batch runs (nbclient, papermill) always end with their run.""",
    ).tag(config=True)

    hide_local_kernelspecs = Bool(
        False,
        help="""Whether kernels that would run outside of any agent, as plain processes of the
        server, are hidden.""",
    ).tag(config=True)

    env_passthrough = List(
        Unicode(),
        help="""Names of variables of the server's environment that kernels receive.  Nothing
        else of it reaches them.""",
    ).tag(config=True)

    mount_working_directory = Bool(
        True,
        help="""Whether a batch run (nbclient, papermill) that starts outside of all virtual
        folders shows its working directory to the kernel, as a local kernel would see it.""",
    ).tag(config=True)

    @default("data_dir")
    def _below_jupyter_data(self) -> str:
        return str(Path(jupyter_data_dir()) / "backendai")

    @default("runtime_dir")
    def _short(self) -> str:
        base = os.environ.get("XDG_RUNTIME_DIR", "")
        if base and os.access(base, os.W_OK):
            return str(Path(base) / "backendai")
        return str(Path(tempfile.gettempdir()) / f"backendai-{os.geteuid()}")

    @default("database_url")
    def _sqlite(self) -> str:
        return f"sqlite+aiosqlite:///{Path(self.data_dir) / 'backendai.sqlite'}"

    @default("vfolder_hosts")
    def _in_data_dir(self) -> dict[str, str]:
        return {"local": str(Path(self.data_dir) / "vfolders")}

    @default("default_vfolder_host")
    def _first_host(self) -> str:
        return next(iter(self.vfolder_hosts), "")

    def hosts(self) -> dict[str, VFolderHost]:
        """Return the vfolder hosts; raises ``InvalidInput`` naming what is wrong."""
        found = read_hosts(self.vfolder_hosts, field="BackendAI.vfolder_hosts")
        if self.default_vfolder_host not in found:
            known = ", ".join(found) or "none"
            raise InvalidInput(
                "BackendAI.default_vfolder_host",
                f"there is no vfolder host {self.default_vfolder_host!r}; known are {known}",
            )
        return found

    def start_limits(self) -> StartLimits:
        """Return ``start_timeouts`` and ``start_timeout_s`` together."""
        return _read_limits(self.start_timeouts, total_s=self.start_timeout_s)

    @validate("database_url")
    def _is_of_a_known_kind(self, proposal: Any) -> str:
        scheme, separator, _ = proposal.value.partition("://")
        if not separator or scheme not in DATABASES:
            known = ", ".join(f"{name}://" for name in DATABASES)
            raise TraitError(f"{DATABASE_URL}: must begin with one of {known}")
        return str(proposal.value)

    @validate("start_timeouts")
    def _are_limits(self, proposal: Any) -> dict[str, float]:
        try:
            _read_limits(proposal.value)
        except InvalidInput as error:
            raise TraitError(str(error)) from None
        return dict(proposal.value)

    @validate("runtime_dir")
    def _leaves_room_for_sockets(self, proposal: Any) -> str:
        if len(os.fsencode(proposal.value)) > 50:
            raise TraitError("BackendAI.runtime_dir must be at most 50 bytes long")
        return str(proposal.value)


class BackendAIAgent(Configurable):
    """The settings of the agent on this node."""

    vfolder_hosts = Dict(
        Unicode(),
        help="""The vfolder hosts that this node has mounted, as ``BackendAI.vfolder_hosts``.  A
        kernel that needs another one is not placed here.  Default: those of the manager, where
        both run in one process.""",
    ).tag(config=True)

    runtime = Enum(
        ["auto", "docker", "process"],
        default_value="auto",
        help="""What runs kernels.  ``docker``: containers only.  ``process``: sandboxed
        processes only.  ``auto``: a container where there is an engine with the image, else a
        sandboxed process.""",
    ).tag(config=True)

    docker_url = Unicode(
        help="""Address of the Docker engine.  Default: ``DOCKER_HOST``, else the engine's
        standard socket.""",
    ).tag(config=True)

    docker_network = Unicode(
        "bridge",
        help="""Network of containers: ``bridge``, ``none`` or the name of a Docker network.
        Channels need no network, so ``none`` gives working kernels that reach nothing.""",
    ).tag(config=True)

    relay_bind = Unicode(
        "127.0.0.1",
        help="""Address of this node on which managers reach its kernels' channels.""",
    ).tag(config=True)

    cpu_overcommit = Float(
        8.0,
        help="""How many ``cpu`` slots a processor core offers.  Notebooks idle most of the
        time; larger lets more kernels in, smaller gives each one more certainty.""",
    ).tag(config=True)

    mem_reserve = Unicode(
        "1g",
        help="""Memory of the node that is not offered to kernels, e.g. ``2g``.""",
    ).tag(config=True)

    journal_size = Unicode(
        "256m",
        help="""Disk space for the output of one kernel that nobody has read yet, at least
        ``1m``.  When it is full the oldest output goes, and a line in the output says so.""",
    ).tag(config=True)

    pids_limit = Int(
        1024,
        help="""Processes and threads that one kernel may have.""",
    ).tag(config=True)

    kernel_uid = Int(
        1000,
        help="""User and group id as which a privileged agent runs kernels; never 0.  An
        unprivileged agent runs them as itself.""",
    ).tag(config=True)

    answer_timeout_s = Float(
        60.0,
        help="""Seconds that a started kernel program may take until its first answer.  See
        ``BackendAI.start_timeouts`` for all of a start.""",
    ).tag(config=True)

    engine_timeout_s = Float(
        60.0,
        help="""Seconds that the Docker engine may take for one answer.  Larger bears with an
        engine under heavy load; smaller notices sooner that one hangs.""",
    ).tag(config=True)

    stop_grace_s = Float(
        2.0,
        help="""Seconds between SIGTERM and SIGKILL when a kernel is ended by force.""",
    ).tag(config=True)

    heartbeat_s = Float(
        3.0,
        help="""Seconds between reports when nothing changes.  An agent that is silent for four
        of them counts as lost.""",
    ).tag(config=True)

    def hosts(self) -> dict[str, VFolderHost]:
        """Return the vfolder hosts of this node; raises ``InvalidInput``."""
        return read_hosts(self.vfolder_hosts, field="BackendAIAgent.vfolder_hosts")

    @validate("mem_reserve", "journal_size")
    def _is_a_size(self, proposal: Any) -> str:
        name = f"BackendAIAgent.{proposal.trait.name}"
        try:
            size_bytes = parse_size(proposal.value)
        except ValueError as error:
            raise TraitError(f"{name}: {error}") from None
        if proposal.trait.name == "journal_size" and size_bytes < MIN_JOURNAL_BYTES:
            raise TraitError(f"{name}: must be at least 1m")
        return str(proposal.value)

    @validate("kernel_uid")
    def _is_not_root(self, proposal: Any) -> int:
        if proposal.value <= 0:
            raise TraitError("BackendAIAgent.kernel_uid must be above 0: kernels never run as root")
        return int(proposal.value)


def _read_limits(raw: dict[str, Any], *, total_s: float = 0) -> StartLimits:
    return StartLimits.read(raw, field="BackendAI.start_timeouts", total_s=total_s)


def load_files() -> Config:
    """Return our two sections of the Jupyter Server's config files, for use without a server."""
    merged = Config()
    # JupyterApp reads its files with the same method, but only as a part of starting up.
    loaded = Application._load_config_files("jupyter_server_config", path=jupyter_config_path())
    for config, _file in loaded:
        merged.merge({name: config[name] for name in SECTIONS if name in config})
    return merged
