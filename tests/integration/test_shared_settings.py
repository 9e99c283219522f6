"""``jupyter backendai etcd`` over a real etcd: what it writes, shows, removes and refuses."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from jupyter_core.paths import jupyter_config_dir

from backendai_jupyter.cli.main import main
from tests.services import PASSWORD, PASSWORD_IN_URL, EtcdServer

CPU = "BackendAIAgent.cpu_overcommit"
Run = Callable[..., str]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path / "etcd")
    asyncio.run(server.up())
    yield server
    server.kill()


@pytest.fixture
def run(server: EtcdServer, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command with the address in the Jupyter configuration; return what it printed."""
    configuration = Path(jupyter_config_dir()) / "jupyter_server_config.py"
    configuration.parent.mkdir(parents=True)
    configuration.write_text(f"c.BackendAI.etcd_url = {server.url()!r}\n")

    def run(*words: str, code: int = 0) -> str:
        with pytest.raises(SystemExit) as caught:
            main(["etcd", *words])
        printed = capsys.readouterr()
        assert int(caught.value.code or 0) == code, printed.err
        return printed.err if code else printed.out

    return run


@pytest.fixture
def file(tmp_path: Path) -> Callable[[object], str]:
    def write(content: object) -> str:
        path = tmp_path / "settings.json"
        path.write_text(json.dumps(content))
        return str(path)

    return write


def test_what_is_put_is_shown_until_it_is_deleted(run: Run, file: Callable[[object], str]) -> None:
    said = run("put-json", file({CPU: 4, "BackendAI": {"full_pass_s": 1}}))
    assert [line.split()[:3] for line in said.splitlines()[1:]] == [
        ["global", CPU, "4"],
        ["global", "BackendAI.full_pass_s", "1"],
    ]
    run("put-json", "--scope", "node:a1", file({CPU: 2}))
    found = json.loads(run("get", "--json"))
    assert [(one["scope"], one["name"], one["value"]) for one in found] == [
        ("global", "BackendAI.full_pass_s", 1),
        ("global", CPU, 4),
        ("node:a1", CPU, 2),
    ]
    lines = run("get", "--scope", "node:a1").splitlines()
    assert [line.split() for line in lines] == [
        ["SCOPE", "NAME", "VALUE", "PROBLEM"],
        ["node:a1", CPU, "2"],
    ]
    assert json.loads(run("delete", CPU, "--scope", "node:a1", "--json"))[0]["value"] == 2
    assert json.loads(run("get", "--scope", "node:a1", "--json")) == []
    assert "not shared in the scope node:a1" in run("delete", CPU, "--scope", "node:a1", code=1)


def test_settings_come_from_standard_input(
    run: Run, file: Callable[[object], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path(file({CPU: 3})).open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        run("put-json", "-", "--scope", "group:big")
    assert json.loads(run("get", "--json"))[0]["scope"] == "group:big"


def test_nothing_of_a_file_with_one_wrong_value_is_written(
    run: Run, file: Callable[[object], str]
) -> None:
    said = run("put-json", file({CPU: 4, "BackendAIAgent.heartbeat_s": 0}), code=1)
    assert "BackendAIAgent.heartbeat_s: " in said
    assert json.loads(run("get", "--json")) == []


def test_what_others_wrote_wrongly_is_shown_with_its_problem(run: Run, server: EtcdServer) -> None:
    for name, value in ((CPU, b"\xff\xfe"), ("BackendAI.database_url", b'"pg://u:secret@h"')):
        key = base64.b64encode(f"test/config/global/{name}".encode()).decode()
        asyncio.run(server.ask("kv/put", key=key, value=base64.b64encode(value).decode()))
    said = run("get")
    assert "is no JSON" in said
    assert "may not be shared" in said
    assert "secret" not in said


def test_no_password_is_told(run: Run, server: EtcdServer) -> None:
    asyncio.run(server.require_password())
    assert "refused" in run("get", code=1)
    login = f"root:{PASSWORD_IN_URL}@"
    assert json.loads(run("get", "--json", "--etcd-url", server.url(login=login))) == []
    said = run("get", "--etcd-url", server.url(login="root:wr0ng@"), code=1)
    said += run("get", "--etcd-url", f"{server.url(login=login)}?x=1", code=1)
    assert all(secret not in said for secret in (PASSWORD, PASSWORD_IN_URL, "wr0ng"))


def test_where_no_etcd_is_set_the_command_says_so(run: Run) -> None:
    (Path(jupyter_config_dir()) / "jupyter_server_config.py").unlink()
    assert "BackendAI.etcd_url: is not set" in run("get", code=1)
