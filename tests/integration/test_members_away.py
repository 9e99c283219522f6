"""Members that die, hang, are busy or have another secret: each is told apart within seconds."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import zmq
from zmq.utils import z85

from backendai_jupyter.agent.kernel_lib.backendai_members.calls import ANSWER_S
from backendai_jupyter.agent.kernel_lib.backendai_members.place import PORT, Keys
from backendai_jupyter.agent.kernel_lib.backendai_members.protocol import PING, PONG
from tests.helpers import eventually
from tests.integration.members_rig import SECRET, Member, members

SOON_S = 12.0  # some seconds, and what a loaded machine adds


@pytest.fixture
def three(short_tmp_path: Path) -> Iterator[list[Member]]:
    with members(short_tmp_path, size=3) as started:
        yield started


@pytest.fixture
def two(short_tmp_path: Path) -> Iterator[list[Member]]:
    with members(short_tmp_path, size=2) as started:
        yield started


def test_a_member_that_dies_in_the_middle_is_lost_and_the_others_finish(
    three: list[Member],
) -> None:
    main, first, second = three
    wait = "import pathlib, time\nprint('begun')\nwhile not pathlib.Path('go').exists(): pass"
    request = main.ask(f"%%backendai all\n{wait}\nprint('done')")
    outcome = main.until_said(request, f"[{first.host}] begun")
    first.kill()
    outcome = main.until_said(request, f"[{first.host}] the connection was lost", outcome)
    for member in (main, second):
        (member.place.run_dir / "go").touch()
    outcome = main.end(request, outcome)
    assert [line for line in outcome.lines if "done" in line] == [
        f"[{member.host}] done" for member in (main, second)
    ]
    assert outcome.error.startswith(f"MembersFailed: 1 of 3 members failed: {first.host}: ")
    first.restart()
    assert main.run("%%backendai subs\n'again'").error == ""


def test_a_member_that_is_not_there_is_said_to_be_away_within_seconds(two: list[Member]) -> None:
    main, sub = two
    assert not main.run("%%backendai subs\n'here'").failed
    sub.kill()
    with soon():
        outcome = main.run("%%backendai all\nprint('here')")
    assert outcome.stdout == f"[{main.host}] here\n"
    assert outcome.error.endswith(f"1 of 2 members failed: {sub.host}: it does not answer")


def test_a_member_that_has_never_answered_is_waited_for(two: list[Member]) -> None:
    """The name of a member on another node may be known some time after its kernel is up."""
    main, sub = two
    listener = listener_of(sub)
    listener.suspend()
    request = main.ask("%%backendai subs\n'at last'")
    outcome = main.until_said(request, f"[{sub.host}] has not answered yet; the cell waits for it")
    late = time.monotonic() + ANSWER_S
    asyncio.run(eventually(lambda: time.monotonic() > late))
    listener.resume()
    assert main.end(request, outcome).stdout == f"[{sub.host}] 'at last'\n"
    listener.suspend()
    with soon():
        assert main.run("%%backendai subs\n'never'").error.endswith("it does not answer")


def test_a_member_that_hangs_is_given_up_within_seconds(two: list[Member]) -> None:
    """Its machine is frozen: connections stay open, and nobody answers on them."""
    main, sub = two
    request = main.ask(f"%%backendai {sub.host}\nprint('begun')\nwhile True: pass")
    outcome = main.until_said(request, "begun")
    listener = listener_of(sub)
    listener.suspend()
    with soon():
        outcome = main.end(request, outcome)
    assert "the connection was lost" in outcome.error


def test_a_listener_that_was_killed_comes_back(two: list[Member]) -> None:
    main, sub = two
    listener = listener_of(sub)
    listener.kill()
    assert main.run("%%backendai subs\n1 + 1").stdout == f"[{sub.host}] 2\n"


def test_a_listener_ends_with_its_kernel_however_that_ends(two: list[Member]) -> None:
    _, sub = two
    listener = listener_of(sub)
    sub.kill()
    asyncio.run(eventually(lambda: has_ended(listener), within_s=SOON_S))


def test_a_member_that_is_busy_is_said_to_be_and_has_its_turn(two: list[Member]) -> None:
    main, sub = two
    own = sub.ask("import pathlib\nwhile not pathlib.Path('go').exists(): pass")
    request = main.ask("%%backendai subs\n'at last'")
    outcome = main.until_said(request, f"[{sub.host}] is busy; the cell waits for its turn")
    (sub.place.run_dir / "go").touch()
    outcome = main.end(request, outcome)
    assert outcome.stdout == f"[{sub.host}] 'at last'\n"
    assert not sub.end(own).failed


def test_an_interrupt_leaves_the_cell_alone_that_keeps_a_member_busy(two: list[Member]) -> None:
    main, sub = two
    own = sub.ask("import pathlib\nwhile not pathlib.Path('go').exists(): pass")
    request = main.ask("%%backendai subs\n'never'")
    outcome = main.until_said(request, "is busy")
    main.interrupt()
    (sub.place.run_dir / "go").touch()
    outcome = main.end(request, outcome)
    assert not sub.end(own).failed
    assert outcome.failed or outcome.stdout == f"[{sub.host}] 'never'\n"


def test_a_cell_that_ignores_its_interrupt_is_left_alone_by_the_second(two: list[Member]) -> None:
    main, sub = two
    code = (
        "import pathlib, time\nprint('begun')\n"
        "while not pathlib.Path('go').exists():\n"
        "    try:\n        time.sleep(0.1)\n"
        "    except KeyboardInterrupt:\n        print('ignored')"
    )
    request = main.ask(f"%%backendai subs\n{code}")
    outcome = main.until_said(request, "begun")
    main.interrupt()
    outcome = main.until_said(request, "ignored", outcome)
    main.interrupt()
    with soon():
        outcome = main.end(request, outcome)
    assert "was left alone" in outcome.error
    (sub.place.run_dir / "go").touch()


def test_a_caller_that_dies_has_its_cell_interrupted(two: list[Member]) -> None:
    main, sub = two
    request = main.ask("%%backendai subs\nprint('begun')\nwhile True: pass")
    main.until_said(request, "begun")
    main.restart()
    with soon():
        outcome = main.run("%%backendai subs --timeout 30\n'free'")
    assert outcome.stdout == f"[{sub.host}] 'free'\n"


@pytest.mark.parametrize("held", ["while members begin", "before they answer"])
def test_a_cell_that_holds_the_interpreter_of_its_caller_loses_nothing(
    two: list[Member], held: str
) -> None:
    """Connections are kept by a thread that needs no interpreter, so a silence is a real one."""
    main, _ = two
    if held == "before they answer":
        assert not main.run("import sys\nsys.setswitchinterval(60)").failed
    code = (
        "import ctypes, os\n"
        "if os.environ['BACKENDAI_CLUSTER_LOCAL_RANK'] == '0':\n"
        "    ctypes.PyDLL(None).sleep(7)"
    )
    outcome = main.run(f"%%backendai all\n{code}\nprint('done')")
    assert (outcome.error, outcome.stderr) == ("", "")


def test_a_member_with_another_secret_runs_nothing(short_tmp_path: Path) -> None:
    with members(short_tmp_path, size=2, secrets=(SECRET, secrets.token_hex(32))) as (main, sub):
        with soon():
            outcome = main.run("%%backendai subs\nopen('ran', 'w')")
        assert outcome.error.endswith(f"{sub.host}: it does not let us in: it has another secret")
        assert not (sub.place.run_dir / "ran").exists()


def test_a_stranger_who_knows_the_public_key_is_not_let_in(two: list[Member]) -> None:
    keys = two[1].place.keys()
    own_secret = z85.encode(secrets.token_bytes(32))
    stranger = Stranger(two[1].host, keys, own_secret, zmq.curve_public(own_secret))
    assert stranger.answer() == []
    assert Stranger(two[1].host, keys, keys.secret, keys.public).answer() == [PONG]


def test_a_session_of_one_kernel_has_main_alone_and_no_listener(short_tmp_path: Path) -> None:
    with members(short_tmp_path, size=1) as (main,):
        outcome = main.run("%%backendai all\nprint('alone')\n1 / 0")
        assert outcome.stdout == f"[{main.host}] alone\n"
        assert outcome.error.endswith(f"{main.host}: ZeroDivisionError: division by zero")
        assert "and no subs" in main.run("%%backendai subs\n1").stderr
        assert main.listener() is None


def test_what_is_secret_is_in_no_command_environment_or_open_file(two: list[Member]) -> None:
    _, sub = two
    listener = listener_of(sub)
    for pid in (sub.process.pid, listener.pid):
        shown = (
            Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
        )
        assert SECRET.encode() not in shown
    modes = {path.name: path.stat().st_mode & 0o077 for path in sub.place.run_dir.iterdir()}
    assert modes["members.key"] == modes["kernel_lib.zip"] == 0


def listener_of(member: Member) -> psutil.Process:
    found = asyncio.run(eventually(member.listener, within_s=SOON_S))
    assert found is not None
    return found


def has_ended(process: psutil.Process) -> bool:
    """Whether it runs no more; nobody may have asked for its exit code."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


class Stranger:
    """Greets a listener with keys of its choice, and hears what comes back within a moment."""

    def __init__(self, host: str, server: Keys, secret: bytes, public: bytes) -> None:
        self._context: zmq.Context[Any] = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        server.guard(self._socket, accepts=False)
        self._socket.curve_secretkey, self._socket.curve_publickey = secret, public
        self._socket.connect(f"tcp://{host}:{PORT}")
        self._socket.send(PING)

    def answer(self) -> list[bytes]:
        heard = self._socket.recv_multipart() if self._socket.poll(1500) else []
        self._context.destroy(linger=0)
        return heard


@contextmanager
def soon() -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < SOON_S
