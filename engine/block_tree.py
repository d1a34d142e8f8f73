r"""The prefix cache: a tree of KV blocks, one owner of every block, matching exact to the token.

A node is one block: its tokens (fewer than a block at a tail) and its ``extra``. ``extra`` is None while every
row of the block lies before the activation point: such rows carry exactly the base model's keys, whoever computed
them. From the block that holds the activation point on it is ``(adapter digest, activation)``.

    base    [a b c d]-[e f g h]-[i j]          extra None
    aLoRA X            \\-[e f g X]             extra (X, 7): rows 4, 5 and 6 are the base's, row 7 is X's

Children are found by value (tokens and extra compared, never a bare hash), so nothing can collide.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple

from alorakit.engine.block_pool import BlockPool


class Extra(NamedTuple):
    """Whose keys a block holds from the activation point on."""

    digest: str
    activation: int


@dataclass(eq=False)
class Node:
    """One cached block.

    Attributes:
        tokens: Tokens whose KV the block holds, block_size of them at most.
        extra: None if every row is the base model's.
        block: Block id in the pool.
        start: Position of the first token.
        parent: None only for the root and for evicted nodes.
        children: By value of (tokens, extra).
        writer: Digest of the adapter whose request computed the block; None for a base request.
        refs: Sequences that hold the node.
        last_used: Clock of the last release.
    """

    tokens: tuple[int, ...]
    extra: Extra | None
    block: int
    start: int
    parent: "Node | None"
    children: dict[tuple[tuple[int, ...], Extra | None], "Node"] = field(default_factory=dict)
    writer: str | None = None
    refs: int = 0
    last_used: int = 0

    @property
    def end(self) -> int:
        """One past the position of the last token."""
        return self.start + len(self.tokens)

    def usable(self, tokens: Sequence[int], extra: Extra | None) -> int:
        """How many leading rows serve a request with ``tokens`` here and ``extra``."""
        limit = min(len(self.tokens), len(tokens))
        if self.extra != extra:
            first = min(e.activation for e in (self.extra, extra) if e is not None)
            limit = min(limit, max(0, first - self.start))
        for row in range(limit):
            if self.tokens[row] != tokens[row]:
                return row
        return limit


@dataclass(frozen=True)
class Match:
    """What the cache holds for a request: whole nodes to share, then rows of one more node to copy."""

    nodes: tuple[Node, ...]
    partial: Node | None
    partial_rows: int

    @property
    def num_tokens(self) -> int:
        """Tokens whose KV need not be computed."""
        return (self.nodes[-1].end if self.nodes else 0) + self.partial_rows


class BlockTree:
    """Owns the block pool and the tree over it; the only place where blocks change hands.

    A block is free, cached (held by a node) or private (held by one running sequence).
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        """An empty tree over ``num_blocks`` blocks of ``block_size`` tokens."""
        self.pool = BlockPool(num_blocks)
        self.block_size = block_size
        self.root = Node((), None, -1, 0, None)
        self._clock = count(1)
        self._leaves: list[tuple[int, int, Node]] = []  # heap of (last_used, tie, node); stale entries are skipped
        self._num_nodes = 0
        self._num_unreferenced = 0

    @property
    def num_available(self) -> int:
        """Blocks that can be had: free ones and cached ones that no sequence holds."""
        return self.pool.num_free + self._num_unreferenced

    @property
    def num_cached(self) -> int:
        """Blocks held by the tree."""
        return self._num_nodes

    def match(self, tokens: Sequence[int], extra: Extra | None, limit: int) -> Match:
        """Find the longest usable prefix of ``tokens``, ``limit`` tokens at most. Changes nothing."""
        nodes: list[Node] = []
        node, pos = self.root, 0
        while pos + self.block_size <= limit:
            key = (tuple(tokens[pos : pos + self.block_size]), extra_at(extra, pos + self.block_size))
            child = node.children.get(key)
            if child is None:
                break
            nodes.append(child)
            node, pos = child, pos + self.block_size
        rest = tokens[pos : min(pos + self.block_size, limit)]
        best, rows = None, 0
        for child in node.children.values():
            if (usable := child.usable(rest, extra)) > rows:
                best, rows = child, usable
        return Match(tuple(nodes), best, rows)

    def hold(self, nodes: Sequence[Node]) -> None:
        """Pin nodes for a sequence; a node's ancestors must be pinned with it."""
        for node in nodes:
            self._num_unreferenced -= node.refs == 0
            node.refs += 1

    def release(self, nodes: Sequence[Node]) -> None:
        """Undo :meth:`hold`; nodes that nobody holds can be evicted from now on."""
        now = next(self._clock)
        for node in reversed(nodes):
            node.refs -= 1
            node.last_used = now
            self._num_unreferenced += node.refs == 0
            self._offer(node)

    def allocate(self, num: int, after: int | None) -> list[int] | None:
        """Take ``num`` private blocks, next to block ``after`` and to each other where possible.

        Evicts least recently used leaves as needed. Returns None, with nothing changed, if there are too few.
        """
        if num > self.num_available:
            return None
        while self.pool.num_free < num:
            self._evict_one()
        return self.pool.take(num, after)

    def free(self, blocks: list[int]) -> None:
        """Give private blocks back."""
        self.pool.give_back(blocks)

    def insert(
        self, parent: Node, tokens: tuple[int, ...], extra: Extra | None, block: int, writer: str | None = None
    ) -> Node | None:
        """Hand a private block over to the tree, under ``parent`` (which the caller holds).

        Returns:
            The node that now holds these tokens: a new one that owns ``block``, or one that was there before, or
            None for a tail that an existing node covers. Whenever the node does not own ``block``, the caller
            still does. The returned node is not held yet.
        """
        node = parent.children.get((tokens, extra))
        if node is not None:
            return node
        node = Node(tokens, extra, block, parent.end, parent, writer=writer, last_used=next(self._clock))
        for other in list(parent.children.values()):
            if _covers(other, node):
                return None
            if other.refs == 0 and not other.children and _covers(node, other):
                self._remove(other)
        parent.children[tokens, extra] = node
        self._num_nodes += 1
        self._num_unreferenced += 1
        self._offer(node)
        return node

    def check_integrity(self, private: Sequence[int] = ()) -> None:
        """Prove that free + cached + private blocks are all blocks, each once, and that the counters are right.

        Raises:
            AssertionError: They are not.
        """
        cached: list[Node] = []
        stack = list(self.root.children.values())
        while stack:
            node = stack.pop()
            cached.append(node)
            assert node.parent is not None
            assert node.parent.children[node.tokens, node.extra] is node
            assert node.start == node.parent.end
            assert node.refs >= 0
            assert node.refs <= node.parent.refs or node.parent is self.root
            assert not node.children or len(node.tokens) == self.block_size
            stack += node.children.values()
        blocks = [n.block for n in cached] + list(private) + self.pool.free_blocks()
        assert sorted(blocks) == list(range(self.pool.num_blocks)), "a block is lost or held twice"
        assert len(cached) == self._num_nodes
        assert sum(n.refs == 0 for n in cached) == self._num_unreferenced

    def _offer(self, node: Node) -> None:
        if not _is_free_leaf(node):
            return
        heapq.heappush(self._leaves, (node.last_used, next(self._clock), node))
        if len(self._leaves) > 4 * self._num_nodes + 64:  # mostly stale entries: a cache that never fills pops none
            latest = {entry[2]: entry for entry in self._leaves if _is_current(entry)}
            self._leaves = list(latest.values())
            heapq.heapify(self._leaves)

    def _evict_one(self) -> None:
        while True:
            entry = heapq.heappop(self._leaves)
            if _is_current(entry):
                self._remove(entry[2])
                return

    def _remove(self, node: Node) -> None:
        parent = node.parent
        assert parent is not None
        del parent.children[node.tokens, node.extra]
        node.parent = None
        self.pool.give_back([node.block])
        self._num_nodes -= 1
        self._num_unreferenced -= 1
        self._offer(parent)


def extra_at(extra: Extra | None, end: int) -> Extra | None:
    """The ``extra`` of a block whose last row is ``end - 1``: None if it ends at or before the activation."""
    return None if extra is None or end <= extra.activation else extra


def _is_free_leaf(node: Node) -> bool:
    return node.refs == 0 and not node.children and node.parent is not None


def _is_current(entry: tuple[int, int, Node]) -> bool:
    return _is_free_leaf(entry[2]) and entry[2].last_used == entry[0]


def _covers(big: Node, small: Node) -> bool:
    """Whether every request served by ``small`` is served as well by its sibling ``big``."""
    return len(big.tokens) > len(small.tokens) and big.usable(small.tokens, small.extra) == len(small.tokens)
