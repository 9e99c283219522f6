"""Sessions wait for a resource group, perhaps until a time."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    group = sa.Column(
        "resource_group", sa.String(length=64), nullable=False, server_default="default"
    )
    op.add_column("sessions", group)
    op.add_column(
        "sessions", sa.Column("not_before", sa.Double(), nullable=False, server_default="0")
    )


def downgrade() -> None:
    op.drop_column("sessions", "not_before")
    op.drop_column("sessions", "resource_group")
