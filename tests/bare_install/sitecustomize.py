"""Hides installed packages from this Python and from those that it starts, as if nobody had installed them.

Python imports this file when it starts, where its folder is on PYTHONPATH; `HIDDEN` names what is hidden, as JSON.
"""

import json
import os
import sys
from importlib.machinery import PathFinder

HIDDEN = json.loads(os.environ["HIDDEN"])


class Finder(PathFinder):
    """Finds neither the modules nor the distributions that are hidden."""

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        return None if fullname.split(".")[0] in HIDDEN["modules"] else super().find_spec(fullname, path, target)

    @classmethod
    def find_distributions(cls, *context):
        found = PathFinder.find_distributions(*context)
        return (each for each in found if each.metadata["Name"] not in HIDDEN["distributions"])


sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
