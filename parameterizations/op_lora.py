"""OP-LoRA: a small MLP with a learned input predicts both LoRA factors; only they are kept after training."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from linalg import FactoredMatrix
from linalg.checks import check_choice, check_integer, check_number
from linalg.random import gaussian, uniform
from parameterizations._parameterization import Parameterization, Recorded


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
    pair: ClassVar[str] = "predicted"

    rank: int = 8
    hidden: int = 32
    embedding: int = 128
    alpha: float | None = None
    embedding_scale: float = 1.0
    head: str = "zero"
    generators: str = "shared"

    def __post_init__(self) -> None:
        for name in ("rank", "hidden", "embedding"):
            check_integer(name, getattr(self, name))
        if self.alpha is not None:
            check_number("alpha", self.alpha, above=0)
        check_number("embedding_scale", self.embedding_scale, above=0)
        check_choice("head", self.head, ("zero", "rezero"))
        check_choice("generators", self.generators, ("shared", "separate"))

    def initial(self, shape, generator, base, gradient):
        m, n = shape
        params = {}
        for prefix in dict.fromkeys(self._trunks.values()):
            params[f"{prefix}embedding"] = self.embedding_scale * gaussian(self.embedding, generator=generator)
            params[f"{prefix}hidden_weight"] = uniform(
                self.hidden, self.embedding, bound=1 / math.sqrt(self.embedding), generator=generator
            )
            params[f"{prefix}hidden_bias"] = torch.zeros(self.hidden, dtype=torch.float64)
        for factor, entries in (("right", self.rank * n), ("left", m * self.rank)):
            head = uniform(entries, self.hidden, bound=1 / math.sqrt(self.hidden), generator=generator)
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
        hidden = {
            prefix: torch.relu(
                _affine(params[f"{prefix}hidden_weight"], params[f"{prefix}embedding"], params[f"{prefix}hidden_bias"])
            )
            for prefix in set(self._trunks.values())
        }
        left, right = (
            _affine(params[f"{factor}_head_weight"], hidden[self._trunks[factor]], params[f"{factor}_head_bias"])
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
        hidden: dict[str, Tensor] = {}
        for prefix in dict.fromkeys(self._trunks.values()):
            before = program.matmul(params[f"{prefix}hidden_weight"], params[f"{prefix}embedding"][..., None])
            program.do(before.add_, params[f"{prefix}hidden_bias"][..., None])
            hidden[prefix] = before
            program.do(before.clamp_min_, 0)
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
            reached: set[str] = set()
            for factor, prefix in self._trunks.items():
                column = places[factor][..., None]
                back = grads[f"{prefix}hidden_bias"][..., None]
                program.matmul(params[f"{factor}_head_weight"].mT, column, back, beta=float(prefix in reached))
                reached.add(prefix)
            for prefix, active in hidden.items():
                back = grads[f"{prefix}hidden_bias"][..., None]
                program.do(torch.ops.aten.threshold_backward.grad_input, back, active, 0, grad_input=back)
                program.do(torch.mul, back, params[f"{prefix}embedding"][..., None, :], out=grads[f"{prefix}hidden_weight"])
                program.matmul(params[f"{prefix}hidden_weight"].mT, back, grads[f"{prefix}embedding"][..., None])

        outer = {f"{factor}_head_weight": (places[factor][..., None], hidden[prefix].mT) for factor, prefix in self._trunks.items()}
        return Recorded(weight, (self._matrix(left_place).mT, self._matrix(places["right"])), pull_back, outer)

    @property
    def scaling(self) -> float:
        return 1.0 if self.alpha is None else self.alpha / self.rank


def _affine(weight: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    """weight @ x + bias for (..., p, q), (..., q) and (..., p)."""
    return (weight @ x[..., None])[..., 0] + bias
