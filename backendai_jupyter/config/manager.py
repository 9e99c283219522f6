"""``c.BackendAI...``: the settings of managers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jupyter_core.paths import jupyter_data_dir
from traitlets import Bool, Dict, Float, Int, List, TraitError, Unicode, default, validate
from traitlets.config import Configurable

from backendai_jupyter.config.checks import all_or_none, checked_for_sockets, short_directory
from backendai_jupyter.domain.groups import GroupPolicy, read_groups
from backendai_jupyter.domain.progress import StartLimits
from backendai_jupyter.errors import InvalidInput
from backendai_jupyter.storage.hosts import VFolderHost, read_hosts

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

    etcd_url = Unicode(
        help="""Address of etcd, e.g. ``etcd://10.0.0.5,10.0.0.6,10.0.0.7/backendai``; ``etcds``
        with TLS.  With ``redis_url``, ``database_url`` and ``cluster_secret_file`` it makes this
        server one manager of a cluster.  Default: everything is in this process.""",
    ).tag(config=True)

    redis_url = Unicode(
        help="""Address of Redis, e.g. ``redis://10.0.0.5``; ``rediss`` with TLS.""",
    ).tag(config=True)

    cluster_secret_file = Unicode(
        help="""File with the secret that all managers and agents of a cluster share, readable
        by its owner only; make it with ``openssl rand -base64 48``.""",
    ).tag(config=True)

    agent_lost_s = Float(
        60.0,
        min=1.0,
        help="""Seconds after which the kernels of an agent that is neither in etcd nor in Redis
        any more count as lost, and end; so do those of a batch run that etcd does not know any
        more.  Larger lets kernels survive a longer cut of the network; smaller gives their room
        back sooner.""",
    ).tag(config=True, shared=True)

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

    resource_groups = Dict(
        help="""How sessions that wait for a resource group are served, by its name, e.g.
        ``{"default": {"order": "drf"}, "gpu": {"strategy": "concentrated"}}``.  A group that an
        agent names need not be here, and then has the values that come first below.

        ``order``, among sessions of one priority: ``fifo``, ``lifo``, or ``drf`` (whose owner
        has the smallest share of the group).  ``strategy``: ``dispersed`` takes the emptiest
        agent, ``concentrated`` the fullest, ``roundrobin`` each in turn.  ``head_of_line``, what
        a session without room means for those behind it: with ``strict`` they wait, too; with
        ``skip`` they may pass once it was tried ``skip_after`` times (5; 0 at once), which uses
        agents better and can keep a large session waiting for ever.""",
    ).tag(config=True, shared=True)

    max_cluster_size = Int(
        16,
        min=1,
        help="""How many kernels one session may have.""",
    ).tag(config=True, shared=True)

    start_attempts = Int(
        3,
        min=1,
        help="""How often the kernels of a session are tried to be started when one of several
        cannot: each time all are taken back and go, where there is a choice, to other agents.
        A kernel that is alone is tried again only if the reason was its agent's (an image that
        cannot be fetched there, an engine that breaks) and another agent is there.
        Larger gets past more broken agents; smaller tells sooner what is wrong.""",
    ).tag(config=True, shared=True)

    full_pass_s = Float(
        2.0,
        min=0.05,
        max=600.0,
        help="""Seconds between full passes of the scheduler, reconciler and observer.

        Hints normally wake them within milliseconds; this bounds the delay when one is lost,
        or when another process on this machine made the change.  Smaller reacts sooner and
        costs a few queries per pass.""",
    ).tag(config=True, shared=True)

    restart_grace_s = Float(
        15.0,
        min=0.0,
        help="""Seconds that a kernel whose program ended keeps its place, so that its owner
        (JupyterLab does it by itself within 3 seconds) can start it again.  Larger holds the
        slots of dead kernels longer.""",
    ).tag(config=True, shared=True)

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
    ).tag(config=True, shared=True)

    start_timeout_s = Float(
        0.0,
        min=0.0,
        help="""Seconds after which a start that is not finished is given up, in whichever status
        it is, waiting for room included.  0 leaves it to ``start_timeouts``.""",
    ).tag(config=True, shared=True)

    end_timeout_s = Float(
        20.0,
        min=0.0,
        max=3600.0,
        help="""Seconds that a shutdown waits until nothing of its kernel is left.  What takes
        longer is ended in the background.""",
    ).tag(config=True, shared=True)

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
    ).tag(config=True, shared=True)

    env_passthrough = List(
        Unicode(),
        help="""Names of variables of the server's environment that kernels receive.  Nothing
        else of it reaches them.""",
    ).tag(config=True, shared=True)

    mount_working_directory = Bool(
        True,
        help="""Whether a batch run (nbclient, papermill) that starts outside of all virtual
        folders shows its working directory to the kernel, as a local kernel would see it.""",
    ).tag(config=True, shared=True)

    @default("data_dir")
    def _below_jupyter_data(self) -> str:
        return str(Path(jupyter_data_dir()) / "backendai")

    @default("runtime_dir")
    def _short(self) -> str:
        return short_directory("backendai")

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

    def groups(self) -> dict[str, GroupPolicy]:
        """Return the policies of ``resource_groups``."""
        return read_groups(self.resource_groups, field="BackendAI.resource_groups")

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

    @validate("resource_groups")
    def _are_policies(self, proposal: Any) -> dict[str, Any]:
        try:
            read_groups(proposal.value, field="BackendAI.resource_groups")
        except InvalidInput as error:
            raise TraitError(str(error)) from None
        return dict(proposal.value)

    @validate("runtime_dir")
    def _leaves_room_for_sockets(self, proposal: Any) -> str:
        return checked_for_sockets("BackendAI.runtime_dir", proposal.value)

    @property
    def in_cluster(self) -> bool:
        """Whether this is one manager of a cluster; raises ``InvalidInput`` for half of one."""
        return all_or_none(
            "BackendAI",
            {
                "etcd_url": self.etcd_url,
                "redis_url": self.redis_url,
                "cluster_secret_file": self.cluster_secret_file,
            },
        )


def _read_limits(raw: dict[str, Any], *, total_s: float = 0) -> StartLimits:
    return StartLimits.read(raw, field="BackendAI.start_timeouts", total_s=total_s)
