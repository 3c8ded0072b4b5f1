"""Clusters against a union-find that anybody can read."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from underlay.kernels.clusters import Clusters, best_of


def plain(columns: list[list[int]], n: int) -> list[int]:
    """For each thing the least one that it is joined with, by joining sets until nothing changes."""
    clusters = [{thing} for thing in range(n)]
    for column in columns:
        for thing in range(n):
            for other in range(thing):
                if column[thing] == column[other] != 0 and clusters[thing] is not clusters[other]:
                    clusters[thing] |= clusters[other]
                    for one in clusters[other]:
                        clusters[one] = clusters[thing]
    return [min(cluster) for cluster in clusters]


def clustered(columns: list[list[int]], n: int) -> Clusters:
    clusters = Clusters(n)
    for column in columns:
        clusters.join(np.array(column, dtype=np.uint64), np.arange(n))
    return clusters


# Few values, so that many are equal; some differ in their first bits alone, some in their last, and 0 is equal to none.
KEYS = st.sampled_from([0, 1, 2, 3, 1 << 63, 1 << 62, (1 << 64) - 1, (1 << 63) + 1, 0xABCDEF << 40])


@given(st.integers(1, 30).flatmap(lambda n: st.lists(st.lists(KEYS, min_size=n, max_size=n), min_size=1, max_size=4)))
def test_clusters_equal_a_plain_union_find(columns):
    n = len(columns[0])
    assert clustered(columns, n).roots().tolist() == plain(columns, n)


@given(st.lists(st.lists(KEYS, min_size=12, max_size=12), min_size=1, max_size=4), st.randoms())
def test_neither_the_order_of_columns_nor_of_things_matters(columns, random):
    order = list(range(12))
    random.shuffle(order)
    shuffled = Clusters(12)
    for column in random.sample(columns, len(columns)):
        shuffled.join(np.array([column[i] for i in order], dtype=np.uint64), np.array(order))
    assert shuffled.roots().tolist() == clustered(columns, 12).roots().tolist()


def test_many_things_in_many_heaps():
    rng = np.random.default_rng(0)
    n = 200_000
    values = rng.integers(0, 1 << 64, n // 2, dtype=np.uint64)
    keys = values[rng.integers(0, len(values), n)]
    clusters = Clusters(n)
    clusters.join(keys, np.arange(n))
    _, first, which = np.unique(keys, return_index=True, return_inverse=True)
    np.testing.assert_array_equal(clusters.roots(), first[which])


def test_many_keys_with_the_same_first_bits():
    n = 50_000
    keys = np.arange(1, n + 1, dtype=np.uint64) // np.uint64(2)
    clusters = Clusters(n)
    clusters.join(keys, np.arange(n))
    pairs = np.arange(n)
    pairs[2::2] -= 1
    assert clusters.roots().tolist() == pairs.tolist()


def test_only_those_that_are_named_are_joined():
    clusters = Clusters(6)
    clusters.join(np.array([7, 7, 9], dtype=np.uint64), np.array([5, 1, 3]))
    assert clusters.roots().tolist() == [0, 1, 2, 3, 4, 1]


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from([1.0, 2.0, 2.5, float("nan"), float("inf")])), min_size=1))
def test_the_best_of_a_cluster_is_worth_most_and_of_equals_the_least(things):
    roots = np.array([[group for group, _ in things].index(group) for group, _ in things])
    worth = np.array([value for _, value in things])

    def rank(thing: int) -> tuple[float, int]:
        return -np.inf if np.isnan(worth[thing]) else worth[thing], -thing

    best = best_of(roots, worth)
    for thing, root in enumerate(roots):
        assert best[thing] == max(np.flatnonzero(roots == root), key=rank)
