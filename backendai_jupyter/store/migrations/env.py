"""What Alembic runs: all pending steps in one transaction, one process at a time."""

from __future__ import annotations

from alembic import context

from backendai_jupyter.store.engine import kind_of
from backendai_jupyter.store.tables import metadata


def _run() -> None:
    url = context.config.attributes["url"]
    with kind_of(url).migrating(url).connect() as conn, conn.begin():
        context.configure(
            connection=conn,
            target_metadata=metadata,
            transactional_ddl=True,
            compare_type=True,
        )
        context.run_migrations()


_run()
