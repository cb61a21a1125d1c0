"""Run by Python at its start, before any code of a pack (the image's PYTHONPATH names this folder).

A pack's own folder comes first on sys.path, so a file called rumi_syscall.py there, or in one of its dependencies, would
be taken for ours. And what the base image brought with it (pip and its like) is no part of what a pack was approved with.
"""

import os
import site
import sys
from importlib.machinery import PathFinder

_HERE = os.path.dirname(os.path.abspath(__file__))
_OURS = frozenset(("rumi_syscall", "rumi_capability", "rumi_socket"))


class _Ours:
    """Finds our modules here and nowhere else."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in _OURS:
            return PathFinder.find_spec(name, [_HERE])
        return None


sys.meta_path.insert(0, _Ours)

_base = frozenset(site.getsitepackages())
# The pack's installed environment goes last: it can't shadow the standard library, and its .pth files are not read.
# Without a container (RUMI_SECURITY_MODE=permissive) it lies elsewhere.
sys.path[:] = [entry for entry in sys.path if entry not in _base] + [os.environ.get("RUMI_SITE_PACKAGES", "/site-packages")]
