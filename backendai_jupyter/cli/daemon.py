"""``backendai-agent``: the agent of one node, as a service that systemd or a person starts."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from typing import Any, cast

from jupyter_core.application import JupyterApp
from traitlets import TraitError
from traitlets.config import catch_config_error

from backendai_jupyter import __version__
from backendai_jupyter.agent.daemon import serve
from backendai_jupyter.config import BackendAIAgent
from backendai_jupyter.errors import BackendError


class AgentApp(JupyterApp):
    """The agent of one node of a Backend.AI cluster.

    It is configured by ``backendai_agent_config.py`` in a directory that ``jupyter --paths``
    lists under config, or by ``--config=FILE``.
    """

    name = "backendai-agent"
    version = __version__
    description = __doc__ or ""
    classes = [BackendAIAgent]  # noqa: RUF012 - the base class declares it so
    subcommands: dict[str, Any] = {}  # noqa: RUF012 - the same

    def _config_file_name_default(self) -> str:
        return "backendai_agent_config"

    def _log_level_default(self) -> int:
        return logging.INFO

    @catch_config_error
    def initialize(self, argv: Any = None) -> None:
        super().initialize(argv)
        logging.basicConfig(
            level=cast(int, self.log_level),
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        )

    def start(self) -> None:
        super().start()
        try:
            asyncio.run(self._serve())
        except (BackendError, TraitError, OSError) as error:
            sys.exit(f"The agent cannot start. {error}")

    async def _serve(self) -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, stop.set)
        await serve(BackendAIAgent(config=self.config), stop)


def main() -> None:
    AgentApp.launch_instance()


if __name__ == "__main__":
    main()
