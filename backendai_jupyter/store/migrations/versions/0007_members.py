"""Sessions have several kernels, which start together or not at all."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_COLUMNS = ("cluster_mode", "failure_policy", "startup", "started_at", "attempts", "failed_on")


def upgrade() -> None:
    mode = sa.Column("cluster_mode", sa.String(16), nullable=False, server_default="single-node")
    policy = sa.Column("failure_policy", sa.String(16), nullable=False, server_default="end")
    attempts = sa.Column("attempts", sa.Integer(), nullable=False, server_default="0")
    op.add_column("sessions", mode)
    op.add_column("sessions", policy)
    op.add_column("sessions", sa.Column("startup", sa.Text(), nullable=False, server_default="{}"))
    op.add_column("sessions", sa.Column("started_at", sa.Double()))
    op.add_column("sessions", attempts)
    op.add_column(
        "sessions", sa.Column("failed_on", sa.Text(), nullable=False, server_default="[]")
    )


def downgrade() -> None:
    for column in reversed(_COLUMNS):
        op.drop_column("sessions", column)
