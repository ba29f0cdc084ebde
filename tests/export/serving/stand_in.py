"""In place of a GPU: PyTorch computes the models of served_models.py on the CPU.

A test puts both files beside the model.py of a repository, which then calls `install`. All but the engine is the real
thing: the server, the Python backend, the data that passes between them, and bridge's handling of requests.
"""

import torch
from served_models import MODELS

from bridge.export.triton import service


class OnCpu:
    """Replaces service.Runner. Each call is in `runs`, by its number of requests, and in `rows`, by that of rows."""

    def __init__(self, file):
        self.file = file
        self.model = MODELS[file.metadata["model"].lower()]
        self.runs, self.rows = [], []

    def __call__(self, columns, rows):
        inputs = [service.joined(column, torch.device("cpu"), rows) for column in columns]
        self.runs.append(len(columns[0]))
        self.rows.append(rows)
        entries = zip(self.file.output_map, torch.utils._pytree.tree_leaves(self.model(*inputs)), strict=True)
        outputs = {entry: leaf for entry, leaf in entries if isinstance(entry, int)}
        return inputs, [outputs[index] for index in range(len(outputs))]


def install():
    """Has every instance of this process computed so."""
    service.runner_for = lambda file, gpu: OnCpu(file)
