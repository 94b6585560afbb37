"""What torchrun starts for test_processes.py: train models, and write down which sequences this process read."""

import json
import os
import sys
from pathlib import Path

import torch

from limelm.data.dataset import TokenDataset
from limelm.training import load_recipe, reproduce

recipe, data, out, *names = sys.argv[1:]
torch.set_num_threads(1)
read: list[int] = []
original = TokenDataset.__getitem__


def getitem(self, index):
    if self.split == "train":
        read.append(index)
    return original(self, index)


TokenDataset.__getitem__ = getitem  # type: ignore[method-assign]
for name in names:
    read.clear()
    reproduce(load_recipe(recipe), Path(out), [name], Path(data))
    Path(f"{out}-{name}-read-{os.environ.get('RANK', '0')}.json").write_text(json.dumps(read))
