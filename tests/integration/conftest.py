"""Fixtures that several integration tests share."""

from __future__ import annotations

from tests.integration.docker_rig import offline_rig, rig

__all__ = ["offline_rig", "rig"]
