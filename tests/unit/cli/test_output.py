"""How commands print."""

from __future__ import annotations

import pytest

from backendai_jupyter.cli.output import plain, print_table, share_text, short_ids, span


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "a moment"),
        (1, "1 second"),
        (59.9, "59 seconds"),
        (60, "1 minute"),
        (7200, "2 hours"),
        (86400 * 3 + 5, "3 days"),
        (-5, "a moment"),
    ],
)
def test_a_span_is_said_in_its_largest_unit(seconds: float, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize(
    ("ids", "shown"),
    [
        pytest.param([], [], id="none"),
        pytest.param(["0123456789"], ["01234567"], id="one"),
        pytest.param(["01234567ab", "01234567cd"], ["01234567a", "01234567c"], id="alike"),
        pytest.param(["abc", "abd"], ["abc", "abd"], id="short already"),
    ],
)
def test_short_ids_still_tell_sessions_apart(ids: list[str], shown: list[str]) -> None:
    assert short_ids(ids) == shown


def test_a_table_in_a_pipe_has_one_line_for_each_row(capsys: pytest.CaptureFixture[str]) -> None:
    reason = "a reason that is much longer than any terminal is wide " * 5
    print_table(("ID", "REASON"), [("a", reason), ("b", "")])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert reason.strip() in lines[1]


def test_a_name_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert plain("a\x1b]0;title\x07b\nc") == "a ]0;title b c"
    print_table(("NAME",), [("[red]x[/red]\x1b[31m",)])
    assert capsys.readouterr().out.splitlines()[1].strip() == "[red]x[/red] [31m"


def test_a_share_is_said_for_people() -> None:
    capacity = {"cpu": "16", "mem": str(8 * 1024**3)}
    assert share_text("cpu", {"cpu": "1.5"}, capacity) == "1.5 of 16"
    assert share_text("mem", {"mem": str(512 * 1024**2)}, capacity) == "512 MiB of 8 GiB"
    assert share_text("mem", {}, capacity) == "0 of 8 GiB"
