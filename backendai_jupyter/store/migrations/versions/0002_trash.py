"""Folders in the trash, read-only ones, kernels that show every new one, known hosts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_NAMES = "uq_vfolders_owner_name"


def upgrade() -> None:
    op.add_column(
        "vfolders",
        sa.Column("permission", sa.String(2), nullable=False, server_default="rw"),
    )
    op.add_column("vfolders", sa.Column("trashed_at", sa.Double()))
    op.add_column(
        "kernels",
        sa.Column("shows_all", sa.Boolean(), nullable=False, server_default=sa.false()),
    )
    op.create_table(
        "vfolder_hosts",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("marker", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_vfolder_hosts"),
    )
    op.drop_index(_NAMES, "vfolders")
    _create_index("status = 'ready'")


def downgrade() -> None:
    """Folders in the trash are forgotten; their directories stay."""
    op.execute("DELETE FROM vfolders WHERE status <> 'ready'")
    op.drop_index(_NAMES, "vfolders")
    _create_index("status <> 'deleted'")
    op.drop_table("vfolder_hosts")
    op.drop_column("kernels", "shows_all")
    op.drop_column("vfolders", "trashed_at")
    op.drop_column("vfolders", "permission")


def _create_index(where: str) -> None:
    op.create_index(
        _NAMES,
        "vfolders",
        ["owner", "name"],
        unique=True,
        sqlite_where=sa.text(where),
        postgresql_where=sa.text(where),
    )
