"""The rows that samples are trained, calibrated and judged on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.datasets import load_digits, load_iris
from sklearn.model_selection import train_test_split

from models.samples import Sample

_LOADERS: Mapping[str, Callable[..., Any]] = {"iris": load_iris, "digits": load_digits}
_SPLIT_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Features `(rows, features) float32` and their class indices `(rows,) int64`."""

    features: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Rows to train and calibrate on, and rows that no version has seen before it is judged."""

    train: Rows
    held_out: Rows


def load_split(sample: Sample) -> Split:
    """The split of `sample`: stratified by class, and the same at every call."""
    features, labels = _LOADERS[sample.dataset](return_X_y=True)
    train_features, held_out_features, train_labels, held_out_labels = train_test_split(
        features.astype(np.float32),
        labels.astype(np.int64),
        test_size=sample.held_out_share,
        random_state=_SPLIT_SEED,
        stratify=labels,
    )
    return Split(
        train=Rows(features=train_features, labels=train_labels),
        held_out=Rows(features=held_out_features, labels=held_out_labels),
    )
