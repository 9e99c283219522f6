"""Runs beside a Python kernel, in a process of its own: what the other members ask is done here.

A process, because a kernel that is busy must still answer and be interrupted (decision 035).
"""

from __future__ import annotations

import runpy

if __name__ == "__main__":
    # By name: here the package is on the path, and this directory is no package.
    runpy.run_module("backendai_members.listener", run_name="__main__")
