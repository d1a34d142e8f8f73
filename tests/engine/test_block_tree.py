"""The block tree: reuse exact to the token, by value, and no block ever lost."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alorakit.engine.block_pool import BlockPool, slot_runs
from alorakit.engine.block_tree import BlockTree, Extra, extra_at

SIZE = 4
X, Y = Extra("x", 6), Extra("y", 6)


def store(tree, tokens, extra=None):
    """Compute ``tokens`` as one sequence would, and let go of it."""
    match = tree.match(tokens, extra, len(tokens))
    tree.hold(match.nodes)
    nodes = list(match.nodes)
    blocks = tree.allocate(-(-len(tokens) // SIZE) - len(nodes), None)
    assert blocks is not None
    for block in blocks:
        start = len(nodes) * SIZE
        part = tuple(tokens[start : start + SIZE])
        parent = nodes[-1] if nodes else tree.root
        node = tree.insert(parent, part, extra_at(extra, start + len(part)), block)
        if node is None or node.block != block:
            tree.free([block])
        if node is None:
            break
        tree.hold([node])
        nodes.append(node)
    tree.release(nodes)
    tree.check_integrity()


@pytest.mark.parametrize(
    ("stored", "asked", "reused"),
    [
        (None, None, 9),  # base after base: everything but the last token
        (X, X, 9),  # the same adapter at the same point
        (None, X, 6),  # an aLoRA reads the base's rows up to its activation
        (X, None, 6),  # and the base reads an aLoRA's
        (X, Y, 6),  # two aLoRAs share what lies before both
        (Extra("x", 0), None, 0),  # a LoRA shares with nobody
        (None, Extra("x", 0), 0),
        (Extra("x", 0), Extra("x", 0), 9),  # but itself
        (Extra("x", 5), Extra("x", 6), 5),  # the same weights activated elsewhere are other keys
    ],
)
def test_sharing_stops_at_the_activation_point(stored, asked, reused):
    tree = BlockTree(16, SIZE)
    tokens = list(range(10))
    store(tree, tokens, stored)
    assert tree.match(tokens, asked, len(tokens) - 1).num_tokens == reused


def test_match_is_exact_inside_a_block():
    tree = BlockTree(16, SIZE)
    store(tree, [1, 2, 3, 4, 5, 6, 7, 8])
    match = tree.match([1, 2, 3, 4, 5, 6, 9, 9, 9], None, 8)
    assert (len(match.nodes), match.partial_rows) == (1, 2)
    assert tree.match([2, 2, 3, 4], None, 3).num_tokens == 0


def test_longer_tail_replaces_the_shorter_one_it_covers():
    tree = BlockTree(16, SIZE)
    store(tree, [1, 2])
    store(tree, [1, 2, 3])
    assert tree.num_cached == 1
    store(tree, [1])
    assert tree.num_cached == 1
    assert tree.match([1, 2, 3, 4], None, 3).num_tokens == 3


def test_eviction_takes_least_recently_used_leaves_first():
    tree = BlockTree(4, SIZE)
    store(tree, [1] * 8)
    store(tree, [2] * 8)
    tree.hold(nodes := tree.match([1] * 9, None, 8).nodes)
    tree.release(nodes)
    taken = tree.allocate(1, None)
    tree.check_integrity(taken)
    assert tree.match([1] * 9, None, 8).num_tokens == 8
    assert tree.match([2] * 9, None, 8).num_tokens == 4


def test_held_nodes_are_never_evicted():
    tree = BlockTree(2, SIZE)
    store(tree, [1] * 8)
    nodes = tree.match([1] * 9, None, 8).nodes
    tree.hold(nodes)
    assert tree.allocate(1, None) is None
    tree.release(nodes)
    assert tree.allocate(2, None) is not None


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 1), min_size=1, max_size=14),
            st.sampled_from([None, Extra("x", 0), Extra("x", 5), Extra("y", 5), Extra("y", 9)]),
        ),
        max_size=12,
    )
)
def test_match_never_promises_rows_that_nobody_computed(steps):
    """Oracle: row j is the base's unless it lies at or after the activation; equal (prefix, owner) means equal KV."""
    tree = BlockTree(6, SIZE)
    computed = set()
    for tokens, extra in steps:
        match = tree.match(tokens, extra, len(tokens) - 1)
        for end in range(1, match.num_tokens + 1):
            assert (tuple(tokens[:end]), extra_at(extra, end)) in computed
        store(tree, tokens, extra)
        for end in range(1, len(tokens) + 1):
            computed.add((tuple(tokens[:end]), extra_at(extra, end)))


def test_pool_hands_out_neighbours():
    pool = BlockPool(8)
    first = pool.take(3, None)
    assert first == [0, 1, 2]
    assert pool.take(2, 2) == [3, 4]
    pool.give_back([1])
    assert pool.take(3, None) == [5, 6, 7]
    assert pool.take(1, None) == [1]
    assert pool.num_free == 0


def test_slot_runs_merge_neighbouring_blocks():
    assert slot_runs([7, 8, 3], 64, 0, 130) == ((448, 576), (192, 194))
    assert slot_runs([7, 8, 3], 64, 63, 65) == ((511, 513),)
    assert slot_runs([5], 64, 3, 3) == ()
