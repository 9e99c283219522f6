"""``jupyter backendai doctor``: whether this machine can run kernels, and what to do if not."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

import click
from pydantic import RootModel

from backendai_jupyter.cli.checks import run_checks
from backendai_jupyter.cli.findings import Finding, State
from backendai_jupyter.cli.output import json_option, print_json, print_table
from backendai_jupyter.config import load_files


class Findings(RootModel[list[Finding]]):
    """What all checks found, in their order."""


@click.command()
@click.option("--agent", "is_agent", is_flag=True, help="Check a node of backendai-agent.")
@json_option
def doctor(is_agent: bool, as_json: bool) -> None:
    """Check that this machine can run kernels; exit code 1 if something fails."""
    config = load_files("backendai_agent_config" if is_agent else "jupyter_server_config")
    found = asyncio.run(run_checks(config, is_agent=is_agent))
    if as_json:
        print_json(Findings(found))
    else:
        print_table(("CHECK", "", "FOUND"), rows(found))
        click.echo(f"\n{verdict(found)}")
    sys.exit(1 if any(one.state is State.FAIL for one in found) else 0)


def rows(found: Sequence[Finding]) -> list[tuple[str, str, str]]:
    """Return one row for each finding, and another for the advice that it comes with."""
    lines: list[tuple[str, str, str]] = []
    for one in found:
        lines.append((one.check, one.state, one.message))
        if one.advice:
            lines.append(("", "", f"-> {one.advice}"))
    return lines


def verdict(found: Sequence[Finding]) -> str:
    failed = sum(one.state is State.FAIL for one in found)
    warned = sum(one.state is State.WARN for one in found)
    if failed:
        return f"{failed} of {len(found)} checks failed."
    if warned:
        return f"Kernels can run here, with {warned} warning{'' if warned == 1 else 's'}."
    return "Kernels can run here."
