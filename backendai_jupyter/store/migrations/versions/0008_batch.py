"""Batch sessions: what they run, and how often it is tried again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("sessions", sa.Column("batch", sa.Text()))
    op.add_column(
        "sessions", sa.Column("retries_left", sa.Integer(), nullable=False, server_default="0")
    )


def downgrade() -> None:
    op.drop_column("sessions", "retries_left")
    op.drop_column("sessions", "batch")
