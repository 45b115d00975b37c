"""Projector and predictor: small MLPs with BatchNorm between their layers (METHOD section 4).

Shapes: M rows (frames of all clips), D joint width, H hidden width.
"""

from __future__ import annotations

from torch import Tensor, nn

from modules.sync_batchnorm import SyncBatchNorm1d


class Projector(nn.Module):
    """(Linear, BatchNorm, ReLU) x (num_layers - 1), then Linear: [M, D] -> [M, D].

    State names are the published ones: `linear_hidden.1` (Linear), `.2` (BatchNorm) and `linear_out`.
    """

    def __init__(self, width: int, *, hidden_width: int = 4096, num_layers: int = 2) -> None:
        super().__init__()
        assert num_layers >= 1
        # Published checkpoints count the layers from 1; the first place does nothing.
        layers: list[nn.Module] = [nn.Identity()]
        last_width = width
        for _ in range(num_layers - 1):
            layers += [nn.Linear(last_width, hidden_width), SyncBatchNorm1d(hidden_width), nn.ReLU()]
            last_width = hidden_width
        self.linear_hidden = nn.Sequential(*layers)
        self.linear_out = nn.Linear(last_width, width)

    def forward(self, rows: Tensor) -> Tensor:
        projected: Tensor = self.linear_out(self.linear_hidden(rows))
        return projected
