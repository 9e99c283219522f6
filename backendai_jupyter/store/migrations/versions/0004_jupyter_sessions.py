"""Jupyter's own sessions, which had a file of each server before."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "jupyter_sessions",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("path", sa.Text()),
        sa.Column("path_digest", sa.String(64)),
        sa.Column("name", sa.Text()),
        sa.Column("type", sa.Text()),
        sa.Column("kernel_id", sa.String(64), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_jupyter_sessions"),
        sa.ForeignKeyConstraint(["owner"], ["users.id"], name="fk_jupyter_sessions_owner"),
        sa.UniqueConstraint("owner", "path_digest", name="uq_jupyter_sessions_owner_path_digest"),
    )


def downgrade() -> None:
    """Notebooks must be given their kernels again."""
    op.drop_table("jupyter_sessions")
