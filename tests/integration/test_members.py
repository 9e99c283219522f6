"""A cell on all members of a session: who says what, how it ends, and what may go wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.integration.members_rig import Member, members

COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Member]]:
    """A session of three; tests leave them as they are."""
    with members(tmp_path_factory.mktemp("m"), size=3) as started:
        yield started


def test_a_cell_runs_on_all_members_and_each_line_says_whose_it_is(three: list[Member]) -> None:
    main, *_ = three
    code = "import os\nprint('I am', os.environ['BACKENDAI_CLUSTER_LOCAL_RANK'])"
    outcome = main.run(f"%%backendai all\n{code}")
    assert outcome.error == ""
    assert outcome.lines == [f"[{m.host}] I am {rank}" for rank, m in enumerate(three)]


def test_subs_are_all_but_main_and_keep_their_variables(three: list[Member]) -> None:
    main, *subs = three
    assert main.run("%%backendai subs\nkept = 6 * 7").error == ""
    outcome = main.run("%%backendai subs\nkept")
    assert outcome.lines == [f"[{sub.host}] 42" for sub in subs]
    assert main.run(f"%%backendai {subs[1].host}\nkept").stdout == f"[{subs[1].host}] 42\n"
    assert main.run("kept").error.startswith("NameError")


def test_members_run_at_the_same_time(three: list[Member]) -> None:
    """None would pass this barrier if one waited for another."""
    main, *_ = three
    code = (
        "import os, socket\n"
        "hosts, rank = os.environ['BACKENDAI_CLUSTER_HOSTS'].split(','), "
        "int(os.environ['BACKENDAI_CLUSTER_LOCAL_RANK'])\n"
        "server = socket.create_server((hosts[rank], 7500))\n"
        "def reached(host):\n"
        "    while True:\n"
        "        try:\n"
        "            return socket.create_connection((host, 7500))\n"
        "        except OSError:\n"
        "            pass\n"
        "met = [reached(host) for host in hosts]\n"
        "len([server.accept() for _ in hosts])"
    )
    outcome = main.run(f"%%backendai all --timeout 30\n{code}")
    assert outcome.error == ""
    assert outcome.lines == [f"[{member.host}] 3" for member in three]


def test_one_that_fails_shows_its_traceback_and_the_cell_fails_at_the_end(
    three: list[Member],
) -> None:
    main, first, second = three
    code = "import os\nprint(1 / (int(os.environ['BACKENDAI_CLUSTER_LOCAL_RANK']) - 1))"
    outcome = main.run(f"%%backendai all --out results\n{code}")
    assert f"[{second.host}] 1.0" in outcome.lines
    shown = COLOUR.sub("", outcome.stderr)
    assert all(line.startswith(f"[{first.host}] ") for line in shown.splitlines())
    assert "print(1 / (int(os.environ" in shown
    assert outcome.error == (
        f"MembersFailed: 1 of 3 members failed: {first.host}: ZeroDivisionError: division by zero"
    )
    statuses = main.run("print([result.status for result in results.values()])")
    assert statuses.stdout == "['ok', 'error', 'ok']\n"


def test_results_are_gathered_and_shown_unless_that_is_not_wanted(three: list[Member]) -> None:
    main, *_ = three
    outcome = main.run("%%backendai all --quiet --out results\nprint('said')\n2 ** 10")
    assert (outcome.stdout, outcome.displays) == ("", [])
    gathered = main.run("print({(r.stdout, r.value, r.ok) for r in results.values()})")
    assert gathered.stdout == "{('said\\n', '1024', True)}\n"


def test_what_is_more_than_text_is_displayed_as_it_is(three: list[Member]) -> None:
    main, *_ = three
    code = "from IPython.display import HTML\nHTML('<b>bold</b>')"
    outcome = main.run(f"%%backendai all\n{code}")
    assert [shown["text/html"] for shown in outcome.displays] == ["<b>bold</b>"] * 3
    assert outcome.lines == [f"[{member.host}] " for member in three]


def test_python_has_the_same_as_a_function(three: list[Member]) -> None:
    main, *subs = three
    code = "import backendai_members as members"
    assert main.run(f"{code}\nprint(members.here(), len(members.hosts()))").stdout == (
        f"{main.host} 3\n"
    )
    call = "results = members.run('1 / 0', 'subs', quiet=True, check=False)"
    shown = main.run(f"{call}\nprint(*results.values(), sep='\\n')")
    assert shown.lines == [f"{sub.host}: ZeroDivisionError: division by zero" for sub in subs]
    assert main.run("members.run('1 / 0', 'subs', quiet=True)").error.startswith("MembersFailed")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("sub9", "no member is called sub9; there are: 127."),
        ("all --timeout soon", "argument --timeout: invalid float value: 'soon'"),
        ("", "the following arguments are required: all|subs|HOST"),
    ],
)
def test_what_cannot_be_meant_is_said_before_anything_runs(
    three: list[Member], line: str, said: str
) -> None:
    outcome = three[0].run(f"%%backendai {line}\nprint('ran')")
    assert outcome.failed
    assert said in outcome.stderr + outcome.error
    assert outcome.stdout == ""


def test_await_works_on_subs_and_main_says_that_it_does_not(three: list[Member]) -> None:
    main, *subs = three
    code = "import asyncio\nawait asyncio.sleep(0)\n'slept'"
    assert main.run(f"%%backendai subs\n{code}").lines == [f"[{s.host}] 'slept'" for s in subs]
    assert "use `subs`" in main.run(f"%%backendai all\n{code}").stderr


def test_an_interrupt_of_main_interrupts_all(three: list[Member]) -> None:
    main, *_ = three
    code = "import time\nprint('begun')\ntime.sleep(600)"
    request = main.ask(f"%%backendai all --out results\n{code}")
    outcome = main.until_said(request, f"[{main.host}] begun")
    for member in three[1:]:
        outcome = main.until_said(request, f"[{member.host}] begun", outcome)
    main.interrupt()
    outcome = main.end(request, outcome)
    assert outcome.error.startswith("MembersInterrupted: 3 of 3 members failed")
    assert main.run("%%backendai all\n'here'").lines == [f"[{m.host}] 'here'" for m in three]


def test_a_cell_that_takes_too_long_is_interrupted_everywhere(three: list[Member]) -> None:
    main, *_ = three
    outcome = main.run("%%backendai all --timeout 0.5\nimport time\ntime.sleep(600)")
    each = "; ".join(f"{member.host}: interrupted after 0.5 s" for member in three)
    assert outcome.error == f"MembersFailed: 3 of 3 members failed: {each}"


def test_a_flood_comes_whole_and_fills_nobodys_memory(three: list[Member]) -> None:
    main, sub, _ = three
    code = "for number in range(20000): print(number, 'x' * 1000)"
    request = main.ask(f"%%backendai {sub.host}\n{code}")
    outcome = main.end(request)
    lines = outcome.stdout.splitlines()
    assert [line.split()[1] for line in lines] == [str(number) for number in range(20000)]
    listener = sub.listener()
    assert listener is not None
    assert listener.memory_info().rss < 80e6
