"""Run code on the members of this session: ``%%backendai all`` in a cell, ``run`` in Python.

The agent puts this package beside each kernel (decision 035).  It needs nothing but ipykernel and
pyzmq of the kernel's own image, and nothing of ``backendai_jupyter``.
"""

from __future__ import annotations

from .magic import load_ipython_extension
from .place import NoSuchMember
from .results import MembersFailed, MembersInterrupted, Result
from .running import here, hosts, run

__all__ = [
    "MembersFailed",
    "MembersInterrupted",
    "NoSuchMember",
    "Result",
    "here",
    "hosts",
    "load_ipython_extension",
    "run",
]
