"""What a training step needs at its height: the bytes of all tensors that live at the same time, counted one by one."""

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakMemory(TorchDispatchMode):
    """While the context lasts, follow every storage that an operation makes until nobody holds it any more.

    `peak` is then the most bytes that were alive together, what was there before left out. It does not depend on the machine, nor
    on an allocator's habits: on a GPU the allocator rounds up, and `torch.cuda.max_memory_allocated` says a few per cent more.

    Args:
        known: tensors that are there already, and are not to be counted where an operation returns them or views of them.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self._seen: dict[int, int] = {}
        self._known = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.follow(leaf)
        return out

    def follow(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._seen or key in self._known:
            return
        self._seen[key] = storage.nbytes()
        self.alive += storage.nbytes()
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self.forget, key)

    def forget(self, key: int) -> None:
        self.alive -= self._seen.pop(key, 0)
