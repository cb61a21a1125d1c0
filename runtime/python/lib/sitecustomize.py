"""Python runs this at its start, before any code of a pack: the image's PYTHONPATH names this folder.

It does two things. Our modules are found here and nowhere else: a pack's folder comes first on sys.path, so a file
rumi_syscall.py in it, or in a dependency, would be imported in place of ours. And packages of the base image, such as pip,
are taken off sys.path: a pack was approved without them.
"""

import os
import site
import sys
from importlib.machinery import PathFinder

_HERE = os.path.dirname(os.path.abspath(__file__))
_OURS = frozenset(("rumi_syscall", "rumi_capability", "rumi_socket"))


class _Ours:
    """A finder that finds our modules in this folder and nowhere else."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in _OURS:
            return PathFinder.find_spec(name, [_HERE])
        return None


sys.meta_path.insert(0, _Ours)

_base = frozenset(site.getsitepackages())
# The pack's installed environment comes last, so it can't shadow the standard library. It isn't a site folder, so its .pth files, which
# may run code, are not read. Without a container (RUMI_SECURITY_MODE=permissive) it is elsewhere.
sys.path[:] = [entry for entry in sys.path if entry not in _base] + [os.environ.get("RUMI_SITE_PACKAGES", "/site-packages")]
