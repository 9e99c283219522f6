"""Put the JupyterLab extension into the wheel and the sdist; npm builds it where it is not built.

An editable installation has none: `scripts/labextension.sh` links it.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NAME = "backendai-jupyter"


class LabExtension(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        source = Path(self.root) / "labextension"
        built = source / "dist"
        if not (built / "package.json").exists() and not self._build(source):
            return
        if self.target_name == "wheel":
            target = f"share/jupyter/labextensions/{NAME}"
            build_data["shared_data"] |= {
                str(built): target,
                str(source / "install.json"): f"{target}/install.json",
            }

    def _build(self, source: Path) -> bool:
        npm = shutil.which("npm")
        if npm is None:
            self.app.display_warning(
                "without Node.js 20.19 or later there is no JupyterLab extension in it"
            )
            return False
        for command in (["ci"], ["run", "build"]):
            subprocess.run([npm, *command], cwd=source, check=True)
        return True
