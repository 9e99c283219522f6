"""The operator's view, through its front doors: the REST API and ``jupyter backendai``."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import jsonschema  # type: ignore[import-untyped]
import pytest
import pytest_asyncio

from tests.engine import PrivateEngine
from tests.helpers import eventually
from tests.server import RunningServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

API = "backendai/v1"
JUPYTER = Path(sys.executable).parent / "jupyter"
CONFIG = "c.BackendAIAgent.runtime = 'process'\n"
SHORT = 8  # of an id, as tables show it


@dataclass(frozen=True, slots=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


async def jupyter_backendai(*words: str, env: Mapping[str, str]) -> Done:
    process = await asyncio.create_subprocess_exec(
        str(JUPYTER),
        "backendai",
        *words,
        env=dict(env),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return Done(process.returncode or 0, out.decode(), err.decode())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[RunningServer]:
    root = Path(tempfile.mkdtemp(prefix="bj-"))
    try:
        async with RunningServer(root, config=CONFIG) as running:
            yield running
    finally:
        shutil.rmtree(root, ignore_errors=True)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def kernel_id(server: RunningServer) -> str:
    """A kernel that runs for as long as the module's tests do."""
    return await start_kernel(server)


@pytest.fixture
def beside(server: RunningServer) -> dict[str, str]:
    """An environment that shares the server's database and does not find the server."""
    return {**server.env, "JUPYTER_RUNTIME_DIR": str(server.root / "elsewhere")}


async def start_kernel(server: RunningServer) -> str:
    wanted = {"name": "backendai-python", "backendai": {"resources": {"mem": "512m"}}}
    answer = await server.post("api/kernels", json=wanted)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def ended(server: RunningServer, session_id: str) -> dict[str, Any]:
    """Wait for the end of a session and return what the API then says of it."""

    async def probe() -> dict[str, Any] | None:
        found: dict[str, Any] = (await server.get(f"{API}/sessions/{session_id}")).json()
        return found if found["ended_at"] is not None else None

    return await eventually(probe) or {}


async def test_every_answer_is_as_the_document_describes_it(
    server: RunningServer, kernel_id: str
) -> None:
    document = (await server.get(f"{API}/openapi.json")).json()
    agent_id = (await server.get(f"{API}/agents")).json()[0]["id"]
    checked = 0
    for path, item in document["paths"].items():
        described = item.get("get", {}).get("responses", {}).get("200", {}).get("content", {})
        if "application/json" not in described:  # a file is what it is
            continue
        names = {"session_id": kernel_id, "ref": "data", "agent_id": agent_id}
        offered = {parameter["name"] for parameter in item["get"]["parameters"]}
        asked = {name: "true" for name in ("statistics", "usage") if name in offered}
        answer = await server.get(address_of(path, **names), params=asked)
        assert answer.status_code == 200, path
        assert answer.headers["content-type"].startswith("application/json")
        validate(answer.json(), described["application/json"]["schema"], document)
        checked += 1
    assert checked >= 13


async def test_every_failure_is_as_the_document_describes_it(server: RunningServer) -> None:
    document = (await server.get(f"{API}/openapi.json")).json()
    for path, item in document["paths"].items():
        for method, operation in item.items():
            answer = await server.request(method.upper(), f"{address_of(path)}?nonsense=1")
            if method == "head":  # which is answered without a body
                assert answer.status_code == 400
                continue
            described = operation["responses"]["default"]["content"]["application/json"]["schema"]
            validate(answer.json(), described, document)
            assert (answer.status_code, answer.json()["field"]) == (400, "nonsense")


async def test_no_route_answers_a_stranger(server: RunningServer, kernel_id: str) -> None:
    document = (await server.get(f"{API}/openapi.json")).json()
    # A server may close the connection of a stranger, whose next request would meet its end.
    alone = {"Connection": "close"}
    async with httpx.AsyncClient(base_url=server.url, headers=alone, trust_env=False) as stranger:
        for path, item in document["paths"].items():
            for method in item:
                where = address_of(path, session_id=kernel_id, ref="data")
                answer = await stranger.request(method.upper(), where)
                assert answer.status_code == 403, (method, path)
    assert (await server.get(f"{API}/sessions/{kernel_id}")).json()["status"] == "RUNNING"


async def test_what_a_client_of_jupyterlab_appends_to_an_address_is_let_through(
    server: RunningServer,
) -> None:
    assert (await server.get(f"{API}/me?1795473760195")).status_code == 200
    assert (await server.get(f"{API}/me?token={server.token}")).status_code == 200


async def test_a_running_kernel_is_shown_with_what_it_has(
    server: RunningServer, kernel_id: str
) -> None:
    session = (await server.get(f"{API}/sessions/{kernel_id}")).json()
    [kernel] = session["kernels"]
    assert (session["status"], session["kernelspec"]) == ("RUNNING", "backendai-python")
    assert kernel["slots"] == {"cpu": "1", "mem": str(512 * 1024**2)}
    assert kernel["exit"] is None
    assert abs(session["created_at"] - time.time()) < 120
    steps = [step["after"] for step in session["history"]]
    assert steps[0] == "PENDING"
    assert steps[-1] == "RUNNING"
    agents = {agent["id"]: agent for agent in (await server.get(f"{API}/agents")).json()}
    agent = agents[kernel["agent_id"]]
    assert agent["status"] == "alive"
    assert int(agent["used"]["mem"]) >= 512 * 1024**2


async def test_sessions_are_filtered_by_status_and_number(
    server: RunningServer, kernel_id: str
) -> None:
    async def ids(query: str) -> list[str]:
        return [one["id"] for one in (await server.get(f"{API}/sessions?{query}")).json()]

    assert kernel_id in await ids("status=RUNNING&status=PENDING")
    assert kernel_id not in await ids("status=PENDING")
    newest = await start_kernel(server)
    assert await ids("limit=1") == [newest]
    assert (await server.delete(f"api/kernels/{newest}")).status_code == 204


async def test_a_session_is_ended_through_the_api(server: RunningServer) -> None:
    session_id = await start_kernel(server)
    for _ in range(2):  # ending an ended one succeeds
        answer = await server.delete(f"{API}/sessions/{session_id}")
        assert (answer.status_code, answer.content) == (204, b"")
        session = await ended(server, session_id)
        said = (session["status"], session["status_reason"])
        assert said == ("TERMINATED", "Its owner asked for its end.")


async def test_commands_ask_the_running_server(server: RunningServer, kernel_id: str) -> None:
    listed = await jupyter_backendai("session", "ls", "--json", env=server.env)
    assert lasting(listed.json) == (await server.get(f"{API}/sessions?status=RUNNING")).json()
    agents = await jupyter_backendai("agent", "ls", "--json", env=server.env)
    assert lasting(agents.json) == (await server.get(f"{API}/agents")).json()
    images = await jupyter_backendai("image", "ls", "--json", env=server.env)
    assert images.json == (await server.get(f"{API}/images")).json()
    shown = await jupyter_backendai("session", "show", kernel_id[:SHORT], "--json", env=server.env)
    assert lasting(shown.json) == (await server.get(f"{API}/sessions/{kernel_id}")).json()
    logs = await jupyter_backendai("session", "logs", kernel_id[:SHORT], "--json", env=server.env)
    assert logs.json == (await server.get(f"{API}/sessions/{kernel_id}/logs")).json()


def lasting(answer: Any) -> Any:
    """Return the same without statistics, for which commands always ask."""
    if isinstance(answer, list):
        return [lasting(one) for one in answer]
    if not isinstance(answer, dict):
        return answer
    unasked = {"statistics": None, "statistics_reason": ""}
    return {name: unasked[name] if name in unasked else lasting(answer[name]) for name in answer}


async def test_tables_are_for_people(server: RunningServer, kernel_id: str) -> None:
    listed = await jupyter_backendai("session", "ls", env=server.env)
    [row] = [line for line in listed.out.splitlines() if line.startswith(kernel_id[:SHORT])]
    assert "RUNNING" in row
    assert "cpu 1, mem 512 MiB" in row
    shown = await jupyter_backendai("session", "show", kernel_id[:SHORT], env=server.env)
    assert "placed on" in shown.out
    agents = await jupyter_backendai("agent", "ls", env=server.env)
    assert "alive" in agents.out
    assert "512 MiB of " in agents.out


async def test_commands_without_a_server_see_other_processes_sessions(
    server: RunningServer, kernel_id: str, beside: dict[str, str]
) -> None:
    listed = await jupyter_backendai("session", "ls", "--json", env=beside)
    assert lasting(listed.json) == (await server.get(f"{API}/sessions?status=RUNNING")).json()
    logs = await jupyter_backendai("session", "logs", kernel_id[:SHORT], "--json", env=beside)
    assert logs.json["log"] == (await server.get(f"{API}/sessions/{kernel_id}/logs")).json()["log"]
    agents = await jupyter_backendai("agent", "ls", "--json", env=beside)
    [agent] = agents.json
    assert (agent["status"], agent["used"]["mem"]) == ("alive", str(512 * 1024**2))
    images = await jupyter_backendai("image", "ls", "--json", env=beside)
    assert "python" in [image["name"] for image in images.json]


async def test_a_command_without_a_server_ends_another_processes_session(
    server: RunningServer, beside: dict[str, str]
) -> None:
    session_id = await start_kernel(server)
    done = await jupyter_backendai("session", "terminate", session_id[:SHORT], env=beside)
    assert (done.code, done.out) == (0, f"{session_id} is TERMINATING.\n")
    assert (await ended(server, session_id))["status"] == "TERMINATED"


async def test_a_mistyped_id_ends_nothing(server: RunningServer, kernel_id: str) -> None:
    done = await jupyter_backendai("session", "terminate", kernel_id, "nobody", env=server.env)
    assert (done.code, done.out) == (1, "")
    assert done.err == "jupyter backendai: There is no session nobody.\n"
    assert (await server.get(f"{API}/sessions/{kernel_id}")).json()["status"] == "RUNNING"


async def test_an_image_is_not_built_without_an_engine(
    server: RunningServer, tmp_path: Path
) -> None:
    env = {**server.env, "DOCKER_HOST": f"unix://{tmp_path}/nothing.sock"}
    done = await jupyter_backendai("image", "build", "python", env=env)
    assert done.code == 1
    assert "cannot be reached" in done.err
    assert "Traceback" not in done.err


async def test_an_image_is_built_from_the_folder_of_its_kernelspec(
    server: RunningServer, engine: PrivateEngine
) -> None:
    folder = server.root / "data" / "kernels" / "backendai-tiny"
    write_kernelspec(folder, "tiny")
    env = {**server.env, "DOCKER_HOST": engine.url}
    words = ("image", "build", "tiny", "--base-image", "backendai-python:latest")
    try:
        done = await jupyter_backendai(*words, "--build-arg", "WORD=a=b", env=env)
        assert done.code == 0, done.err
        assert "a word: a=b" in done.out
        assert "backendai-tiny:latest is ready" in done.out
        assert "--kernel_name=backendai-tiny" in done.out
        again = await jupyter_backendai(*words, "--tag", "tiny:2", "--json", env=env)
        assert (again.json["name"], again.json["reference"]) == ("tiny", "tiny:2")
        assert "Step 1/" in again.err
        listed = await jupyter_backendai("image", "ls", env=without_server(env))
        assert any(line.startswith("tiny ") for line in listed.out.splitlines()), listed.out
        (folder / "Dockerfile").write_text("FROM backendai-python:latest\nRUN echo why; exit 3\n")
        broken = await jupyter_backendai("image", "build", "tiny", env=env)
        assert broken.code == 1
        assert "why" in broken.err
    finally:
        remove_images(engine, "backendai-tiny:latest", "tiny:2")
        shutil.rmtree(folder)


async def test_the_doctor_finds_a_working_machine(server: RunningServer, kernel_id: str) -> None:
    done = await jupyter_backendai("doctor", "--json", env=server.env)
    found = {finding["check"]: finding for finding in done.json}
    assert done.code == 0, [finding for finding in done.json if finding["state"] == "fail"]
    assert found["server"]["message"] == f"one runs at {server.url}"
    assert found["remains"]["message"] == "none; 1 at work"
    assert found["secret files"]["message"] == "readable by nobody else"


async def test_the_log_of_another_processes_container_is_read(
    short_tmp_path: Path, engine: PrivateEngine
) -> None:
    config = f"c.BackendAIAgent.runtime = 'docker'\nc.BackendAIAgent.docker_url = {engine.url!r}\n"
    async with RunningServer(short_tmp_path, config=config) as server:
        session_id = await start_kernel(server)
        words = ("session", "logs", session_id[:SHORT], "--json")
        done = await jupyter_backendai(*words, env=without_server(server.env))
        assert done.json == (await server.get(f"{API}/sessions/{session_id}/logs")).json()
        assert done.json["log"] != ""


def write_kernelspec(folder: Path, name: str) -> None:
    folder.mkdir(parents=True)
    provisioner = {"provisioner_name": "backendai-provisioner", "config": {"image": name}}
    spec = {
        "argv": ["python", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": name,
        "language": "python",
        "metadata": {"kernel_provisioner": provisioner},
    }
    (folder / "kernel.json").write_text(json.dumps(spec))
    (folder / "Dockerfile").write_text(
        "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nARG WORD\nRUN echo a word: ${WORD}\n"
        f'LABEL ai.backend.kernelspec="1" ai.backend.image.name="{name}"\n'
    )


def without_server(env: Mapping[str, str]) -> dict[str, str]:
    """Return an environment that shares a server's database and does not find the server.

    Its configuration is another one too, so that the runtime is chosen as by default.
    """
    root = Path(env["JUPYTER_RUNTIME_DIR"]).parent
    changes = ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR")
    return {**env, **{name: str(root / "elsewhere") for name in changes}}


def remove_images(engine: PrivateEngine, *tags: str) -> None:
    with contextlib.closing(engine.client()) as client:
        for tag in tags:
            client.remove_image(tag, force=True)


def address_of(path: str, **names: str) -> str:
    """Return the address of a documented path, with what nobody has where no name is given."""
    return re.sub(r"\{(\w+)\}", lambda found: names.get(found[1], "nobody"), path).lstrip("/")


def validate(answer: object, schema: dict[str, Any], document: dict[str, Any]) -> None:
    """Check an answer against a schema that refers to others of the document."""
    whole = {**schema, "components": document["components"]}
    jsonschema.Draft202012Validator(whole).validate(answer)


async def test_an_answer_that_lacks_something_would_be_noticed(server: RunningServer) -> None:
    document = (await server.get(f"{API}/openapi.json")).json()
    with pytest.raises(jsonschema.ValidationError):
        validate({"id": "u"}, {"$ref": "#/components/schemas/Me"}, document)
