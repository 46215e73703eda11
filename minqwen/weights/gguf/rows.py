"""Weights of a GGUF checkpoint in pieces of bounded size, for a conversion."""

import torch

from ..disk.pages import Files
from ..quantised.requantise import Rows, matrix
from .load import Stored, checked


class StoredRows(Rows):
    """`Rows` of the parameters that the Moves of `plan` make up."""

    def __init__(self, opened, plan, shapes):
        self.shapes = {name: matrix(name, shape) for name, shape in shapes.items()}
        self.whole = {name: tuple(shape) for name, shape in shapes.items()}
        self.parts, self.last = {}, (None, None)  # the last parameter read whole
        for move in plan:
            self.parts.setdefault(move.name, []).append(Stored(opened, move))
        self.files = Files(part.entry for each in self.parts.values() for part in each)

    def read(self, name, e, low, high):
        """float32 [high - low, C] of one of `pieces`; InputError if it holds NaN."""
        parts, (*_, rows, width) = self.parts[name], self.shapes[name]
        rows //= len(parts)  # in each of them
        moved = parts[0].rows is not None or parts[0].columns is not None
        if ".experts." in name or not moved and len(parts) == 1:
            part, first = parts[low // rows], (e or 0) * rows + low % rows
            file = self.files.open[part.entry.file]
            found = part.read(file, first, high - low, width)
            wide = [values.to(torch.float32, copy=True) for _, values in found]
            return checked(part, torch.cat(wide))
        if self.last[0] != name:
            target = torch.empty(self.whole[name])
            for part in parts:
                part.fill(target[part.move.part], self.files.open[part.entry.file])
            self.last = name, target.view(-1, width)
        return self.last[1][low:high]
