"""The free list of KV blocks; hands out neighbours, so that a sequence's slots form few runs."""


class BlockPool:
    """Which blocks are free: one byte each, so that runs are found by ``bytearray.find``."""

    def __init__(self, num_blocks: int) -> None:
        """All ``num_blocks`` blocks free."""
        self.num_blocks = num_blocks
        self.num_free = num_blocks
        self._free = bytearray(b"\x01" * num_blocks)

    def take(self, num: int, after: int | None) -> list[int]:
        """Take ``num`` free blocks, from block ``after + 1`` on if it is free, then in runs as long as possible."""
        assert num <= self.num_free
        taken: list[int] = []
        block = self.num_blocks if after is None else after + 1
        while len(taken) < num:
            if block >= self.num_blocks or not self._free[block]:
                block = self._find_run(num - len(taken))
            self._free[block] = 0
            taken.append(block)
            block += 1
        self.num_free -= num
        return taken

    def give_back(self, blocks: list[int]) -> None:
        """Return blocks to the pool."""
        for block in blocks:
            assert not self._free[block]
            self._free[block] = 1
        self.num_free += len(blocks)

    def free_blocks(self) -> list[int]:
        """Ids of the free blocks, ascending."""
        return [block for block, free in enumerate(self._free) if free]

    def _find_run(self, length: int) -> int:
        while (start := self._free.find(b"\x01" * length)) < 0:
            length //= 2
        return start


def slot_runs(blocks: list[int], block_size: int, start: int, end: int) -> tuple[tuple[int, int], ...]:
    """Slots of positions ``[start, end)`` of a sequence, as (first, one past last) runs of consecutive slots.

    position  0 … 63 | 64 … 127 | 128 …        blocks [7, 8, 3], block_size 64
    slot    448 … 511 | 512 … 575 | 192 …      positions [0, 130) -> (448, 576), (192, 194)
    """
    runs: list[tuple[int, int]] = []
    pos = start
    while pos < end:
        offset = pos % block_size
        step = min(block_size - offset, end - pos)
        slot = blocks[pos // block_size] * block_size + offset
        if runs and runs[-1][1] == slot:
            runs[-1] = (runs[-1][0], slot + step)
        else:
            runs.append((slot, slot + step))
        pos += step
    return tuple(runs)
