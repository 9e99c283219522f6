"""``jupyter backendai <noun> <verb>``: where every command begins, and how each may fail."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import click
from traitlets import TraitError

from backendai_jupyter import __version__
from backendai_jupyter.errors import BackendError

PROGRAM = "jupyter backendai"


class Nouns(click.Group):
    """Imports no more than the noun that was asked for: some of them are slow to load."""

    nouns = ("agent", "doctor", "etcd", "image", "run", "schema", "session", "vfolder")

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.nouns)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.nouns:
            return None
        module = importlib.import_module(f"backendai_jupyter.cli.{cmd_name}")
        command: click.Command = getattr(module, cmd_name)
        return command


@click.group(cls=Nouns)
@click.version_option(__version__, prog_name=PROGRAM)
def commands() -> None:
    """See and steer the compute sessions of this machine.

    Asks the Jupyter Server that runs here; where there is none, looks itself.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command.  A failure is one sentence: exit code 1; 2 if it was asked wrongly."""
    try:
        commands.main(arguments, prog_name=PROGRAM)
    except (BackendError, TraitError) as error:
        click.echo(f"{PROGRAM}: {error}", err=True)
        sys.exit(1)
