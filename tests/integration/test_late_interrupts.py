"""An interrupt just before or behind a cell's code: ipykernel alone sends no reply then."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.output_rig import Message, ReaderAtWill, reader_at_will

# What ipykernel calls next has a SIGINT before it does anything.
TRAP = """
import signal
shell = get_ipython()
def trap(owner, name, is_it=lambda *args: True):
    original = getattr(owner, name)
    def sprung(*args, **options):
        if is_it(*args):
            setattr(owner, name, original)
            signal.raise_signal(signal.SIGINT)
        return original(*args, **options)
    setattr(owner, name, sprung)
"""
BEFORE = "trap(shell.kernel, '_publish_execute_input')"
BEHIND = "trap(shell.payload_manager, 'read_payload')"
REPLYING = "trap(shell.kernel.session, 'send', lambda stream, kind, *_: kind == 'execute_reply')"


@pytest.fixture
def kernel(short_tmp_path: Path) -> Iterator[ReaderAtWill]:
    with reader_at_will(short_tmp_path) as started:
        started.run(TRAP)
        yield started


def reply_to(kernel: ReaderAtWill, code: str) -> Message:
    """Return it once the kernel is idle: until then it aborts what comes after an error."""
    msg_id = kernel.execute(code)
    kernel.text(msg_id)
    return kernel.reply("shell", msg_id)


def test_before_its_code_a_cell_is_told_to_be_interrupted(kernel: ReaderAtWill) -> None:
    kernel.run(BEFORE)
    reply = reply_to(kernel, "print('never')")
    assert (reply["status"], reply["ename"]) == ("error", "KeyboardInterrupt")
    assert_goes_on(kernel)


def test_behind_its_code_a_cell_is_told_to_be_interrupted(kernel: ReaderAtWill) -> None:
    reply = reply_to(kernel, BEHIND)
    assert (reply["status"], reply["ename"]) == ("error", "KeyboardInterrupt")
    assert_goes_on(kernel)


def test_a_reply_that_is_on_its_way_comes_whole(kernel: ReaderAtWill) -> None:
    assert reply_to(kernel, REPLYING)["status"] == "ok"
    assert_goes_on(kernel)


def test_cells_that_wait_are_aborted_as_after_any_error(
    kernel: ReaderAtWill, short_tmp_path: Path
) -> None:
    go = short_tmp_path / "go"
    until_told = f"while not os.path.exists({str(go)!r}): pass"
    first, second = kernel.execute(f"{BEHIND}\n{until_told}"), kernel.execute("1")
    # What is asked after it has an answer: so the second cell has come.
    kernel.reply("control", kernel.request("control", "kernel_info_request"))
    go.touch()
    assert kernel.reply("shell", first)["status"] == "error"
    assert kernel.reply("shell", second)["status"] == "aborted"


def assert_goes_on(kernel: ReaderAtWill) -> None:
    """Its next cell runs, and can be interrupted."""
    assert kernel.run("print(6 * 7)") == "42\n"
    reply = reply_to(kernel, "signal.raise_signal(signal.SIGINT)")
    assert (reply["status"], reply["ename"]) == ("error", "KeyboardInterrupt")
