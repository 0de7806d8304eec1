"""OP-LoRA: a small MLP with a learned input predicts both LoRA factors; only they are kept after training."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from linalg import FactoredMatrix
from linalg.checks import check_choice, check_integer, check_number
from parameterizations._generator import affine, draw_head, draw_trunk, hidden_units, record_hidden_units, record_pull_back
from parameterizations._parameterization import Parameterization
from parameterizations._recorded import Recorded
from parameterizations._step import Params


@dataclass(frozen=True)
class OPLoRA(Parameterization):
    """[A; Bᵀ] by rows = W2 ReLU(W1 z + c1) + c2 (eq. 4), scaled by alpha / r; the update starts at zero.

    Args:
        rank: r of the predicted factors A (r, n) and B (m, r).
        hidden: width k of the hidden layer.
        embedding: length of the learned input z.
        alpha: None for r, so that the scale is 1.
        embedding_scale: standard deviation of z at the start. The paper does not give it; its early code used 1 and 0.01.
        head: how B starts at zero. `zero`: B's rows of W2 are zero (the paper's appendix C.1);
            `rezero`: B is multiplied by a learned number that starts at zero (the early code).
        generators: `shared`, one MLP for both factors, or `separate`, one for each (the paper's matrix factorization).

    All biases start at zero, as the paper says; its early code left the hidden layer's at torch's default.
    Both weights are U[-1/√fan_in, 1/√fan_in], torch's default for a linear layer, as in that code.
    """

    reference: ClassVar[str] = "Teterwak et al. 2024, arXiv 2412.10362"
    size: ClassVar[str] = (
        "(2 if generators == 'separate' else 1) * (embedding + hidden * (embedding + 1)) "
        "+ (hidden + 1) * r * (m + n) + (head == 'rezero')"
    )
    pair: ClassVar[str] = "predicted"

    rank: int = 8
    hidden: int = 32
    embedding: int = 128
    alpha: float | None = None
    embedding_scale: float = 1.0
    head: str = "zero"
    generators: str = "shared"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("hidden", "embedding"):
            check_integer(name, getattr(self, name))
        check_number("embedding_scale", self.embedding_scale, above=0)
        check_choice("head", self.head, ("zero", "rezero"))
        check_choice("generators", self.generators, ("shared", "separate"))

    def initial(self, shape, generator, base, gradient):
        m, n = shape
        params: Params = {}
        for prefix in dict.fromkeys(self._trunks.values()):
            params |= draw_trunk(self.hidden, self.embedding, self.embedding_scale, generator, prefix)
        for factor, entries in (("right", self.rank * n), ("left", m * self.rank)):
            head = draw_head(entries, self.hidden, generator)
            starts_at_zero = factor == "left" and self.head == "zero"
            params[f"{factor}_head_weight"] = torch.zeros_like(head) if starts_at_zero else head
            params[f"{factor}_head_bias"] = torch.zeros(entries, dtype=torch.float64)
        if self.head == "rezero":
            params["rescale"] = torch.zeros(1, dtype=torch.float64)
        return params

    @property
    def _trunks(self) -> dict[str, str]:
        """Which embedding and hidden layer, by prefix, each factor's head sits on."""
        return {"right": "", "left": ""} if self.generators == "shared" else {"right": "right_", "left": "left_"}

    def factors(self, params):
        hidden = {prefix: hidden_units(params, prefix) for prefix in set(self._trunks.values())}
        left, right = (
            affine(params[f"{factor}_head_weight"], hidden[self._trunks[factor]], params[f"{factor}_head_bias"])
            for factor in ("left", "right")
        )
        if self.head == "rezero":
            left = left * params["rescale"]
        return self._matrix(left).mT, self._matrix(right)

    def _matrix(self, entries: Tensor) -> Tensor:
        """(..., r, p) of a predicted vector (..., r p): Bᵀ or A, whose rows are the long ones."""
        return entries.unflatten(-1, (self.rank, -1))

    def record(self, program, params, grads, at):
        """By hand: a head's gradient is an outer product, which rules may take as it is.

        The gradient of a head's bias is that of its factor: one memory serves both.
        """
        hidden = {prefix: record_hidden_units(program, params, prefix) for prefix in dict.fromkeys(self._trunks.values())}
        predicted, places = {}, {}
        for factor, prefix in self._trunks.items():
            entries = program.matmul(params[f"{factor}_head_weight"], hidden[prefix])
            program.do(entries.add_, params[f"{factor}_head_bias"][..., None])
            predicted[factor] = entries[..., 0]
            places[factor] = grads[f"{factor}_head_bias"]
        left, left_place = predicted["left"], places["left"]
        if self.head == "rezero":
            left = program.empty(left, left.shape)
            left_place = program.empty(left, left.shape)
            program.do(torch.mul, predicted["left"], params["rescale"], out=left)
        weight = FactoredMatrix((self._matrix(left).mT, self._matrix(predicted["right"])), params.get("base"), self.scaling)

        def pull_back() -> None:
            if self.head == "rezero":
                program.do(torch.mul, left_place, params["rescale"], out=places["left"])
                program.matmul(left_place[..., None, :], predicted["left"][..., None], grads["rescale"][..., None])
            for prefix, units in hidden.items():
                own = [factor for factor, trunk in self._trunks.items() if trunk == prefix]
                heads = [(params[f"{factor}_head_weight"], places[factor][..., None]) for factor in own]
                record_pull_back(program, params, grads, units, heads, prefix)

        outer = {f"{factor}_head_weight": (places[factor][..., None], hidden[prefix].mT) for factor, prefix in self._trunks.items()}
        return Recorded(weight, (self._matrix(left_place).mT, self._matrix(places["right"])), pull_back, outer)
