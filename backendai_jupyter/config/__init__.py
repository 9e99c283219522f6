"""Every setting, as traits: ``c.BackendAI...`` for managers, ``c.BackendAIAgent...`` for agents.

Both sections are read from ``jupyter_server_config.py``, also by tools that run without a
server (nbclient, papermill), so that one file configures a machine.
"""

from backendai_jupyter.config.agent import BackendAIAgent
from backendai_jupyter.config.files import load_files
from backendai_jupyter.config.manager import BackendAI

__all__ = ["BackendAI", "BackendAIAgent", "load_files"]
