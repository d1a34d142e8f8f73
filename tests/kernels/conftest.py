from collections.abc import Iterator
from math import prod

import pytest
import torch

# More than the last block of rows holds beyond the batch.
GUARD = 16384


@pytest.fixture
def guarded(monkeypatch) -> Iterator[None]:
    """What kernels allocate is NaN to begin with, and lies between NaNs that must still be there in the end.

    Random numbers are the same in every run.
    """
    torch.manual_seed(0)
    made: list[torch.Tensor] = []
    real = torch.empty

    def empty(*shape, dtype, device):
        if not dtype.is_floating_point:
            return real(*shape, dtype=dtype, device=device)
        memory = torch.full((prod(shape) + 2 * GUARD,), float("nan"), dtype=dtype, device=device)
        made.append(memory)
        return memory[GUARD : len(memory) - GUARD].view(shape)

    monkeypatch.setattr(torch, "empty", empty)
    monkeypatch.setattr(torch, "empty_like", lambda x: empty(*x.shape, dtype=x.dtype, device=x.device))
    yield
    for memory in made:
        assert memory[:GUARD].isnan().all() and memory[len(memory) - GUARD :].isnan().all(), "written out of bounds"
