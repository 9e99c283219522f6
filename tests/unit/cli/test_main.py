"""How every command fails: one sentence, and an exit code that says whose mistake it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jupyter_core.paths import jupyter_config_dir

from backendai_jupyter.cli.main import Nouns, commands, main


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    return int(caught.value.code or 0)


def configure(text: str) -> None:
    folder = Path(jupyter_config_dir())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "jupyter_server_config.py").write_text(text)


@pytest.fixture(autouse=True)
def _in_a_small_place(short_tmp_path: Path) -> None:
    configure(f"c.BackendAI.runtime_dir = {str(short_tmp_path / 'r')!r}\n")


def test_an_empty_list_is_a_success(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("session", "ls") == 0
    assert "No session" in capsys.readouterr().out
    assert run("session", "ls", "--json") == 0
    assert json.loads(capsys.readouterr().out) == []


def test_an_error_of_ours_is_one_sentence_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("session", "show", "abc") == 1
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "jupyter backendai: There is no session abc.\n")


def test_a_wrong_setting_is_one_sentence_too(capsys: pytest.CaptureFixture[str]) -> None:
    configure(f"c.BackendAI.runtime_dir = {'/' + 'x' * 60!r}\n")
    assert run("session", "ls") == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "BackendAI.runtime_dir must be at most 50 bytes long" in line


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("session", "nonsense"),
        ("session", "ls", "--nonsense"),
        ("session", "ls", "--status", "nonsense"),
        ("session", "terminate"),
        ("image", "build"),
        ("image", "build", "python", "--build-arg", "nonsense"),
    ],
)
def test_a_wrong_question_is_a_usage_error(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    assert "Usage: jupyter backendai" in capsys.readouterr().err


def test_every_noun_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    shown = capsys.readouterr().out
    for noun in Nouns.nouns:
        assert noun in shown
        assert run(noun, "--help") == 0


def test_every_command_that_answers_can_answer_in_json() -> None:
    assert isinstance(commands, Nouns)
    context = commands.make_context("jupyter backendai", ["session"])
    for noun in Nouns.nouns:
        group = commands.get_command(context, noun)
        assert group is not None
        for verb in getattr(group, "commands", {noun: group}).values():
            assert "as_json" in [parameter.name for parameter in verb.params], verb.name
