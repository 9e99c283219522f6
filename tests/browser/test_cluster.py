"""JupyterLab of a cluster: what it shows is computed on an agent, which may be away meanwhile."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.browser.conftest import OpenWindow
from tests.browser.lab import do_without_news
from tests.cluster import Cluster

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

WHERE = "import os; print(os.getcwd(), os.environ['BACKENDAI_KERNEL_ID'])"


async def test_a_notebook_computes_on_an_agent_and_goes_on_while_that_is_upgraded(
    open_window: OpenWindow,
) -> None:
    async with Cluster() as cluster:
        agent = await cluster.add_agent()
        do_without_news(cluster.root / "m1")
        server = await cluster.add_server(module="jupyterlab")
        async with open_window(server) as lab:
            await lab.open()
            await lab.start_notebook()
            (session,) = (await server.get("backendai/v1/sessions")).json()
            (kernel,) = session["kernels"]
            assert kernel["agent_id"] == agent.name
            await expect(await lab.run(WHERE)).to_have_text(f"/home/work/data {kernel['id']}")
            await agent.stop()
            await expect(await lab.run("x = 6; print(x * 7)")).to_have_text("42")
            await agent.start()
            await expect(await lab.run("print(x + 1)")).to_have_text("7")
            await lab.is_idle()
