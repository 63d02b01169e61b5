"""A fitted model of a library: what it predicts, and its form in ONNX."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx


class LibraryModel(ABC):
    """A fitted model of some library."""

    library: str
    name: str
    takes_nan = False
    # Of a classifier, in the order of its scores.
    classes: tuple[str, ...] = ()

    @property
    def texts(self) -> Mapping[str, list[str]]:
        """What its inputs of text are called, and texts that it has seen in them."""
        return {}

    @abstractmethod
    def to_onnx(self, rows: Path | None) -> onnx.ModelProto:
        """The model in ONNX; `rows` is a file whose columns have the types of the model's."""

    @abstractmethod
    def predictions(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """What the library predicts, in all the ways it has, the most telling first."""
