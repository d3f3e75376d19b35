"""A trie of all titles' tokens: what a model may write, token after token.

Shapes: N titles   D distinct ones   S nodes, the root is node 0   M nodes asked about   C their children
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rectool.llm.body import on
from rectool.prompts.tokens import TokenRows

Longs = NDArray[np.int64]


@dataclass(frozen=True)
class Trie:
    """Nodes in the order of their depth, the children of a node side by side.

    Attributes:
        first: (S + 1,) the children of node s are nodes `first[s]` to below `first[s + 1]`.
        token: (S,) what leads to a node; -1 of the root.
        ends: (S,) which distinct title ends here, -1 for none.
        title: (N,) which distinct title each row is: those of the same tokens are one.
        depth: tokens of the longest title.
    """

    first: Tensor
    token: Tensor
    ends: Tensor
    title: Longs
    depth: int

    @staticmethod
    def of(titles: TokenRows, device: torch.device) -> Trie:
        """The trie of titles (N,), each of one token at least; one level after the other, without a loop over titles.

        Raises:
            ValueError: a title has no token.
        """
        lengths = titles.lengths
        if len(lengths) and lengths.min() == 0:
            raise ValueError(f"title {int(lengths.argmin())} has no token")
        width = int(titles.ids.max(initial=0)) + 1
        node = np.zeros(len(titles), np.int64)  # where each title has come
        tokens, parents = [np.array([-1])], [np.array([-1])]
        nodes = 1
        for depth in range(int(lengths.max(initial=0))):
            alive = np.flatnonzero(lengths > depth)
            steps = node[alive] * width + titles.ids[titles.offsets[alive] + depth]
            found, which = np.unique(steps, return_inverse=True)
            node[alive] = nodes + which
            tokens.append(found % width)
            parents.append(found // width)
            nodes += len(found)
        ending, title = np.unique(node, return_inverse=True)
        last = np.full(nodes, -1)
        last[ending] = np.arange(len(ending))
        # Parents only rise from node to node, so that the children of each are neighbours.
        children = np.searchsorted(np.concatenate(parents), np.arange(nodes + 1))
        first, token, ends = on(device, children, np.concatenate(tokens), last)
        return Trie(first, token, ends, title, int(lengths.max(initial=0)))

    @property
    def titles(self) -> int:
        """D."""
        return int(self.title.max(initial=-1)) + 1

    def goes_on(self, nodes: Tensor) -> Tensor:
        """(M,) bool, whether a node has children."""
        return self.first[nodes + 1] > self.first[nodes]

    def children(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """The children (C,) of nodes (M,), and of which of these each is."""
        first = self.first[nodes]
        counts = self.first[nodes + 1] - first
        owner = torch.arange(len(nodes), device=nodes.device).repeat_interleave(counts)
        before = counts.cumsum(0) - counts
        within = torch.arange(len(owner), device=nodes.device) - before[owner]
        return first[owner] + within, owner
