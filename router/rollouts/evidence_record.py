"""The evidence of a rollout as its state keeps it: arrays as bytes, compressed. Pure."""

import zlib
from dataclasses import fields
from operator import attrgetter

import msgspec
import numpy as np

from inferlane.contracts.lane_tallies import ANSWER_CLUSTERS
from inferlane.contracts.rollout import Check, Evidence
from inferlane.errors import DecodeError
from router.rollouts.answer_evidence import Answers
from router.rollouts.clusters import ClusterSums, from_arrays, to_arrays
from router.rollouts.evidence import Learnt
from router.rollouts.statistics import OTHER_ODDS, Floats, PairedSums

# As `astuple`, without copying each number.
_NUMBERS_OF_SUMS = attrgetter(*(one.name for one in fields(PairedSums)))
_ARRAYS = ("errors", "expired", "latency", "share", "disagreement", "alone", "counts", "shadows")
_CLUSTERS = "clusters/"
_ANSWERS = "answers/"
_LARGEST_BYTES = 4 * 1024 * 1024


class _Rest(msgspec.Struct, frozen=True):
    runs: dict[int, int]
    sums: dict[Check, tuple[float, ...]]
    labels: tuple[str, ...] = ()
    values: dict[str, int] = {}
    edges: tuple[float, ...] = ()


def to_record(learnt: Learnt, *, through_slot: int) -> Evidence:
    """Return the evidence as a state keeps it."""
    arrays = {name: getattr(learnt, name) for name in _ARRAYS}
    arrays |= {f"{_CLUSTERS}{check}": to_arrays(one) for check, one in learnt.clusters.items() if one.total}
    answers = learnt.answers
    if answers.labels:
        shapes = _answer_shapes(len(answers.labels))
        arrays |= {f"{_ANSWERS}{name}": np.ravel(getattr(answers, name)) for name in shapes}
    numbers = {name: zlib.compress(np.asarray(values, "<f8").tobytes(), 1) for name, values in arrays.items()}
    sums = {check: _NUMBERS_OF_SUMS(one) for check, one in learnt.sums.items()}
    rest = _Rest(dict(learnt.runs), sums, answers.labels, dict(answers.values), answers.edges)
    numbers["rest"] = msgspec.json.encode(rest)
    return Evidence(through_slot=through_slot, numbers=numbers)


def from_record(record: Evidence) -> Learnt:
    """Read the evidence of a state; that of a new rollout is none.

    Raises:
        DecodeError: the record holds something else.
    """
    if not record.numbers:
        return Learnt()
    try:
        empty = Learnt()
        rest = msgspec.json.decode(record.numbers["rest"], type=_Rest)
        held = {name: _array(raw) for name, raw in record.numbers.items() if name != "rest"}
        arrays = {name: held[name].reshape(getattr(empty, name).shape) for name in _ARRAYS}
        shapes = _answer_shapes(len(rest.labels)) if rest.labels else {}
        answers = {name: held[f"{_ANSWERS}{name}"].reshape(shape) for name, shape in shapes.items()}
        clusters = {
            Check(name.removeprefix(_CLUSTERS)): from_arrays(values)
            for name, values in held.items()
            if name.startswith(_CLUSTERS)
        }
        return Learnt(
            **arrays,
            answers=Answers(labels=rest.labels, values=rest.values, edges=rest.edges, **answers),
            runs=rest.runs,
            sums={check: PairedSums(*values) for check, values in rest.sums.items()},
            clusters={check: clusters.get(check, ClusterSums()) for check in (Check.ERRORS, Check.EXPIRED)},
        )
    except (KeyError, TypeError, ValueError, zlib.error, msgspec.MsgspecError) as error:
        raise DecodeError(f"the evidence of a rollout cannot be read: {error!r}") from error


def _array(raw: bytes) -> Floats:
    unpacked = zlib.decompressobj().decompress(raw, _LARGEST_BYTES)
    return np.frombuffer(unpacked, "<f8").astype(np.float64)


def _answer_shapes(labels: int) -> dict[str, tuple[int, ...]]:
    return {
        "ratios": (labels, len(OTHER_ODDS)),
        "residuals": (2, labels, ANSWER_CLUSTERS),
        "requests": (2, ANSWER_CLUSTERS),
        "candidate": (labels,),
        "stable": (labels,),
    }
