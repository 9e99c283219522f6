"""A Jupyter Server with the extension, through its REST API and kernel websockets."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sqlite3
import tempfile
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import pytest_asyncio
from nbformat.v4 import new_notebook

from tests.acceptance.channels import OURS, Channels, started
from tests.acceptance.conftest import RUNTIMES
from tests.engine import PrivateEngine
from tests.helpers import eventually
from tests.server import RunningServer

PROCESS = "c.BackendAIAgent.runtime = 'process'\n"


@pytest.fixture(params=RUNTIMES)
def config(request: pytest.FixtureRequest) -> str:
    """What a server's config file says to use one runtime."""
    lines = [f"c.BackendAIAgent.runtime = {request.param!r}"]
    if request.param == "docker":
        engine: PrivateEngine = request.getfixturevalue("engine")
        lines.append(f"c.BackendAIAgent.docker_url = {engine.url!r}")
    return "\n".join(lines)


@pytest.fixture
async def server(config: str, short_tmp_path: Path) -> AsyncIterator[RunningServer]:
    async with RunningServer(short_tmp_path, config=config) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plain() -> AsyncIterator[RunningServer]:
    """One server for all tests that do not depend on the runtime and leave it as it was."""
    root = Path(tempfile.mkdtemp(prefix="bj-"))
    async with RunningServer(root, config=PROCESS) as running:
        yield running
    shutil.rmtree(root, ignore_errors=True)


async def session_of(server: RunningServer, kernel_id: str) -> dict[str, Any]:
    answer = await server.get(f"backendai/v1/sessions/{kernel_id}")
    assert answer.status_code == 200, answer.text
    session: dict[str, Any] = answer.json()
    return session


def held_slots(server: RunningServer) -> int:
    with sqlite3.connect(server.root / "data" / "backendai" / "backendai.sqlite") as db:
        (count,) = db.execute("SELECT count(*) FROM allocations WHERE freed_at IS NULL").fetchone()
    return int(count)


def processes_of(server: RunningServer) -> list[str]:
    """Return the command lines of all processes, besides the server, that it has caused."""
    root = str(server.root)
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if root in line and process.info["pid"] != server.pid:
            found.append(line[:200])
    return found


def remains(server: RunningServer) -> list[str]:
    data = server.root / "data" / "backendai"
    places = [data / "instances", data / "scratch", server.root / "runtime" / "backendai"]
    files = [str(path) for place in places if place.exists() for path in place.iterdir()]
    return [*files, *processes_of(server), *(["held slots"] * held_slots(server))]


async def test_a_notebook_runs_where_it_lies(server: RunningServer) -> None:
    body = {
        "path": "data/nb.ipynb",
        "name": "nb.ipynb",
        "type": "notebook",
        "kernel": {"name": OURS},
        "backendai": {"resources": {"mem": "512m"}, "env": {"COLOUR": "blue"}},
    }
    answer = await server.post("api/sessions", json=body)
    assert answer.status_code == 201, answer.text
    kernel_id = answer.json()["kernel"]["id"]
    async with Channels.open(server, kernel_id) as channels:
        code = "import os; print(os.getcwd(), os.environ['COLOUR'], os.environ['JPY_SESSION_NAME'])"
        assert await channels.run(code) == "/home/work/data blue /home/work/data/nb.ipynb\n"
        await channels.run("open('made-by-kernel.txt', 'w').write('x')")
        listing = (await server.get("api/contents/data")).json()["content"]
        assert "made-by-kernel.txt" in [entry["name"] for entry in listing]
        kernel = (await session_of(server, kernel_id))["kernels"][0]
        assert kernel["slots"] == {"cpu": "1", "mem": str(512 * 1024**2)}
        assert (await server.delete(f"api/kernels/{kernel_id}")).status_code == 204
        assert (await session_of(server, kernel_id))["status"] == "TERMINATED"
        assert held_slots(server) == 0


async def test_a_crashed_kernel_comes_back_and_says_what_happened(server: RunningServer) -> None:
    kernel_id = await started(server)
    async with Channels.open(server, kernel_id) as channels:
        assert await channels.run("import os; os._exit(9)") == "KernelDied"

        async def reason() -> str:
            return str((await server.get(f"api/kernels/{kernel_id}")).json().get("reason", ""))

        assert "exit code 9" in await eventually(reason)

        async def restarted() -> bool:
            kernel = (await session_of(server, kernel_id))["kernels"][0]
            return bool(kernel["status"] == "RUNNING" and kernel["generation"] == 2)

        await eventually(restarted)
        async with Channels.open(server, kernel_id) as again:
            assert await again.run("print(6 * 7)") == "42\n"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL], ids=lambda s: s.name)
async def test_the_end_of_the_server_leaves_nothing(
    server: RunningServer, signum: signal.Signals
) -> None:
    for _ in range(2):
        await started(server)
    assert remains(server)
    server.signal(signum)
    await server.wait()
    await eventually(lambda: not remains(server), within_s=20)


async def test_the_server_stops_while_a_kernel_starts(server: RunningServer) -> None:
    """Also while another one runs, and one waits for room that does not come."""
    await started(server)
    big = {"name": OURS, "backendai": {"resources": {"cpu": 10}}}
    waiting = [asyncio.ensure_future(server.post("api/kernels", json=big)) for _ in range(3)]

    async def known() -> bool:
        return len((await server.get("backendai/v1/sessions")).json()) == 4

    await eventually(known)
    server.signal(signal.SIGTERM)
    assert await server.wait() == 0
    for answer in await asyncio.gather(*waiting, return_exceptions=True):
        if isinstance(answer, httpx.Response):
            assert answer.status_code in {201, 503}
        else:
            assert isinstance(answer, httpx.TransportError)
    await eventually(lambda: not remains(server), within_s=20)


async def test_the_server_stops_while_a_page_is_loading(server: RunningServer) -> None:
    """The list of what a notebook can be exported to is made in a thread of AnyIO's."""
    before = threads_of(server.pid)
    lists = [asyncio.ensure_future(server.get("api/nbconvert")) for _ in range(4)]
    await eventually(lambda: threads_of(server.pid) > before)
    assert not any(listing.done() for listing in lists)
    server.signal(signal.SIGTERM)
    assert await server.wait() == 0
    await asyncio.gather(*lists, return_exceptions=True)


def threads_of(pid: int) -> int:
    return int(psutil.Process(pid).num_threads())


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        pytest.param("lots", "backendai", id="no object"),
        pytest.param({"memory": "1g"}, "backendai.memory", id="unknown field"),
        pytest.param({"resources": {"gpu": 1}}, "backendai.resources.gpu", id="unknown slot"),
        pytest.param({"resources": {"mem": "1x"}}, "backendai.resources.mem", id="no size"),
        pytest.param({"resources": {"mem": "1k"}}, "backendai.resources.mem", id="too little"),
        pytest.param({"preset": "huge"}, "backendai.preset", id="unknown preset"),
        pytest.param({"mounts": ["nothing"]}, "backendai.mounts", id="unknown folder"),
        pytest.param({"cluster_size": 0}, "backendai.cluster_size", id="cluster"),
        pytest.param({"resource_group": "x"}, "backendai.resource_group", id="unknown group"),
        pytest.param({"env": {"A": 1}}, "backendai.env.A", id="bad variable"),
    ],
)
@pytest.mark.parametrize("endpoint", ["kernels", "sessions"])
@pytest.mark.asyncio(loop_scope="module")
async def test_a_malformed_request_is_refused_by_field_and_changes_nothing(
    plain: RunningServer, asked: object, field: str, endpoint: str
) -> None:
    body: dict[str, Any] = {"name": OURS, "backendai": asked}
    if endpoint == "sessions":
        body = {"path": "data/x.ipynb", "type": "notebook", "kernel": {"name": OURS}}
        body["backendai"] = asked
    before = [(await plain.get(path)).json() for path in ("backendai/v1/sessions", "api/kernels")]
    answer = await plain.post(f"api/{endpoint}", json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["field"] == field
    assert field in answer.json()["message"]
    after = [(await plain.get(path)).json() for path in ("backendai/v1/sessions", "api/kernels")]
    assert [len(found) for found in after] == [len(found) for found in before]


async def test_what_can_never_fit_is_refused_by_slot_and_the_server_still_stops(
    short_tmp_path: Path,
) -> None:
    async with RunningServer(short_tmp_path, config=PROCESS) as server:
        await never_fits(server)


async def never_fits(server: RunningServer) -> None:
    kernel_id = await started(server)
    body = {"name": OURS, "backendai": {"resources": {"cpu": 5000}}}
    answer = await server.post("api/kernels", json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["slot"] == "cpu"
    assert "cpu 5000" in answer.json()["message"]
    assert [k["id"] for k in (await server.get("api/kernels")).json()] == [kernel_id]
    server.signal(signal.SIGTERM)
    assert await server.wait() == 0


@pytest.mark.asyncio(loop_scope="module")
async def test_metadata_yields_to_the_request_and_the_preset_to_both(plain: RunningServer) -> None:
    notebook = new_notebook()
    notebook.metadata["backendai"] = {
        "preset": "medium",
        "resources": {"mem": "768m"},
        "env": {"A": "metadata", "B": "metadata"},
    }
    content = {"type": "notebook", "format": "json", "content": notebook}
    assert (await plain.request("PUT", "api/contents/data/m.ipynb", json=content)).is_success
    body = {
        "path": "data/m.ipynb",
        "type": "notebook",
        "kernel": {"name": OURS},
        "backendai": {"env": {"B": "request"}},
    }
    kernel_id = (await plain.post("api/sessions", json=body)).json()["kernel"]["id"]
    kernel = (await session_of(plain, kernel_id))["kernels"][0]
    assert kernel["slots"] == {"cpu": "2", "mem": str(768 * 1024**2)}
    async with Channels.open(plain, kernel_id) as channels:
        assert await channels.run("import os; print(os.environ['A'], os.environ['B'])") == (
            "metadata request\n"
        )


@pytest.mark.asyncio(loop_scope="module")
async def test_metadata_is_read_where_jupyterlab_means_it(plain: RunningServer) -> None:
    """JupyterLab makes up the last part of a new session's path, and changes kernels by PATCH."""
    notebook = new_notebook()
    notebook.metadata["backendai"] = {"resources": {"mem": "640m"}}
    content = {"type": "notebook", "format": "json", "content": notebook}
    assert (await plain.request("PUT", "api/contents/data/lab.ipynb", json=content)).is_success
    body = {
        "path": f"data/{uuid.uuid4()}",
        "name": "lab.ipynb",
        "type": "notebook",
        "kernel": {"name": OURS},
    }
    session = (await plain.post("api/sessions", json=body)).json()
    where = f"api/sessions/{session['id']}"
    renamed = {"path": "data/lab.ipynb", "name": "lab.ipynb", "type": "notebook"}
    assert (await plain.request("PATCH", where, json=renamed)).is_success
    changed = (await plain.request("PATCH", where, json={"kernel": {"name": OURS}})).json()
    assert changed["kernel"]["id"] != session["kernel"]["id"]
    for kernel_id in (session["kernel"]["id"], changed["kernel"]["id"]):
        kernel = (await session_of(plain, kernel_id))["kernels"][0]
        assert kernel["slots"]["mem"] == str(640 * 1024**2)


@pytest.mark.asyncio(loop_scope="module")
async def test_malformed_metadata_is_refused_by_field(plain: RunningServer) -> None:
    notebook = new_notebook()
    notebook.metadata["backendai"] = {"resources": {"ram": 1}}
    content = {"type": "notebook", "format": "json", "content": notebook}
    assert (await plain.request("PUT", "api/contents/data/b.ipynb", json=content)).is_success
    body = {"path": "data/b.ipynb", "type": "notebook", "kernel": {"name": OURS}}
    answer = await plain.post("api/sessions", json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["field"] == "metadata.backendai.resources.ram"


@pytest.mark.asyncio(loop_scope="module")
async def test_a_local_kernel_works_beside_ours(plain: RunningServer) -> None:
    specs = (await plain.get("api/kernelspecs")).json()["kernelspecs"]
    assert {"python3", OURS} <= specs.keys()
    kernel_id = await started(plain, name="python3", path="data")
    async with Channels.open(plain, kernel_id) as channels:
        where = await channels.run("import os; print(os.getcwd())")
        assert where.startswith(str(plain.root / "data" / "backendai" / "vfolders"))
        refused = await plain.post("api/kernels", json={"name": "python3", "backendai": {}})
        assert refused.status_code == 400
        assert "does not run on Backend.AI" in refused.json()["message"]


async def test_local_kernels_can_be_hidden(short_tmp_path: Path) -> None:
    config = PROCESS + "c.BackendAI.hide_local_kernelspecs = True\n"
    async with RunningServer(short_tmp_path, config=config) as server:
        specs = (await server.get("api/kernelspecs")).json()
        assert list(specs["kernelspecs"]) == [OURS]
        assert specs["default"] == OURS
        refused = await server.post("api/kernels", json={"name": "python3"})
        assert not refused.is_success


async def test_only_allowed_variables_of_the_server_reach_a_kernel(short_tmp_path: Path) -> None:
    config = PROCESS + "c.BackendAI.env_passthrough = ['ALLOWED']\n"
    env = {"ALLOWED": "1", "FORBIDDEN": "2", "BACKENDAI_SECRET_KEY": "s3cret"}
    async with RunningServer(short_tmp_path, config=config, env=env) as server:
        kernel_id = await started(server)
        async with Channels.open(server, kernel_id) as channels:
            names = (await channels.run("import os; print(*sorted(os.environ))")).split()
        assert "ALLOWED" in names
        assert not {"FORBIDDEN", "BACKENDAI_SECRET_KEY", "JPY_PARENT_PID"} & set(names)


@pytest.mark.asyncio(loop_scope="module")
async def test_no_secret_is_in_a_log_a_command_line_or_an_open_file(plain: RunningServer) -> None:
    kernel_id = await started(plain)
    async with Channels.open(plain, kernel_id) as channels:
        key = (await channels.run(
            "import json; print(json.load(open('/run/backendai/connection.json'))['key'])"
        )).strip()  # fmt: skip
        assert len(key) == 64
        assert key not in plain.log
        lines = [" ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"])]
        assert not [line for line in lines if key in line]
        files = [p for p in plain.root.rglob("*") if p.is_file() and not p.is_symlink()]
        with_key = [path for path in files if contains(path, key)]
        assert with_key, "the connection file itself was not found, so nothing was looked at"
        assert not [path for path in with_key if path.stat().st_mode & 0o077]


def contains(path: Path, text: str) -> bool:
    try:
        return path.stat().st_size < 1_000_000 and text.encode() in path.read_bytes()
    except OSError:
        return False
