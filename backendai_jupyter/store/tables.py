"""The tables, as the newest migration leaves them.

Times are float seconds since the epoch, UTC.  Amounts of slots are integers in
thousandths, so that sums and comparisons in SQL are exact.  ``env``, ``argv``, ``mounts``,
``exit`` and the like are JSON in text columns that no query looks into.
"""

from __future__ import annotations

from decimal import Decimal

import sqlalchemy as sa

metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)


def to_thousandths(amount: Decimal) -> int:
    """Return the integer that stands for ``amount`` in a column; it has no finer digits."""
    return int(amount.scaleb(3))


def from_thousandths(stored: int) -> Decimal:
    return Decimal(stored).scaleb(-3)


users = sa.Table(
    "users",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("name", sa.String(255), nullable=False, unique=True),
    sa.Column("created_at", sa.Double, nullable=False),
)

keypairs = sa.Table(
    "keypairs",
    metadata,
    sa.Column("access_key", sa.String(20), primary_key=True),
    sa.Column("secret_key", sa.String(64), nullable=False),
    sa.Column("user_id", sa.ForeignKey(users.c.id), nullable=False, index=True),
    sa.Column("is_active", sa.Boolean, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
)

resource_presets = sa.Table(
    "resource_presets",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("slots", sa.Text, nullable=False),
)

sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("owner", sa.ForeignKey(users.c.id), nullable=False),
    sa.Column("name", sa.String(255), nullable=False),
    sa.Column("cluster_id", sa.String(255), nullable=False),
    sa.Column("kernelspec", sa.String(255), nullable=False),
    sa.Column("jupyter_kernel_id", sa.String(64)),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("status_reason", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("resource_group", sa.String(64), nullable=False, server_default="default"),
    sa.Column("not_before", sa.Double, nullable=False, server_default="0"),
    sa.Column("cluster_mode", sa.String(16), nullable=False, server_default="single-node"),
    sa.Column("failure_policy", sa.String(16), nullable=False, server_default="end"),
    sa.Column("startup", sa.Text, nullable=False, server_default="{}"),
    sa.Column("started_at", sa.Double),  # when all kernels were up for the first time
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),  # taken back
    sa.Column("failed_on", sa.Text, nullable=False, server_default="[]"),  # agents of these
    sa.Column("batch", sa.Text),  # empty: somebody connects to it
    sa.Column("retries_left", sa.Integer, nullable=False, server_default="0"),
    sa.Column("ended_at", sa.Double),  # set exactly while the status is final
    sa.Index(None, "owner", "created_at"),
    sa.Index(None, "cluster_id", "ended_at"),
)

# Which sessions wait for which to end well.
session_dependencies = sa.Table(
    "session_dependencies",
    metadata,
    sa.Column("session_id", sa.ForeignKey(sessions.c.id), primary_key=True),
    sa.Column("parent_id", sa.ForeignKey(sessions.c.id), primary_key=True, index=True),
    sa.Column("met_at", sa.Double),  # set once the parent has ended well
)

# Jupyter's: a notebook, or something like it, and its kernel.
jupyter_sessions = sa.Table(
    "jupyter_sessions",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("owner", sa.ForeignKey(users.c.id), nullable=False),
    sa.Column("path", sa.Text),
    sa.Column("path_digest", sa.String(64)),  # empty where another session holds the path
    sa.Column("name", sa.Text),
    sa.Column("type", sa.Text),
    sa.Column("kernel_id", sa.String(64), nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.UniqueConstraint("owner", "path_digest"),
)

kernels = sa.Table(
    "kernels",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("session_id", sa.ForeignKey(sessions.c.id), nullable=False),
    sa.Column("owner", sa.ForeignKey(users.c.id), nullable=False),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("idx", sa.Integer, nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("status_reason", sa.Text, nullable=False),
    sa.Column("status_since", sa.Double, nullable=False),
    sa.Column("agent_id", sa.String(255)),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("signal_seq", sa.Integer, nullable=False),
    sa.Column("signal_num", sa.Integer, nullable=False),
    sa.Column("image", sa.String(255), nullable=False),
    sa.Column("argv", sa.Text, nullable=False),
    sa.Column("env", sa.Text, nullable=False),
    sa.Column("slots", sa.Text, nullable=False),  # as asked for; the ledger is in allocations
    sa.Column("mounts", sa.Text, nullable=False),
    # Whether it shows all folders of its owner, those that are yet to be made included.
    sa.Column("shows_all", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("shm_bytes", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("workdir", sa.Text, nullable=False),
    sa.Column("exit", sa.Text),
    sa.UniqueConstraint("session_id", "role", "idx"),
)

kernel_history = sa.Table(
    "kernel_history",
    metadata,
    # SQLite numbers rows by itself only in a column of exactly this type.
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True),
    sa.Column("kernel_id", sa.ForeignKey(kernels.c.id), nullable=False, index=True),
    sa.Column("before", sa.String(16)),
    sa.Column("after", sa.String(16), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("by", sa.String(255), nullable=False),
    sa.Column("at", sa.Double, nullable=False),
)

agents = sa.Table(
    "agents",
    metadata,
    sa.Column("id", sa.String(255), primary_key=True),
    sa.Column("version", sa.String(64), nullable=False),
    sa.Column("images", sa.Text, nullable=False),
    sa.Column("notes", sa.Text, nullable=False),
    sa.Column("seen_at", sa.Double, nullable=False),
    sa.Column("is_drained", sa.Boolean, nullable=False, server_default=sa.false()),
)

# What an agent has and how much of it is spoken for; kept in step with allocations.
agent_slots = sa.Table(
    "agent_slots",
    metadata,
    sa.Column("agent_id", sa.ForeignKey(agents.c.id), primary_key=True),
    sa.Column("slot", sa.String(64), primary_key=True),
    sa.Column("capacity", sa.BigInteger, nullable=False),
    sa.Column("reserved", sa.BigInteger, nullable=False),
    sa.Column("used", sa.BigInteger, nullable=False),
    sa.CheckConstraint("reserved >= 0", "reserved_not_negative"),
    sa.CheckConstraint("used >= 0", "used_not_negative"),
)

# The ledger: what each kernel asked for and what it holds of its agent.
allocations = sa.Table(
    "allocations",
    metadata,
    sa.Column("kernel_id", sa.ForeignKey(kernels.c.id), primary_key=True),
    sa.Column("slot", sa.String(64), primary_key=True),
    sa.Column("requested", sa.BigInteger, nullable=False),
    sa.Column("reserved", sa.BigInteger, nullable=False),
    sa.Column("used", sa.BigInteger, nullable=False),
    sa.Column("freed_at", sa.Double),
)

# The ids in the marker files: what is mounted may be another disk, or nothing.
vfolder_hosts = sa.Table(
    "vfolder_hosts",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("marker", sa.String(64), nullable=False),
)

vfolders = sa.Table(
    "vfolders",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("owner", sa.ForeignKey(users.c.id), nullable=False),
    sa.Column("name", sa.String(255), nullable=False),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("permission", sa.String(2), nullable=False, server_default="rw"),
    sa.Column("trashed_at", sa.Double),
    # A name is free again once its folder is in the trash.
    sa.Index(
        "uq_vfolders_owner_name",
        "owner",
        "name",
        unique=True,
        sqlite_where=sa.text("status = 'ready'"),
        postgresql_where=sa.text("status = 'ready'"),
    ),
)
