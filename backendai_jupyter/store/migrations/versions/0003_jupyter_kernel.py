"""Sessions say under which id Jupyter knows them, so that a server finds its kernels again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("sessions", sa.Column("jupyter_kernel_id", sa.String(64)))


def downgrade() -> None:
    op.drop_column("sessions", "jupyter_kernel_id")
