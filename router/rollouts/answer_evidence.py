"""The evidence of a rollout from the answers of both versions: classes, or the values of a regression. Pure.

A request is one draw, its first row. Values are binned by deciles of the stable version's earlier answers; the bins
are then treated as classes. Requests without a key are compared by the e-process of counts, requests with a key by
`router.rollouts.clusters`, in 64 clusters of key buckets.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from inferlane.contracts.lane_tallies import ANSWER_CLUSTERS, LaneTally, value_of
from inferlane.contracts.outcomes import OTHER
from router.rollouts.clusters import log_mixture
from router.rollouts.statistics import OTHER_ODDS, Floats, log_evidence, log_mean, log_ratios

# The classes that are counted one by one; all others are one class.
_MAX_CLASSES = 32
# The number of stable values before deciles are taken, and the share at which one value is a bin of its own.
VALUES_FOR_EDGES = 200
_DECILES = np.arange(0.1, 0.95, 0.1)
_ATOM = 0.05


def _empty(*shape: int) -> Floats:
    return np.zeros(shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """Sums over slots in which both versions answered.

    `ratios` are `(labels, odds)` log ratios of requests without a key; `residuals` are `(2, labels, clusters)`: the
    candidate's answers less what the stable version's share makes expected, and the stable version's own.
    """

    labels: tuple[str, ...] = ()
    ratios: Floats = field(default_factory=lambda: _empty(0, len(OTHER_ODDS)))
    residuals: Floats = field(default_factory=lambda: _empty(2, 0, ANSWER_CLUSTERS))
    requests: Floats = field(default_factory=lambda: _empty(2, ANSWER_CLUSTERS))
    candidate: Floats = field(default_factory=lambda: _empty(0))
    stable: Floats = field(default_factory=lambda: _empty(0))
    # The stable version's values by label until there are edges; then the edges.
    values: Mapping[str, int] = field(default_factory=dict)
    edges: tuple[float, ...] = ()

    @property
    def log_evidence(self) -> float:
        """The logarithm of the e-value that the two versions answer differently."""
        draws = float(self.requests[0].sum())
        keyed = [
            log_mixture(float(ours.sum()), _spread(ours, theirs, self.requests), draws, is_one_sided=False)
            for ours, theirs in zip(*self.residuals, strict=True)
        ]
        return log_mean(np.array([log_evidence(row) + one for row, one in zip(self.ratios, keyed, strict=True)]))


def _spread(ours: Floats, theirs: Floats, requests: Floats) -> float:
    total = float(requests[0].sum())
    if not total:
        return 0.0
    # As if each version had one more cluster of its mean size: a few similar clusters are weak evidence.
    unseen = sum((total / np.count_nonzero(held)) ** 2 for held in requests)
    return float((ours**2).sum() + (theirs**2).sum() + unseen)


def add_answers(known: Answers, candidate: LaneTally, stable: LaneTally) -> Answers:
    """Add a slot."""
    free, keyed = (_answers_of(candidate), _answers_of(stable)), (_clusters_of(candidate), _clusters_of(stable))
    said = [label for side in (*free, *keyed) for label in side]
    if not said:
        return known
    if any(value_of(label) is not None for label in said):
        if not known.edges:
            return _with_values(known, free[1], keyed[1])
        free, keyed = (
            (_in_groups(ours, known.edges), _in_groups(theirs, known.edges)) for ours, theirs in (free, keyed)
        )
    if not (free[0] or keyed[0]) or not (free[1] or keyed[1]):
        return known
    known = _with_labels(known, [label for side in (free[1], free[0], keyed[1], keyed[0]) for label in side])
    counts = [_by_label(side, known.labels, ()) for side in free]
    clusters = [_by_label(side, known.labels, (ANSWER_CLUSTERS,)) for side in keyed]
    return _add_free(_add_keyed(known, *clusters), *counts)


def _add_free(known: Answers, mine: Floats, other: Floats) -> Answers:
    if not mine.sum() or not other.sum():
        return known
    share = mine.sum() / (mine.sum() + other.sum())
    ratios = np.array([log_ratios(one, two, share, OTHER_ODDS) for one, two in zip(mine, other, strict=True)])
    return replace(known, ratios=known.ratios + ratios, candidate=known.candidate + mine, stable=known.stable + other)


def _add_keyed(known: Answers, mine: Floats, other: Floats) -> Answers:
    """`mine` and `other` are `(labels, clusters)` requests."""
    total, stable_total = mine.sum(), other.sum()
    if not total or not stable_total:
        return known
    weight, requests = total / stable_total, (mine.sum(axis=0), other.sum(axis=0))
    shares = other.sum(axis=1, keepdims=True) / stable_total
    residuals = np.array([mine - shares * requests[0], weight * (other - shares * requests[1])])
    return replace(
        known,
        residuals=known.residuals + residuals,
        requests=known.requests + np.array([requests[0], weight * requests[1]]),
        candidate=known.candidate + mine.sum(axis=1),
        stable=known.stable + other.sum(axis=1),
    )


def _answers_of(tally: LaneTally) -> Mapping[str, Floats]:
    return {label: np.array(float(count)) for label, count in tally.answers.items()}


def _clusters_of(tally: LaneTally) -> Mapping[str, Floats]:
    found = {}
    for label, counts in tally.keyed_answers.items():
        found[label] = np.zeros(ANSWER_CLUSTERS)
        for cluster, count in counts.items():
            found[label][cluster] += count
    return found


def _with_labels(known: Answers, said: list[str]) -> Answers:
    labels = known.labels
    for label in said:
        if label not in labels and len(labels) < _MAX_CLASSES:
            labels = (*labels, label if len(labels) < _MAX_CLASSES - 1 else OTHER)
    more = len(labels) - len(known.labels)
    if not more:
        return known
    return replace(
        known,
        labels=labels,
        ratios=np.pad(known.ratios, ((0, more), (0, 0))),
        residuals=np.pad(known.residuals, ((0, 0), (0, more), (0, 0))),
        candidate=np.pad(known.candidate, (0, more)),
        stable=np.pad(known.stable, (0, more)),
    )


def _by_label(side: Mapping[str, Floats], labels: tuple[str, ...], shape: tuple[int, ...]) -> Floats:
    counts = np.zeros((len(labels), *shape))
    for label, count in side.items():
        counts[labels.index(label) if label in labels else len(labels) - 1] += count
    return counts


def _with_values(known: Answers, *sides: Mapping[str, Floats]) -> Answers:
    """Values of the stable version; with enough of them, edges."""
    values = Counter(known.values)
    for side in sides:
        values.update({label: int(np.sum(count)) for label, count in side.items()})
    if sum(values.values()) < VALUES_FOR_EDGES:
        return replace(known, values=values)
    return replace(known, values={}, edges=_edges(values))


def _edges(values: Mapping[str, int]) -> tuple[float, ...]:
    by_value = sorted((value_of(label) or 0.0, count) for label, count in values.items())
    numbers, counts = np.array(by_value).T
    shares = counts / counts.sum()
    reached = np.searchsorted(shares.cumsum(), _DECILES - 1e-9)
    # A value that many answers have is a bin of its own; larger values belong to the next bin.
    atoms = [float(np.nextafter(numbers[at], np.inf)) for at in reached if shares[at] >= _ATOM]
    return tuple(sorted({float(numbers[at]) for at in reached} | set(atoms)))


def _in_groups(side: Mapping[str, Floats], edges: tuple[float, ...]) -> Mapping[str, Floats]:
    groups: dict[str, Floats] = {}
    for label, count in side.items():
        group = _group_name(int(np.searchsorted(edges, value_of(label) or 0.0, side="right")), edges)
        groups[group] = groups.get(group, np.zeros(())) + count
    return groups


def _group_name(group: int, edges: tuple[float, ...]) -> str:
    if group == 0:
        return f"below {edges[0]:.3g}"
    return f"from {edges[group - 1]:.4g}" + (f" to {edges[group]:.4g}" if group < len(edges) else " on")
