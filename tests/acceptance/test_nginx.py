"""The sample of docs/examples/cluster in front of two managers: HTTPS, websockets, failover."""

from __future__ import annotations

import asyncio
import signal
import ssl
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from tests.acceptance.kernel_client import KernelClient, printed
from tests.certificates import Certificates, make_certificates
from tests.cluster import Cluster
from tests.helpers import eventually
from tests.ports import free_port
from tests.server import RunningServer

SAMPLE = Path(__file__).parents[2] / "docs/examples/cluster/nginx.conf"
pytestmark = pytest.mark.timeout(180)


@dataclass(frozen=True)
class Front:
    """nginx over the managers of a cluster."""

    url: str
    certificates: Certificates
    cluster: Cluster

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self.url,
            headers={"Authorization": f"token {self.cluster.servers[0].token}"},
            verify=ssl.create_default_context(cafile=str(self.certificates.ca)),
            timeout=60,
            trust_env=False,
        )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front() -> AsyncIterator[Front]:
    async with Cluster() as cluster:
        await cluster.add_agent()
        await asyncio.gather(cluster.add_server(), cluster.add_server())
        (cluster.root / "tls").mkdir()
        certificates = make_certificates(cluster.root / "tls")
        port = free_port()
        nginx = start_nginx(cluster.root / "nginx", port, certificates, cluster.servers)
        front = Front(f"https://localhost:{port}/", certificates, cluster)
        try:
            await eventually(lambda: answers(front), within_s=30)
            yield front
        finally:
            nginx.terminate()
            nginx.wait()


@pytest.mark.asyncio(loop_scope="module")
async def test_a_kernel_is_usable_whichever_manager_answers(front: Front) -> None:
    async with front.client() as client:
        answer = await client.post("api/kernels", json={"name": "backendai-python"})
        assert answer.status_code == 201, answer.text
        kernel_id = answer.json()["id"]
        for _ in range(4):
            assert (await client.get(f"api/kernels/{kernel_id}")).status_code == 200
    token = front.cluster.servers[0].token
    for n in range(2):
        async with KernelClient.open(
            front.url, token, kernel_id, cafile=front.certificates.ca
        ) as channels:
            assert printed(await channels.run(f"print({n})")).endswith(f"{n}\n")


@pytest.mark.asyncio(loop_scope="module")
async def test_a_manager_that_is_killed_is_passed_over(front: Front) -> None:
    victim = front.cluster.servers[1]
    victim.signal(signal.SIGKILL)
    await victim.wait()
    async with front.client() as client:
        answers = [await client.get("api/kernels") for _ in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 6
    await victim.start()


def start_nginx(
    directory: Path, port: int, certificates: Certificates, servers: list[RunningServer]
) -> subprocess.Popen[bytes]:
    """Run the sample with the addresses and files of this test in place of its own."""
    directory.mkdir()
    text = SAMPLE.read_text()
    for sample, server in zip(("10.0.0.1:8888", "10.0.0.2:8888"), servers, strict=True):
        text = replaced(text, sample, httpx.URL(server.url).netloc.decode())
    text = replaced(text, "listen 443 ssl", f"listen {port} ssl")
    text = replaced(text, "server_name notebooks.example.org", "server_name localhost")
    text = replaced(text, "/etc/backendai/tls/server.crt", str(certificates.cert))
    text = replaced(text, "/etc/backendai/tls/server.key", str(certificates.key))
    (directory / "nginx.conf").write_text(
        f"daemon off; pid {directory}/pid; error_log {directory}/error.log;\n"
        "events {}\n"
        f"http {{ access_log off; client_body_temp_path {directory}; proxy_temp_path {directory};\n"
        f"fastcgi_temp_path {directory}; uwsgi_temp_path {directory}; scgi_temp_path {directory};\n"
        f"{text} }}\n"
    )
    command = ["nginx", "-e", f"{directory}/error.log", "-c", f"{directory}/nginx.conf"]
    return subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *command])


def replaced(text: str, sample: str, ours: str) -> str:
    assert sample in text
    return text.replace(sample, ours)


async def answers(front: Front) -> bool:
    try:
        async with front.client() as client:
            return (await client.get("api/status")).is_success
    except httpx.TransportError:
        return False
