"""Jupyter's own suite for kernels, unmodified, through our provisioner.

History is left out: with ipykernel 7 its tests fail for a plain local kernel just the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jupyter_kernel_test
import pytest

from tests.acceptance.conftest import RUNTIMES
from tests.engine import PrivateEngine


@pytest.fixture(scope="class", params=RUNTIMES)
def runtime(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Settings in a file, as the suite starts its kernels by name alone."""
    yield from settings_for(request.param, request, tmp_path_factory)


@pytest.fixture(scope="class")
def docker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    yield from settings_for("docker", request, tmp_path_factory)


def settings_for(
    runtime: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    home = tmp_path_factory.mktemp("suite")
    lines = [f"c = get_config()  # noqa\nc.BackendAIAgent.runtime = {runtime!r}"]
    if runtime == "docker":
        engine: PrivateEngine = request.getfixturevalue("engine")
        lines.append(f"c.BackendAIAgent.docker_url = {engine.url!r}")
    (home / "config").mkdir()
    (home / "config" / "jupyter_server_config.py").write_text("\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_CONFIG_DIR", str(home / "config"))
        patch.setenv("JUPYTER_DATA_DIR", str(home / "data"))
        patch.setenv("JUPYTER_RUNTIME_DIR", str(home / "runtime"))
        yield runtime


@pytest.fixture(autouse=True)
def _own_home() -> Path | None:
    """Replaced: the kernel of a class outlives its tests, so its directories must as well."""
    return None


@pytest.mark.usefixtures("runtime")
class TestPython(jupyter_kernel_test.KernelTests):  # type: ignore[misc]
    kernel_name = "backendai-python"
    language_name = "python"
    file_extension = ".py"
    code_hello_world = "print('hello, world')"
    code_stderr = "import sys; print('test', file=sys.stderr)"
    code_page_something = "zip?"
    code_generate_error = "1/0"
    code_inspect_sample = "zip"
    code_clear_output = "from IPython.display import clear_output; clear_output()"
    completion_samples: Any = ({"text": "zi", "matches": {"zip"}},)
    complete_code_samples = ("1", "print('hello, world')", "def f(x):\n  return x*2\n\n\n")
    incomplete_code_samples = ("print('''hello", "def f(x):\n  x*2")
    invalid_code_samples = ("import = 7q",)
    code_execute_result: Any = ({"code": "1+2+3", "result": "6"},)
    code_display_data: Any = (
        {
            "code": "from IPython.display import HTML, display; display(HTML('<b>t</b>'))",
            "mime": "text/html",
        },
        {
            "code": "from IPython.display import Math, display; display(Math('x'))",
            "mime": "text/latex",
        },
    )


@pytest.mark.docker
@pytest.mark.usefixtures("docker")
class TestR(jupyter_kernel_test.KernelTests):  # type: ignore[misc]
    kernel_name = "backendai-r"
    language_name = "R"
    file_extension = ".r"
    code_hello_world = 'print("hello, world")'
    code_stderr = 'cat("test", file = stderr())'
    code_generate_error = "stop('on purpose')"
    completion_samples: Any = ({"text": "zi", "matches": {"zip"}},)
    complete_code_samples = ("1", 'print("hello, world")', "f <- function (x) {\n  x*2\n}")
    incomplete_code_samples = ('print("hello', "f <- function (x) {\n  x*2")
    code_execute_result: Any = ({"code": "1+2+3", "result": ["[1] 6"]},)
    code_display_data: Any = ({"code": "IRdisplay::display_html('<b>t</b>')", "mime": "text/html"},)
