"""Sessions depend on others; kernels say how much memory they share."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.add_column(
        "kernels", sa.Column("shm_bytes", sa.BigInteger(), nullable=False, server_default="0")
    )
    op.create_table(
        "session_dependencies",
        sa.Column("session_id", sa.String(64), nullable=False),
        sa.Column("parent_id", sa.String(64), nullable=False),
        sa.Column("met_at", sa.Double()),
        sa.PrimaryKeyConstraint("session_id", "parent_id", name="pk_session_dependencies"),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.id"], name="fk_session_dependencies_session_id"
        ),
        sa.ForeignKeyConstraint(
            ["parent_id"], ["sessions.id"], name="fk_session_dependencies_parent_id"
        ),
    )
    op.create_index("ix_session_dependencies_parent_id", "session_dependencies", ["parent_id"])


def downgrade() -> None:
    """Sessions that wait for others wait for them no longer."""
    op.drop_table("session_dependencies")
    op.drop_column("kernels", "shm_bytes")
