"""The blocks of running sequences: had from the tree, grown, handed back to it."""

from alorakit.engine.block_tree import BlockTree, Match, Node, extra_at
from alorakit.engine.schedule import BlockCopy
from alorakit.engine.sequence import Sequence
from alorakit.engine.sharing import Tail


class BlockManager:
    """Gives sequences their block tables. A block belongs to the tree once it is full, else to one sequence.

    Attributes:
        tree: The prefix cache.
    """

    def __init__(self, tree: BlockTree) -> None:
        """Manage the blocks of ``tree``."""
        self.tree = tree

    def match(self, sequence: Sequence) -> Match:
        """What the prefix cache holds for a sequence; at least its last token is always computed."""
        if sequence.sampling.prompt_logprobs is not None:  # every prompt row must enter the model
            return Match((), None, 0)
        return self.tree.match(sequence.tokens, sequence.extra, len(sequence.tokens) - 1)

    def admit(self, sequence: Sequence, match: Match, tail: Tail | None) -> list[BlockCopy] | None:
        """Give a sequence blocks for all its tokens: those of ``match`` shared, the rest private.

        Args:
            sequence: It has none yet.
            match: From :meth:`match`.
            tail: Rows of a running sequence's block to copy, instead of the partial node of ``match``.

        Returns:
            Copies to make before the forward pass, or None, with nothing changed, if there are too few blocks.
        """
        partial = match.partial if tail is None else None
        self.tree.hold([*match.nodes, *([partial] if partial else [])])
        shared = [node.block for node in match.nodes]
        missing = self._num_blocks(sequence.num_rows) - len(shared)
        after = shared[-1] if shared else None
        private = None
        try:
            private = self.tree.allocate(missing, after)
            if private is None and partial:  # the copy's source may be the very block that is lacking
                self.tree.release([partial])
                partial, private = None, self.tree.allocate(missing, after)
        finally:
            self.tree.release([*([partial] if partial else []), *(match.nodes if private is None else ())])
        if private is None:
            return None
        sequence.nodes, sequence.blocks = list(match.nodes), shared + private
        sequence.num_computed = len(shared) * self.tree.block_size
        if tail is not None:
            source, rows = tail.block, tail.rows
        elif partial is not None:
            source, rows = partial.block, match.partial_rows
        else:
            return []
        sequence.num_computed += rows
        return [BlockCopy(source, private[0], rows, sequence)]

    def grow(self, sequence: Sequence, num_rows: int) -> bool:
        """See that a sequence has blocks for ``num_rows`` rows; False, with nothing changed, if they are lacking."""
        if num_rows <= len(sequence.blocks) * self.tree.block_size:
            return True
        missing = self._num_blocks(num_rows) - len(sequence.blocks)
        taken = self.tree.allocate(missing, sequence.blocks[-1] if sequence.blocks else None)
        if taken is None:
            return False
        sequence.blocks += taken
        return True

    def share_full_blocks(self, sequence: Sequence) -> None:
        """Hand every block that is full by now over to the tree, for others to use."""
        size = self.tree.block_size
        while (len(sequence.nodes) + 1) * size <= sequence.num_computed:
            node = self._insert(sequence, size)
            assert node is not None
            self.tree.hold([node])
            index = len(sequence.nodes)
            if node.block != sequence.blocks[index]:  # somebody else computed the same block meanwhile
                self.tree.free([sequence.blocks[index]])
                sequence.blocks[index] = node.block
            sequence.nodes.append(node)

    def forget_private_rows(self, sequence: Sequence) -> None:
        """Count only what is in the tree as computed."""
        sequence.num_computed = min(sequence.num_computed, len(sequence.nodes) * self.tree.block_size)

    def release(self, sequence: Sequence) -> None:
        """Take a sequence's blocks away; what it computed stays in the tree."""
        private = sequence.blocks[len(sequence.nodes) :]
        tail = sequence.num_computed - len(sequence.nodes) * self.tree.block_size
        if tail > 0:
            node = self._insert(sequence, tail)
            if node is not None and node.block == private[0]:
                private = private[1:]
        self.tree.free(private)
        self.tree.release(sequence.nodes)
        sequence.nodes, sequence.blocks = [], []

    def _insert(self, sequence: Sequence, rows: int) -> Node | None:
        start = len(sequence.nodes) * self.tree.block_size
        parent = sequence.nodes[-1] if sequence.nodes else self.tree.root
        tokens = tuple(sequence.tokens[start : start + rows])
        block = sequence.blocks[len(sequence.nodes)]
        extra = extra_at(sequence.extra, start + rows)
        return self.tree.insert(parent, tokens, extra, block, sequence.writer)

    def _num_blocks(self, num_tokens: int) -> int:
        return -(-num_tokens // self.tree.block_size)
