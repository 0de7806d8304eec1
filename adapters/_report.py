"""What training and using an adapter take, as the papers count it."""

from collections.abc import Sequence

import pandas as pd
import torch
from torch import nn

from adapters._config import plain_name
from adapters._install import pair_of
from adapters._sites import sites
from optimizers import RuleOptimizer


def trainable_parameters(model: nn.Module) -> int:
    """How many numbers an optimizer is to move: all that require a gradient. Predicted A and B are not among them."""
    return sum(tensor.numel() for tensor in model.parameters() if tensor.requires_grad)


def report(model: nn.Module, optimizer: torch.optim.Optimizer | None = None, *, adapter: str = "default") -> pd.DataFrame:
    """A row for each layer of an adapter, and their sum.

    Columns: `method`; `training`, numbers that train; `frozen`, numbers that the method keeps beside them; `inference`, numbers of
    the plain A and B that remain; `rank` of those; `state_bytes` that the optimizer keeps for them, where one is given and
    has stepped; `kept_bytes`, what stays beside all of these: what the method freezes or remembers, and the copy of a weight
    that it has merged into.
    """
    rows = []
    for site in sites(model, adapter):
        pair = pair_of(site)
        if pair is None:
            left, right = site.factors
            parameters = list(site.stored)
            frozen, kept, method = 0, 0, "LoRA"
        else:
            left, right = pair.plain()
            parameters = list(pair.parameters())
            frozen, method = sum(tensor.numel() for tensor in pair.buffers()), type(pair.method).__name__
            beside = [*pair.buffers(), *(pair.at.memory.values() if pair.source is pair else ())]
            beside += [] if pair.original is None else [pair.original]
            kept = sum(tensor.numel() * tensor.element_size() for tensor in beside)
        row = {
            "layer": plain_name(site.name),
            "method": method,
            "training": sum(tensor.numel() for tensor in parameters if tensor.requires_grad),
            "frozen": frozen,
            "inference": left.numel() + right.numel(),
            "rank": left.shape[1],
            "kept_bytes": kept,
        }
        if optimizer is not None:
            row["state_bytes"] = state_bytes(optimizer, parameters)
        rows.append(row)
    table = pd.DataFrame(rows).set_index("layer")
    total = table.drop(columns=["method", "rank"]).sum()
    table.loc["total"] = total.reindex(table.columns)
    table.loc["total", "method"] = " + ".join(dict.fromkeys(table["method"].iloc[:-1]))
    return table.astype({column: "Int64" if column == "rank" else int for column in [*total.index, "rank"]})


def state_bytes(optimizer: torch.optim.Optimizer, parameters: Sequence[torch.Tensor]) -> int:
    """What an optimizer keeps for some parameters, counts of steps left out."""
    optimizer = getattr(optimizer, "optimizer", optimizer)  # accelerate's, around it
    if isinstance(optimizer, RuleOptimizer):
        return optimizer.bytes_of(parameters)
    kept = [optimizer.state.get(tensor, {}) for tensor in parameters]
    values = [value for each in kept for key, value in each.items() if key != "step" and isinstance(value, torch.Tensor)]
    return sum(value.numel() * value.element_size() for value in values)
