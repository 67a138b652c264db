"""95% intervals over what was drawn independently: nodes and classes, not the tasks that are drawn again from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_array

LEAST = 5  # nodes or classes, below which nothing is claimed about others: Student's t is then 2.8 to 12.7 wide


@dataclass(frozen=True)
class Sources:
    """Where E tasks come from.

    Attributes:
        nodes: (E,) the number of each task's node; None where tasks come from one set of classes.
        classes: (E, W) the numbers of each task's classes; None where all tasks have the same classes.
    """

    nodes: np.ndarray | None
    classes: np.ndarray | None = None

    def take(self, tasks: np.ndarray) -> Sources:
        """Those of some tasks. tasks: indices."""
        nodes, classes = (None if some is None else some[tasks] for some in (self.nodes, self.classes))
        return Sources(nodes, classes)

    @cached_property
    def over(self) -> dict[str, int]:
        """What intervals are over: the number of "nodes", of "classes" where those of a node are not its own alone."""
        found = {} if self.nodes is None else {"nodes": len(np.unique(self.nodes))}
        if self.classes is not None:
            node = np.zeros(len(self.classes), dtype=np.int64) if self.nodes is None else self.nodes
            pairs = np.stack([np.repeat(node, self.classes.shape[1]), self.classes.ravel()])
            count = len(np.unique(self.classes))
            if self.nodes is None or np.unique(pairs, axis=1).shape[1] > count:
                found["classes"] = count
        return found

    @property
    def enough(self) -> bool:
        """Whether there are enough nodes (or classes, where tasks come from those alone) for a claim about others."""
        if self.nodes is None and self.classes is not None and self.over["classes"] == self.classes.shape[1]:
            return False  # every task has all classes, so nothing tells what others would change
        return next(iter(self.over.values()), LEAST) >= LEAST

    @cached_property
    def member(self) -> csr_array:
        """(E, C) 1 where a task has a class, of the C classes that occur."""
        from scipy.sparse import csr_array

        assert self.classes is not None
        count, way = self.classes.shape
        _, code = np.unique(self.classes, return_inverse=True)
        return csr_array((np.ones(count * way), code.ravel(), np.arange(0, count * way + 1, way)))

    @cached_property
    def pairs(self) -> tuple[np.ndarray, float]:
        """For K = M M', the classes that two tasks share, centred in both directions within each node: its diagonal
        (E,), and the sum of the squares beside the diagonal."""
        from scipy.sparse import csr_array

        member: Any = self.member  # SciPy's sparse arrays are typed as dense ones
        node = np.zeros(member.shape[0], dtype=np.int64) if self.nodes is None else self.nodes
        _, code, size = np.unique(node, return_inverse=True, return_counts=True)
        home = csr_array((np.ones(len(code)), code, np.arange(len(code) + 1)))
        mean: Any = csr_array(home.T / size[:, None]) @ member  # (N, C)
        gram = member.T @ member
        own = member.sum(1) - 2 * (member * (home @ mean)).sum(1) + home @ (mean * mean).sum(1)
        between = ((mean @ mean.T).power(2) * size[:, None] * size).sum()
        squares = gram.power(2).sum() - 2 * size @ ((mean @ gram) * mean).sum(1) + between
        return own, float(squares - (own**2).sum())


def over_tasks(values: np.ndarray) -> float | None:
    """Half width of the interval for further tasks from the same nodes or classes.

    Args:
        values: (E,) finite values of tasks.

    Returns:
        1.96 standard errors; None for fewer than two tasks.
    """
    return 1.96 * float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None


def over_sources(values: np.ndarray, sources: Sources) -> float | None:
    """Half width of the interval for tasks from other nodes and other classes, by Student's t.

    The variance of the mean is the cluster-robust one over nodes (Cameron and Miller 2015, equation 11, with the factor
    N / (N - 1)); for equal nodes, that of the mean of N node means. What tasks that share a class have in common comes
    on top. Degrees of freedom: of the nodes N - 1, of a sum by Welch and Satterthwaite.

    Args:
        values: (E,) finite values of tasks.
        sources: of these tasks.

    Returns:
        The half width; None where there are fewer than `LEAST` nodes, or classes where tasks come from classes alone.
    """
    if len(values) < 2 or not sources.enough:
        return None
    tasks = np.arange(len(values)) if sources.nodes is None else sources.nodes
    variance, freedom = _clustered(values - values.mean(), tasks)
    if "classes" in sources.over:
        shared = _shared(values, sources)
        parts = variance**2 / freedom + shared**2 / (sources.over["classes"] - 1)
        freedom = (variance + shared) ** 2 / parts if parts else freedom
        variance += shared
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975)) * math.sqrt(variance)


def _clustered(residuals: np.ndarray, clusters: np.ndarray) -> tuple[float, int]:
    """The cluster-robust variance of a mean, and its degrees of freedom."""
    _, code = np.unique(clusters, return_inverse=True)
    sums = np.bincount(code, weights=residuals)
    return len(sums) / (len(sums) - 1) * float((sums**2).sum()) / len(residuals) ** 2, len(sums) - 1


def _shared(values: np.ndarray, sources: Sources) -> float:
    """What the classes that tasks share add to the variance of the mean.

    A task's value is taken as a mean, an effect of each of its W classes, one of its node, and noise. K = M M', with
    the membership matrix M (E, C), counts the classes that two tasks share. With the variance s of a class's effect,
    E[r_t r_u] = s K~_tu for the residuals r and the centred K~ of two tasks, so least squares over all pairs of
    different tasks gives s (MINQUE with zero weights; Searle, Casella and McCulloch 1992, section 11.3).
    """
    own, pairs = sources.pairs
    count, way = len(values), float(sources.member.sum()) / len(values)
    if pairs < 1e-9 * count**2:
        return 0.0
    residuals = _centred(values, sources.nodes)
    effect = max(0.0, float(((sources.member.T @ residuals) ** 2).sum() - residuals**2 @ own) / pairs)
    shared = float((sources.member.sum(0) ** 2).sum()) / count**2  # the mean of K
    return effect * max(0.0, shared - (way - shared) / (count - 1))


def _centred(values: np.ndarray, nodes: np.ndarray | None) -> np.ndarray:
    """Values (E,) less their mean, or less that of their node."""
    if nodes is None:
        return values - values.mean()
    _, code = np.unique(nodes, return_inverse=True)
    return values - (np.bincount(code, weights=values) / np.bincount(code))[code]
