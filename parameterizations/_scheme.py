"""A hyperparameter that shares its name with a method."""

from typing import Any

from parameterizations._parameterization import Parameterization
from parameterizations._step import Params


class Scheme(str):
    """The name of an initialisation that is also the draw itself: `lora.init == "kaiming"`, and `lora.init(shape)` draws.

    LoRA's literature calls the hyperparameter `init`, and so does this suite the method that every parameterization has.
    """

    owner: Parameterization

    def __new__(cls, name: str, owner: Parameterization) -> "Scheme":
        scheme = super().__new__(cls, name)
        scheme.owner = owner
        return scheme

    def __call__(self, shape: tuple[int, int], **options: Any) -> Params:
        return Parameterization.init(self.owner, shape, **options)

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return str, (str(self),)  # a copy is plain text: the owner it is copied into makes it a scheme again
