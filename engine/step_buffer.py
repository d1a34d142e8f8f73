"""A step's arrays in one int32 buffer: one copy to the device, and addresses that a captured graph can keep."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.int32]
_LINE = 4  # arrays begin at multiples of 16 bytes


class StepBuffer:
    """Named int32 arrays of fixed largest sizes, on the host (pinned for a GPU) and on the device.

    Attributes:
        views: The arrays on the device, at their largest sizes.
        device: Where they are.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], fills: Mapping[str, int], device: torch.device) -> None:
        """Room for arrays.

        Args:
            shapes: Largest shape of each; the arrays of :meth:`load` are no larger in the first dimension, and agree
                in the others. What is likely to be short comes last, so that little is copied.
            fills: What stands behind the end of an array; 0 where nothing is said.
            device: Where the kernels run.
        """
        self._spans: dict[str, tuple[int, int]] = {}
        end = 0
        for name, shape in shapes.items():
            size = int(np.prod(shape, dtype=np.int64))
            self._spans[name] = (end, size)
            end += max(-(-size // _LINE), 1) * _LINE
        self._host = torch.zeros(end, dtype=torch.int32, pin_memory=device.type == "cuda")
        self._array: Array = self._host.numpy()
        for name, fill in fills.items():
            start, size = self._spans[name]
            self._array[start : start + size] = fill
        self._empty = self._array.copy()
        self._device = self._host.to(device, copy=True)
        self.device = device
        self.views = {
            name: self._device[start : start + size].view(shapes[name]) for name, (start, size) in self._spans.items()
        }

    @classmethod
    def of(cls, arrays: Mapping[str, Array], device: torch.device) -> "StepBuffer":
        """A buffer that fits these arrays, with them in it."""
        buffer = cls({name: array.shape for name, array in arrays.items()}, {}, device)
        buffer.load(arrays)
        return buffer

    def load(self, arrays: Mapping[str, Array]) -> None:
        """Put arrays on the device; does not wait. The copy before must have been made: a step ends with a wait.

        Raises:
            ValueError: An array is larger than its room.
        """
        last = max((self._spans[name][0] + array.size for name, array in arrays.items()), default=0)
        self._array[:last] = self._empty[:last]
        for name, array in arrays.items():
            start, size = self._spans[name]
            if array.size > size:
                raise ValueError(f"{name} has {array.size} numbers, and there is room for {size}")
            self._array[start : start + array.size] = array.ravel()
        self._device[:last].copy_(self._host[:last], non_blocking=True)
