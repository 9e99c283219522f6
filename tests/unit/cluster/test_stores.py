"""Opening the stores that the configuration names."""

from __future__ import annotations

import subprocess
import sys

import pytest

from backendai_jupyter.cluster.stores import open_stores
from backendai_jupyter.errors import InvalidInput


async def test_without_urls_both_are_in_memory() -> None:
    async with open_stores() as (cluster, live):
        await cluster.put("k", "1")
        await live.put("k", "1", ttl_s=60)


@pytest.mark.parametrize(("urls", "field"), [(("x", ""), "etcd_url"), (("", "x"), "redis_url")])
async def test_a_malformed_url_is_refused_by_name(urls: tuple[str, str], field: str) -> None:
    with pytest.raises(InvalidInput, match=field):
        async with open_stores(*urls):
            pass


def test_one_machine_loads_no_client_of_a_server() -> None:
    program = (
        "import sys, backendai_jupyter.cluster.stores, backendai_jupyter.cluster.leadership\n"
        "print([name for name in ('grpc', 'pyetcd', 'redis') if name in sys.modules])"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout
    assert printed.strip() == "[]"
