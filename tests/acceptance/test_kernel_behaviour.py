"""Kernels behave as local ones do, on both runtimes, for the stock clients."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest

from backendai_jupyter.errors import InvalidInput, LaunchFailed, NeverFits
from tests.acceptance.conftest import RunningKernel, Start
from tests.helpers import eventually

BLOCKING_IN_C = (  # the output has to be out before: the sleep holds the GIL
    "import ctypes, sys, time; print(1, flush=True); sys.stdout.flush(); time.sleep(0.3)\n"
    "ctypes.PyDLL(None).sleep(30)"
)
FLOOD = "while True: print('x' * 100)"


async def test_it_runs_confined_in_its_home(start_kernel: Start) -> None:
    kernel = await start_kernel(env={"SECRET_OF_THE_SERVER": "1", "PATH": "/nowhere"})
    code = "import os, json; print(json.dumps([os.getuid(), dict(os.environ)]))"
    uid, environ = json.loads((await kernel.run(code))["stdout"])
    assert uid != 0
    assert environ["HOME"] == "/home/work"
    assert "SECRET_OF_THE_SERVER" not in environ
    assert environ["PATH"] != "/nowhere"
    assert environ["BACKENDAI_CLUSTER_HOST"] == "main1"


async def test_folders_are_shared_with_the_host(start_kernel: Start) -> None:
    kernel = await start_kernel()
    await kernel.run("open('/home/work/data/from-kernel', 'w').write('hello')")
    path = await kernel.first_folder()
    assert (path / "from-kernel").read_text() == "hello"
    (path / "from-host").write_text("there")
    reply = await kernel.run("print(open('/home/work/data/from-host').read())")
    assert reply["stdout"] == "there\n"


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("import time; print(1, flush=True); time.sleep(30)", id="sleep"),
        pytest.param(BLOCKING_IN_C, id="sleep in C that holds the GIL"),
        pytest.param(FLOOD, id="output flood"),
    ],
)
async def test_an_interrupt_takes_effect_at_once(start_kernel: Start, code: str) -> None:
    kernel = await start_kernel()
    # Else ipykernel may abort a request that comes right after the error, as local ones do.
    message_id = kernel.client.execute(code, stop_on_error=False)
    await until(kernel, "stream")  # from here on nothing is read, as by a client that is slow
    await kernel.manager.interrupt_kernel()
    reply = await kernel.client.get_shell_msg(timeout=10)
    assert reply["parent_header"]["msg_id"] == message_id
    assert reply["content"]["ename"] == "KeyboardInterrupt", reply["content"]
    assert (await kernel.run("print(6 * 7)"))["stdout"].endswith("42\n")


async def test_a_restart_forgets_variables_and_keeps_the_clients(start_kernel: Start) -> None:
    kernel = await start_kernel()
    await kernel.run("x = 1")
    before = kernel.manager.get_connection_info()
    await kernel.manager.restart_kernel()
    await kernel.client.wait_for_ready(timeout=30)
    assert kernel.manager.get_connection_info() == before
    reply = await kernel.run("x")
    assert reply["ename"] == "NameError"


async def test_a_shutdown_lets_atexit_run(start_kernel: Start) -> None:
    kernel = await start_kernel()
    await kernel.run(
        "import atexit, time\n"
        "def farewell():\n    time.sleep(0.5); open('/home/work/data/farewell', 'w').write('bye')\n"
        "atexit.register(farewell)"
    )
    path = await kernel.first_folder()
    await kernel.manager.shutdown_kernel()
    assert (path / "farewell").read_text() == "bye"


async def test_input_reaches_the_client_and_the_answer_the_kernel(start_kernel: Start) -> None:
    kernel = await start_kernel()
    kernel.client.execute("print(input('name? ').upper())", allow_stdin=True)
    request = await kernel.client.get_stdin_msg(timeout=20)
    assert request["content"]["prompt"] == "name? "
    kernel.client.input("ada")
    printed = await until(kernel, "stream")
    assert printed["content"]["text"] == "ADA\n"


async def test_comms_and_widgets(start_kernel: Start) -> None:
    kernel = await start_kernel()
    kernel.client.execute("import ipywidgets; s = ipywidgets.IntSlider(value=3); s")
    opened = await until(
        kernel,
        "comm_open",
        lambda c: c["data"].get("state", {}).get("_model_name") == "IntSliderModel",
    )
    shown = await until(kernel, "execute_result")
    model = shown["content"]["data"]["application/vnd.jupyter.widget-view+json"]["model_id"]
    assert model == opened["content"]["comm_id"]
    change = {"method": "update", "state": {"value": 7}, "buffer_paths": []}
    message = kernel.client.session.msg("comm_msg", {"comm_id": model, "data": change})
    kernel.client.shell_channel.send(message)
    assert (await kernel.run("print(s.value)"))["stdout"] == "7\n"


async def test_rich_and_binary_output(start_kernel: Start) -> None:
    kernel = await start_kernel()
    kernel.client.execute(
        "from IPython.display import Image, display\n"
        "display(Image(data=b'\\x89PNG\\r\\n\\x1a\\n' + b'\\0' * 10, format='png'))\n"
        "from comm import create_comm\n"
        "create_comm(target_name='t', data={}, buffers=[b'\\0\\xff' * 50_000])"
    )
    shown = await until(kernel, "display_data")
    assert base64.b64decode(shown["content"]["data"]["image/png"]).startswith(b"\x89PNG")
    opened = await until(kernel, "comm_open")
    assert bytes(opened["buffers"][0]) == b"\0\xff" * 50_000


async def test_the_debugger_stops_at_a_breakpoint(start_kernel: Start) -> None:
    kernel = await start_kernel()
    code = "def f(n):\n    m = n + 1\n    return m\nf(41)"

    async def debug(command: str, **arguments: Any) -> dict[str, Any]:
        content = {"type": "request", "seq": 1, "command": command, "arguments": arguments}
        reply = await kernel.ask_control("debug_request", content)
        assert reply["success"], reply
        return dict(reply.get("body") or {})

    await debug("initialize", clientID="t", adapterID="", pathFormat="path", linesStartAt1=True)
    await debug("attach")
    source = (await debug("dumpCell", code=code))["sourcePath"]
    await debug("setBreakpoints", source={"path": source}, breakpoints=[{"line": 2}])
    await debug("configurationDone")
    kernel.client.execute(code)
    await until(kernel, "debug_event", lambda c: c["event"] == "stopped")
    await debug("continue", threadId=1)
    result = await until(kernel, "execute_result")
    assert result["content"]["data"]["text/plain"] == "42"


async def test_a_subshell_answers_while_the_main_shell_is_busy(start_kernel: Start) -> None:
    kernel = await start_kernel()
    subshell = (await kernel.ask_control("create_subshell_request", {}))["subshell_id"]
    kernel.client.execute("import threading; gate = threading.Event(); gate.wait(20)")
    await until(kernel, "execute_input")
    message = kernel.client.session.msg("execute_request", {"code": "gate.set()", "silent": False})
    message["header"]["subshell_id"] = subshell
    kernel.client.shell_channel.send(message)
    reply = await kernel.client.get_shell_msg(timeout=10)
    assert reply["content"]["status"] == "ok"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        pytest.param(
            "x = bytearray(10**9); x[::4096] = b'1' * len(x[::4096])", "512 MiB", id="memory"
        ),
        pytest.param("import os; os._exit(7)", "exit code 7", id="exit code"),
        pytest.param(
            "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV", id="signal"
        ),
    ],
)
async def test_a_dead_kernel_says_why(start_kernel: Start, code: str, words: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BACKENDAI_RESOURCES", "mem=512m")
        kernel = await start_kernel()
    kernel.client.execute(code)
    told = await until(kernel, "error")
    assert words in told["content"]["evalue"]
    await eventually(lambda: dead(kernel))
    assert words in getattr(kernel.manager, "reason", "")


async def test_a_kernel_that_cannot_start_says_which_step_failed(
    start_kernel: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        LaunchFailed, match=r"step 'answer' failed.*ended before it answered"
    ) as caught:
        await start_kernel(extra_arguments=["--no-such-flag-of-ipykernel=1", "--help"])
    assert "step" in str(caught.value)


async def test_requests_are_refused_before_anything_is_written(
    start_kernel: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKENDAI_RESOURCES", "gpus=1")
    with pytest.raises(InvalidInput, match=r"BACKENDAI_RESOURCES\.gpus"):
        await start_kernel()
    monkeypatch.setenv("BACKENDAI_RESOURCES", "cpu=100000")
    with pytest.raises(NeverFits, match="cpu 100000"):
        await start_kernel()


async def test_what_does_not_fit_waits_and_starts_when_there_is_room(
    start_kernel: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await start_kernel()
    backend, manager = first.backend, first.backend.manager
    (agent,) = await backend.call(manager.agents.list())
    monkeypatch.setenv("BACKENDAI_RESOURCES", f"cpu={agent.capacity['cpu']}")
    waiting = asyncio.ensure_future(start_kernel())

    async def reason() -> str:
        sessions = await backend.call(manager.sessions.list(manager.viewer))
        return next((s.status_reason for s in sessions if s.status == "PENDING"), "")

    assert "Waiting for room: cpu" in await eventually(reason)
    await first.manager.shutdown_kernel(now=True)
    second = await waiting
    assert (await second.run("print(1)"))["stdout"] == "1\n"


async def dead(kernel: RunningKernel) -> bool:
    return not await kernel.manager.is_alive()


async def until(kernel: RunningKernel, msg_type: str, holds: Any = None) -> dict[str, Any]:
    """Return the next iopub message of a type for whose content ``holds``."""
    while True:
        message: dict[str, Any] = await kernel.client.get_iopub_msg(timeout=20)
        if message["msg_type"] == msg_type and (holds is None or holds(message["content"])):
            return message
