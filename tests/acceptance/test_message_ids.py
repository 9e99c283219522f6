"""No two messages of a kernel have the same id: by it JupyterLab knows what comes again (027)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.acceptance.kernel_client import Clients, Message, printed
from tests.server import RunningServer

PROCESS = "c.BackendAIAgent.runtime = 'process'\n"
SHOW = """
import os, sys
from IPython.display import HTML, clear_output, display, update_display
handle = display("one", display_id="d")
update_display("two", display_id="d")
handle.update("two")
handle.update("two")
for number in range(1000):
    print(number, flush=True)
print("e", file=sys.stderr)
os.system("echo from a child")
clear_output()
display(HTML("<b>b</b>"), HTML("<b>b</b>"))
get_ipython().set_next_input("1")
help("len")
1
"""
TALK = """
from ipywidgets import IntSlider, Output
slider = IntSlider()
for value in (1, 2, 2, 1):
    slider.value = value
with Output() as out:
    print("captured")
display(slider)
slider.close()
"""
CODES = (
    SHOW,
    TALK,
    "1 / 0",
    "?len",
    "%matplotlib inline\nimport pylab\npylab.plot([1, 2]);",
    "1",
    "1",
)


async def test_ids_do_not_repeat(short_tmp_path: Path) -> None:
    server = RunningServer(short_tmp_path, config=PROCESS)
    async with server, Clients.of_new_kernel(server) as clients:
        client = await clients.open()
        messages: list[Message] = []
        for code in CODES:
            messages += await client.run(code)
        await client.execute("input()")
        messages += await client.until(lambda m: m.type == "input_request")
        await client.send("input_reply", {"value": "a", "status": "ok"}, channel="stdin")
        await client.send("kernel_info_request", {})
        await client.send("kernel_info_request", {}, channel="control")
        interrupted = await client.execute("import time; print('now'); time.sleep(600)")
        messages += await client.until(lambda m: "now" in printed([m]))
        await server.post(f"api/kernels/{clients.kernel_id}/interrupt")
        messages += await client.until_done(interrupted)
        await server.post(f"api/kernels/{clients.kernel_id}/restart")
        messages += await client.rest()
    seen = {message.type for message in messages}
    assert seen >= {"stream", "display_data", "update_display_data", "clear_output", "error"}
    assert seen >= {"comm_open", "comm_msg", "comm_close", "execute_result", "execute_reply"}
    ids = Counter(message.header["msg_id"] for message in messages)
    assert [i for i, count in ids.items() if count > 1] == []
