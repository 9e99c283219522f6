"""The cell magic ``%%backendai``."""

from __future__ import annotations

import argparse
import shlex
from typing import Any, NoReturn

from IPython.core.error import UsageError
from IPython.core.magic import Magics, cell_magic, magics_class

from .place import NoSuchMember
from .results import NotAllWell
from .running import run


class Parser(argparse.ArgumentParser):
    """Reads the first line of a cell."""

    def __init__(self) -> None:
        super().__init__(prog="%%backendai", add_help=False, allow_abbrev=False)
        self.add_argument("members", metavar="all|subs|HOST[,HOST]")
        self.add_argument("--timeout", type=float, metavar="SECONDS")
        self.add_argument("--quiet", action="store_true")
        self.add_argument("--out", metavar="NAME")

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}\n{self.format_usage()}")


@magics_class
class MembersMagics(Magics):
    """What cells may begin with."""

    shell: Any

    @cell_magic
    def backendai(self, line: str, cell: str) -> None:
        """Run the cell on members of this session at once, and show what they say.

        %%backendai all|subs|HOST[,HOST] [--timeout SECONDS] [--quiet] [--out NAME]

        --timeout  interrupt it everywhere after that long
        --quiet    show nothing
        --out      the variable that gets what each member said, by its name
        """
        asked = Parser().parse_args(shlex.split(line))
        results = None
        try:
            results = run(cell, asked.members, timeout=asked.timeout, quiet=asked.quiet)
        except NotAllWell as error:
            results = error.results
            raise
        except (NoSuchMember, NotImplementedError) as error:
            raise UsageError(str(error)) from None
        finally:
            if asked.out and results is not None:
                self.shell.user_ns[asked.out] = results


def load_ipython_extension(shell: Any) -> None:
    shell.register_magics(MembersMagics)
