"""The relay's door to journals: its port, its tokens, its identity."""

from __future__ import annotations

import json
import re
import socket
import ssl
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backendai_jupyter.agent.checkpoints import Checkpoint, Checkpoints
from backendai_jupyter.agent.relay import address
from backendai_jupyter.agent.relay.client import Endpoint
from backendai_jupyter.agent.relay.gateway import Gateway, certificate_in, identity_of
from backendai_jupyter.agent.relay.identity import ensure_identity
from backendai_jupyter.domain.wire import Connection, Image
from backendai_jupyter.errors import RelayFailed
from backendai_jupyter.supervisor import Supervisor

HOST = "127.0.0.1"
ENDPOINT = Endpoint("0.0.0.0", 1, 2, 3, 4, 5, "public", "secret", "/run/j", 6, "token", "place",
                    "certificate", "node7")  # fmt: skip


@pytest.fixture
def control(short_tmp_path: Path) -> Path:
    path = short_tmp_path / "control"
    ensure_identity(identity_of(path))
    return path


@pytest.fixture
async def gateways(control: Path) -> AsyncIterator[list[Gateway]]:
    """Two of relays that come one after the other."""
    supervisor = Supervisor()
    made = [Gateway(control, supervisor) for _ in range(2)]
    yield made
    for gateway in made:
        await gateway.close()
    await supervisor.close()


async def test_a_relay_that_is_started_again_has_the_port_of_the_one_before(
    gateways: list[Gateway],
) -> None:
    first, second = gateways
    ports = {bind: first.listen(bind) for bind in (HOST, "127.0.0.2")}
    assert {bind: first.listen(bind) for bind in ports} == ports
    await first.close()
    assert {bind: second.listen(bind) for bind in ports} == ports


async def test_a_port_that_was_taken_meanwhile_is_replaced(
    gateways: list[Gateway], control: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        control.with_name("control.ports").write_text(json.dumps({HOST: port}))
        other = gateways[0].listen(HOST)
    assert other != port
    assert f"find port {port}" in caplog.text
    await gateways[0].close()
    assert gateways[1].listen(HOST) == other


@pytest.mark.parametrize("damage", ["", "[]", "{", '{"127.0.0.1": "x"}'])
async def test_a_damaged_file_of_ports_costs_only_the_port(
    gateways: list[Gateway], control: Path, damage: str
) -> None:
    control.with_name("control.ports").write_text(damage)
    assert gateways[0].listen(HOST) > 0


async def test_an_address_of_another_node_is_refused_in_words(gateways: list[Gateway]) -> None:
    with pytest.raises(RelayFailed, match=r"cannot listen on 192\.0\.2\.1"):
        gateways[0].listen("192.0.2.1")


async def test_without_its_certificate_a_relay_lets_nobody_in(
    gateways: list[Gateway], control: Path
) -> None:
    identity_of(control).unlink()
    with pytest.raises(RelayFailed, match="cannot use its certificate"):
        gateways[0].listen(HOST)


async def test_each_kernel_has_a_token_that_outlives_the_relay(gateways: list[Gateway]) -> None:
    first, second = gateways
    tokens = [first.admit(kernel, Path("journal"), "") for kernel in ("k1", "k2", "k1")]
    assert tokens[0] == tokens[2] != tokens[1]
    assert second.admit("k1", Path("journal"), tokens[0]) == tokens[0]
    first.dismiss("k1")
    assert first.admit("k1", Path("journal"), "") not in tokens
    assert tokens[0] not in repr(vars(first))


def test_a_relay_keeps_its_certificate_and_its_key_to_itself(control: Path) -> None:
    path = identity_of(control)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    certificate = certificate_in(path)
    ensure_identity(path)
    assert certificate_in(path) == certificate
    assert "PRIVATE" not in certificate
    path.write_text("cut off")
    ensure_identity(path)
    replaced = certificate_in(path)
    assert replaced != certificate
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path)
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=replaced)


def test_a_directory_is_known_by_whatever_path(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "link").symlink_to("a")
    place = address.place_of(tmp_path / "a")
    assert place
    assert address.place_of(tmp_path / "link") == place
    assert address.place_of(tmp_path / "b") != place
    assert address.place_of(tmp_path / "none") == ""


@pytest.mark.parametrize(
    ("bind", "is_found", "from_here"),
    [
        ("127.0.0.1", False, "127.0.0.1"),
        ("node7", False, "node7"),
        ("0.0.0.0", True, "127.0.0.1"),
        ("*", True, "127.0.0.1"),
        ("::", True, "::1"),
    ],
)
def test_the_address_of_a_node(bind: str, is_found: bool, from_here: str) -> None:
    assert (address.address_of(bind) != bind) is is_found
    assert address.address_from_here(bind) == from_here


def test_clients_learn_the_address_that_others_reach() -> None:
    connection = ENDPOINT.connection("key")
    assert connection.journal_door is not None
    assert (connection.ip, connection.journal_door.host) == ("node7", "node7")
    assert ENDPOINT.connection_from_here("key").ip == "127.0.0.1"
    assert "token" not in repr(connection.journal_door)
    assert not {"'token'", "'secret'"} & {*re.findall(r"'\w+'", repr(ENDPOINT))}


def test_a_connection_of_an_agent_without_a_door_is_read() -> None:
    written = ENDPOINT.connection("key").model_dump(exclude={"journal_door"})
    connection = Connection.model_validate(written)
    assert (connection.journal_socket, connection.journal_door) == ("/run/j", None)
    assert Connection.model_validate_json(ENDPOINT.connection("key").model_dump_json()) == (
        ENDPOINT.connection("key")
    )


def test_the_endpoint_of_an_agent_without_a_door_is_read(tmp_path: Path) -> None:
    image = Image(name="python", reference="python", runtime="process")
    new = Checkpoint(kernel_id="k1", generation=1, image=image, key="key", endpoint=ENDPOINT)
    old = json.loads(new.model_dump_json())
    for name in ("journal_port", "journal_token", "journal_place", "certificate", "host"):
        del old["endpoint"][name]
    (tmp_path / "k1.json").write_text(json.dumps(old))
    found = Checkpoints(tmp_path).read("k1")
    assert found is not None and found.endpoint is not None
    connection = found.endpoint.connection("key")
    assert (connection.ip, connection.journal_door) == ("0.0.0.0", None)
