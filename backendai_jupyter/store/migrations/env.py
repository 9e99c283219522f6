"""What Alembic runs: all pending steps in one transaction, one process at a time."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context

from backendai_jupyter.store.engine import begin_immediately, is_sqlite
from backendai_jupyter.store.tables import metadata


def _engine() -> sa.Engine:
    url: sa.URL = context.config.attributes["url"]
    if not is_sqlite(url):
        return sa.create_engine(url, poolclass=sa.NullPool)
    engine = sa.create_engine(url.set(drivername="sqlite"), poolclass=sa.NullPool)
    begin_immediately(engine)  # the second process waits here, then finds nothing to do
    return engine


def _run() -> None:
    with _engine().connect() as conn, conn.begin():
        context.configure(
            connection=conn,
            target_metadata=metadata,
            transactional_ddl=True,
            compare_type=True,
        )
        context.run_migrations()


_run()
