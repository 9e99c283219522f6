"""The wheel built from this tree works in an empty environment without a further step."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from backendai_jupyter import __version__
from tests.helpers import eventually
from tests.server import RunningServer

TREE = Path(__file__).parents[2]
CONFIG = "c.BackendAIAgent.runtime = 'process'\n"
LAB_EXTENSION = rf"backendai-jupyter v{__version__}.*enabled.*OK.*\(python, backendai_jupyter\)"


@pytest.mark.timeout(900)
async def test_the_wheel_installs_enabled_and_runs_a_kernel(
    tmp_path: Path, short_tmp_path: Path
) -> None:
    run(sys.executable, "-m", "build", "--outdir", str(tmp_path / "dist"), str(TREE))
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    home = tmp_path / "venv"
    venv.create(home, with_pip=True)
    python = str(home / "bin" / "python")
    run(python, "-m", "pip", "install", "--quiet", str(wheel))
    jupyter = str(home / "bin" / "jupyter")
    extensions = run("sh", "-c", f"{jupyter} labextension list 2>&1")
    assert re.search(LAB_EXTENSION, extensions), extensions
    async with RunningServer(short_tmp_path, config=CONFIG, python=python, enable=None) as server:
        assert (await server.get("backendai/v1/me")).status_code == 200
        answer = await server.post("api/kernels", json={"name": "backendai-python"})
        assert answer.status_code == 201, answer.text

        async def running() -> bool:
            found = (await server.get("backendai/v1/sessions")).json()
            return [session["status"] for session in found] == ["RUNNING"]

        await eventually(running)
        listed = run(jupyter, "backendai", "session", "ls", "--json", env=server.env)
        assert answer.json()["id"] in listed


def run(*command: str, env: dict[str, str] | None = None) -> str:
    """Run a command away from the tree, whose packages it must not find."""
    clean = {k: v for k, v in (env or os.environ).items() if k != "PYTHONPATH"}
    done = subprocess.run(command, cwd="/", env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
