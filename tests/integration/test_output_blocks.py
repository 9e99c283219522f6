"""A Python kernel whose output is not taken makes its writers wait, and loses nothing."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

import pytest

from tests.integration.output_rig import reader_at_will, text_of

SIZE = 65536  # bytes of a piece
COUNT = 3000  # pieces: 200 MB
GROWTH_MB = 100  # of the kernel's memory at most while its writer waits; 30 are usual
PROMPT_S = 3.0  # on a machine that is busy; 0.1 is usual
END_S = 15.0

WRITERS = {
    "print, flushed": "for p in pieces(65536, 3000): print(p, end='', flush=True)",
    "print": "for p in pieces(65536, 3000): print(p, end='')",
    "small prints": "for p in pieces(1024, 192000): print(p, end='')",
    "1 MB displays": "for p in pieces(1 << 20, 188): display({'text/plain': p}, raw=True)",
    "prints before displays": """
for p in pieces(65536, 3000):
    stream = [sys.stdout, None, sys.stderr, None][int(p[1:9]) % 4]
    if stream: print(p, end='', file=stream)
    else: display({'text/plain': p}, raw=True)
""",
    "file descriptor 1": """
for p in pieces(65536, 3000):
    rest = p.encode()
    while rest:
        rest = rest[os.write(1, rest):]
""",
    "subprocess": """
process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
for p in pieces(65536, 3000): process.stdin.write(p.encode())
process.stdin.close()
process.wait()
""",
    "logging": """
handler = logging.StreamHandler(sys.stdout)
handler.terminator = ""
logging.getLogger("loud").addHandler(handler)
for p in pieces(65536, 3000): logging.getLogger("loud").error(p)
""",
    "coroutine": """
async def write():
    for p in pieces(65536, 3000):
        print(p, end='')
        await asyncio.sleep(0)
await write()
""",
}
THREADS = """
def write(first):
    for p in pieces(65536, 750, first): sys.stdout.write(p)
threads = [threading.Thread(target=write, args=[750 * n]) for n in range(4)]
for one in threads: one.start()
for one in threads: one.join()
"""
FLOOD = WRITERS["print, flushed"]
FLOOD_IN_COROUTINE = WRITERS["coroutine"]


def numbers(text: str) -> list[int]:
    """Return the pieces that are whole, in order."""
    return [int(number) for number in re.findall(r"<(\d{8})x*>", text)]


@pytest.mark.parametrize("writer", WRITERS)
def test_output_that_is_not_taken_holds_its_writer_and_arrives_complete(
    short_tmp_path: Path, writer: str
) -> None:
    with reader_at_will(short_tmp_path) as kernel:
        before_mb = kernel.rss_mb()
        msg_id = kernel.execute(WRITERS[writer])
        kernel.wait_until_stalled()
        growth_mb = kernel.rss_mb() - before_mb
        text = kernel.text(msg_id, SIZE * COUNT)
        seen = numbers(text)
        assert growth_mb < GROWTH_MB
        assert seen == list(range(len(seen)))
        assert "".join(re.findall(r"<\d{8}x*>", text)) == text
        assert kernel.reply("shell", msg_id)["status"] == "ok"


def test_each_of_several_threads_waits_and_loses_nothing(short_tmp_path: Path) -> None:
    with reader_at_will(short_tmp_path) as kernel:
        before_mb = kernel.rss_mb()
        msg_id = kernel.execute(THREADS)
        kernel.wait_until_stalled()
        assert kernel.rss_mb() - before_mb < GROWTH_MB
        seen = numbers(kernel.text(msg_id))
        assert sorted(seen) == list(range(COUNT))
        for first in range(0, COUNT, 750):
            of_one = [number for number in seen if first <= number < first + 750]
            assert of_one == sorted(of_one)


@pytest.mark.parametrize("flood", [FLOOD, FLOOD_IN_COROUTINE], ids=["cell", "coroutine"])
@pytest.mark.parametrize("by", ["signal", "request"])
def test_a_cell_that_waits_for_its_reader_is_interrupted_at_once(
    short_tmp_path: Path, flood: str, by: str
) -> None:
    with reader_at_will(short_tmp_path) as kernel:
        msg_id = kernel.execute(flood)
        stalled_at = kernel.wait_until_stalled()
        began = time.monotonic()
        if by == "signal":
            kernel.process.send_signal(signal.SIGINT)
        else:
            kernel.reply("control", kernel.request("control", "interrupt_request"))
        reply = kernel.reply("shell", msg_id)
        taken_s = time.monotonic() - began
        messages = list(kernel.output(msg_id))
        seen = numbers("".join(map(text_of, messages)))
        assert reply["ename"] in {"KeyboardInterrupt", "CancelledError"}
        assert taken_s < PROMPT_S
        assert seen in (list(range(stalled_at)), list(range(stalled_at + 1)))
        assert messages[-2]["msg_type"] == "error"
        assert kernel.run("print('next')") == "next\n"


def test_the_control_channel_answers_while_a_cell_waits_for_its_reader(
    short_tmp_path: Path,
) -> None:
    with reader_at_will(short_tmp_path) as kernel:
        msg_id = kernel.execute(FLOOD)
        kernel.wait_until_stalled()
        began = time.monotonic()
        for _ in range(300):  # each with its two status messages, which wait as well
            assert kernel.reply("control", kernel.request("control", "kernel_info_request"))
        assert time.monotonic() - began < 10 * PROMPT_S
        assert numbers(kernel.text(msg_id)) == list(range(COUNT))


@pytest.mark.parametrize(
    "flood", [FLOOD, FLOOD_IN_COROUTINE, THREADS], ids=["cell", "coroutine", "threads"]
)
def test_a_kernel_whose_cell_waits_for_its_reader_shuts_down(
    short_tmp_path: Path, flood: str
) -> None:
    with reader_at_will(short_tmp_path) as kernel:
        kernel.execute(flood)
        kernel.wait_until_stalled()
        msg_id = kernel.request("control", "shutdown_request", restart=False)
        assert kernel.reply("control", msg_id)["status"] == "ok"
        assert kernel.process.wait(END_S) == 0


def test_what_a_kernel_wrote_before_it_ends_arrives_at_a_reader_that_reads(
    short_tmp_path: Path,
) -> None:
    with reader_at_will(short_tmp_path) as kernel:
        msg_id = kernel.execute("for p in pieces(65536, 300): print(p, end='')\nexit()")
        assert numbers(kernel.text(msg_id)) == list(range(300))
        assert kernel.process.wait(END_S) == 0


def test_what_a_process_had_written_when_it_forked_is_sent_once(short_tmp_path: Path) -> None:
    code = """
print("parent", end=" ")
child = os.fork()
if not child:
    print("child", end=" ", flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""
    with reader_at_will(short_tmp_path) as kernel:
        text = kernel.run(code) + kernel.run("import time; time.sleep(0.5)")
        assert sorted(text.split()) == ["child", "parent"]


def test_a_new_kernel_shows_nothing_of_it_to_its_user(short_tmp_path: Path) -> None:
    code = "print(sorted(globals()), len(In), Out, get_ipython().execution_count)"

    def shown(name: str, *arguments: str) -> str:
        path = short_tmp_path / name
        path.mkdir()
        with reader_at_will(path, *arguments) as kernel:
            return kernel.run(code)

    assert shown("a") == shown("b", "--HistoryManager.hist_file=:memory:")
