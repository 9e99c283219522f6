"""Resource presets: named bundles of slots; migrations bring the first three."""

from __future__ import annotations

import sqlalchemy as sa

from backendai_jupyter.domain.records import Preset
from backendai_jupyter.errors import NotFound
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.rows import to_slots
from backendai_jupyter.store.tables import resource_presets


class PresetStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(self) -> tuple[Preset, ...]:
        """Return all presets, by name."""
        query = sa.select(resource_presets).order_by(resource_presets.c.name)
        async with self._database.read() as conn:
            rows = await conn.execute(query)
            return tuple(Preset(row.name, to_slots(row.slots)) for row in rows)

    async def get(self, name: str) -> Preset:
        presets = {preset.name: preset for preset in await self.list()}
        if name not in presets:
            known = ", ".join(presets) or "none"
            raise NotFound(f"There is no resource preset {name!r}; known are {known}.")
        return presets[name]
