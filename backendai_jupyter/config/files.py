"""The config files of a Jupyter Server, for tools that run without one."""

from __future__ import annotations

from jupyter_core.paths import jupyter_config_path
from traitlets.config import Config
from traitlets.config.application import Application

SECTIONS = ("BackendAI", "BackendAIAgent")


def load_files(name: str = "jupyter_server_config") -> Config:
    """Return our two sections of the config files called ``name``, as their program reads them."""
    merged = Config()
    # JupyterApp reads its files with the same method, but only as a part of starting up.
    loaded = Application._load_config_files(name, path=jupyter_config_path())
    for config, _file in loaded:
        merged.merge({name: config[name] for name in SECTIONS if name in config})
    return merged
