"""Which rows share their beginning, so that it is encoded once for all of them.

Rows are sorted by their tokens; rows that begin alike are neighbours then, and their common prefixes form a tree. Of
that tree clusters are chosen that save many tokens together: at least as many as any one cluster could.

Shapes: N rows   L tokens of the longest
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rectool.prompts.tokens import TokenRows, bounds

WORTH = 0.15
"""Share of the tokens of its rows that a cluster must save; below, encoding in two steps costs more than it saves."""
CHUNK = 1 << 22
"""Tokens that are sorted together, padding included."""

Longs = NDArray[np.int64]


@dataclass(frozen=True)
class Clusters:
    """Rows that begin with the same tokens.

    Attributes:
        rows: (N,) the rows of the first cluster, of the second, ..., those that share nothing last.
        bounds: (C + 1,) cluster c has `rows[bounds[c]:bounds[c + 1]]`; C clusters.
        prefixes: (C,) how many tokens its rows share; each has at least one more.
    """

    rows: Longs
    bounds: Longs
    prefixes: Longs

    @property
    def alone(self) -> Longs:
        """The rows in no cluster."""
        return self.rows[self.bounds[-1] :]

    def members(self, several: Longs) -> tuple[Longs, Longs]:
        """The rows of several (C,) clusters, and to which of these each belongs; both (N,)."""
        rows = [self.rows[self.bounds[cluster] : self.bounds[cluster + 1]] for cluster in several]
        return np.concatenate(rows), np.repeat(np.arange(len(rows)), [len(part) for part in rows])


def find(tokens: TokenRows, groups: NDArray[np.integer]) -> Clusters:
    """Find clusters of rows within groups.

    Args:
        groups: (N,) rows of different groups are never in one cluster; one group for all is fine.
    """
    lengths = tokens.lengths
    chosen: list[Longs] = []
    prefixes: list[int] = []
    alone: list[Longs] = []
    order = np.argsort(groups, kind="stable")
    step = max(2, CHUNK // int(lengths.max(initial=1)))
    for start in range(0, len(order), step):
        rows, common = _sorted(tokens, groups, order[start : start + step])
        clusters = _best(common.tolist(), lengths[rows].tolist())
        chosen.extend(rows[cluster.rows] for cluster in clusters if cluster.prefix)
        prefixes.extend(cluster.prefix for cluster in clusters if cluster.prefix)
        alone.append(rows[np.array([cluster.rows[0] for cluster in clusters if not cluster.prefix], np.int64)])
    return Clusters(
        rows=np.concatenate([*chosen, *alone, np.empty(0, np.int64)]),
        bounds=bounds(np.array([len(rows) for rows in chosen], np.int64)),
        prefixes=np.array(prefixes, np.int64),
    )


def _sorted(tokens: TokenRows, groups: NDArray[np.integer], rows: Longs) -> tuple[Longs, Longs]:
    """Rows in the order of groups and tokens, and what each but the first shares with the one before it.

    Returns:
        rows; common (N - 1,): shared tokens, less than either row has; -1 between groups.
    """
    ids, lengths = tokens.padded(rows)
    group = np.unique(groups[rows], return_inverse=True)[1]
    real = np.arange(ids.shape[1]) < lengths[:, None]
    keys = np.column_stack([group, np.where(real, ids - ids.min(initial=0) + 1, 0)]).astype(">u4")  # bytes in order
    order = np.argsort(keys.view(f"S{keys.shape[1] * 4}").ravel(), kind="stable")
    ids, lengths, group = ids[order], lengths[order], group[order]
    alike = np.logical_and.accumulate(ids[1:] == ids[:-1], axis=1).sum(1)
    common = np.minimum(alike, np.minimum(lengths[1:], lengths[:-1]) - 1)
    return rows[order], np.where(group[1:] == group[:-1], common, -1)


@dataclass
class _Cluster:
    """Rows that share a prefix, or one row by itself, whose prefix is 0; and how many tokens they have."""

    prefix: int
    rows: list[int]
    tokens: int

    @property
    def saved(self) -> int:
        return (len(self.rows) - 1) * self.prefix


def _best(common: list[int], lengths: list[int]) -> list[_Cluster]:
    """The clusters of sorted rows that save most, single rows among them.

    Neighbours that share `depth` tokens are a node of a tree. Bottom-up, the clusters of a node are put together, which
    saves `depth` for each row but one; those stay apart that save as much by themselves.

    Args:
        common: of each row but the first with the one before it; -1: nothing may be shared.
        lengths: tokens of each row.
    """
    found: list[_Cluster] = []
    nodes: list[tuple[int, list[_Cluster]]] = []
    for row, depth in enumerate([*common, -1]):
        clusters = [_Cluster(0, [row], lengths[row])]
        while nodes and nodes[-1][0] > depth:
            deeper, earlier = nodes.pop()
            clusters = _together(deeper, [*earlier, *clusters])
        if depth < 0:
            found.extend(clusters)
        elif nodes and nodes[-1][0] == depth:
            nodes[-1][1].extend(clusters)
        else:
            nodes.append((depth, clusters))
    return found


def _together(depth: int, clusters: list[_Cluster]) -> list[_Cluster]:
    """Clusters that share `depth` tokens, put together as far as that saves tokens, and enough of them."""
    joined = [cluster for cluster in clusters if cluster.saved < len(cluster.rows) * depth]
    one = _Cluster(
        depth,
        rows=[row for cluster in joined for row in cluster.rows],
        tokens=sum(cluster.tokens for cluster in joined),
    )
    if one.saved <= sum(cluster.saved for cluster in joined) or one.saved < WORTH * one.tokens:
        return clusters
    return [*(cluster for cluster in clusters if cluster.saved >= len(cluster.rows) * depth), one]
