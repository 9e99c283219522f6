"""The first schema: people, sessions, the slots ledger, folders, three presets."""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_GIB = 1024**3
_PRESETS = {
    "small": {"cpu": "1", "mem": str(1 * _GIB)},
    "medium": {"cpu": "2", "mem": str(4 * _GIB)},
    "large": {"cpu": "4", "mem": str(8 * _GIB)},
}
_NEWEST_FIRST = (  # a table comes after those it refers to
    "vfolders",
    "kernel_history",
    "allocations",
    "agent_slots",
    "agents",
    "kernels",
    "sessions",
    "resource_presets",
    "keypairs",
    "users",
)


def upgrade() -> None:
    _people()
    _presets()
    _sessions()
    _kernels()
    _agents()
    _ledger()
    _history()
    _folders()


def downgrade() -> None:
    for table in _NEWEST_FIRST:
        op.drop_table(table)


def _people() -> None:
    op.create_table(
        "users",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_users"),
        sa.UniqueConstraint("name", name="uq_users_name"),
    )
    op.create_table(
        "keypairs",
        sa.Column("access_key", sa.String(20), nullable=False),
        sa.Column("secret_key", sa.String(64), nullable=False),
        sa.Column("user_id", sa.String(64), nullable=False),
        sa.Column("is_active", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_keypairs_user_id"),
        sa.PrimaryKeyConstraint("access_key", name="pk_keypairs"),
    )
    op.create_index("ix_keypairs_user_id", "keypairs", ["user_id"])


def _presets() -> None:
    presets = op.create_table(
        "resource_presets",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("slots", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_resource_presets"),
    )
    rows = [{"name": name, "slots": json.dumps(slots)} for name, slots in _PRESETS.items()]
    op.bulk_insert(presets, rows)


def _sessions() -> None:
    op.create_table(
        "sessions",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("cluster_id", sa.String(255), nullable=False),
        sa.Column("kernelspec", sa.String(255), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("status_reason", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Double()),
        sa.ForeignKeyConstraint(["owner"], ["users.id"], name="fk_sessions_owner"),
        sa.PrimaryKeyConstraint("id", name="pk_sessions"),
    )
    op.create_index("ix_sessions_owner_created_at", "sessions", ["owner", "created_at"])
    op.create_index("ix_sessions_cluster_id_ended_at", "sessions", ["cluster_id", "ended_at"])


def _kernels() -> None:
    op.create_table(
        "kernels",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("session_id", sa.String(64), nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("idx", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("status_reason", sa.Text(), nullable=False),
        sa.Column("status_since", sa.Double(), nullable=False),
        sa.Column("agent_id", sa.String(255)),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("signal_seq", sa.Integer(), nullable=False),
        sa.Column("signal_num", sa.Integer(), nullable=False),
        sa.Column("image", sa.String(255), nullable=False),
        sa.Column("argv", sa.Text(), nullable=False),
        sa.Column("env", sa.Text(), nullable=False),
        sa.Column("slots", sa.Text(), nullable=False),
        sa.Column("mounts", sa.Text(), nullable=False),
        sa.Column("workdir", sa.Text(), nullable=False),
        sa.Column("exit", sa.Text()),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.id"], name="fk_kernels_session_id"),
        sa.ForeignKeyConstraint(["owner"], ["users.id"], name="fk_kernels_owner"),
        sa.PrimaryKeyConstraint("id", name="pk_kernels"),
        sa.UniqueConstraint("session_id", "role", "idx", name="uq_kernels_session_id_role_idx"),
    )


def _agents() -> None:
    op.create_table(
        "agents",
        sa.Column("id", sa.String(255), nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("images", sa.Text(), nullable=False),
        sa.Column("notes", sa.Text(), nullable=False),
        sa.Column("seen_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_agents"),
    )


def _ledger() -> None:
    op.create_table(
        "agent_slots",
        sa.Column("agent_id", sa.String(255), nullable=False),
        sa.Column("slot", sa.String(64), nullable=False),
        sa.Column("capacity", sa.BigInteger(), nullable=False),
        sa.Column("reserved", sa.BigInteger(), nullable=False),
        sa.Column("used", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("reserved >= 0", name=op.f("ck_agent_slots_reserved_not_negative")),
        sa.CheckConstraint("used >= 0", name=op.f("ck_agent_slots_used_not_negative")),
        sa.ForeignKeyConstraint(["agent_id"], ["agents.id"], name="fk_agent_slots_agent_id"),
        sa.PrimaryKeyConstraint("agent_id", "slot", name="pk_agent_slots"),
    )
    op.create_table(
        "allocations",
        sa.Column("kernel_id", sa.String(64), nullable=False),
        sa.Column("slot", sa.String(64), nullable=False),
        sa.Column("requested", sa.BigInteger(), nullable=False),
        sa.Column("reserved", sa.BigInteger(), nullable=False),
        sa.Column("used", sa.BigInteger(), nullable=False),
        sa.Column("freed_at", sa.Double()),
        sa.ForeignKeyConstraint(["kernel_id"], ["kernels.id"], name="fk_allocations_kernel_id"),
        sa.PrimaryKeyConstraint("kernel_id", "slot", name="pk_allocations"),
    )


def _history() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "kernel_history",
        sa.Column("id", number, nullable=False),
        sa.Column("kernel_id", sa.String(64), nullable=False),
        sa.Column("before", sa.String(16)),
        sa.Column("after", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("by", sa.String(255), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["kernel_id"], ["kernels.id"], name="fk_kernel_history_kernel_id"),
        sa.PrimaryKeyConstraint("id", name="pk_kernel_history"),
    )
    op.create_index("ix_kernel_history_kernel_id", "kernel_history", ["kernel_id"])


def _folders() -> None:
    op.create_table(
        "vfolders",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["owner"], ["users.id"], name="fk_vfolders_owner"),
        sa.PrimaryKeyConstraint("id", name="pk_vfolders"),
    )
    op.create_index(
        "uq_vfolders_owner_name",
        "vfolders",
        ["owner", "name"],
        unique=True,
        sqlite_where=sa.text("status <> 'deleted'"),
        postgresql_where=sa.text("status <> 'deleted'"),
    )
