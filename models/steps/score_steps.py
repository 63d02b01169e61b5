"""Steps after the graph: scores and labels from its outputs, each row by itself. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Generic, TypeVar

import msgspec
import numpy as np

from inferlane.contracts.wire.tensors import TensorSpec, numpy_dtype
from inferlane.errors import ConfigurationError, quoted

T = TypeVar("T")
Name = Annotated[str, msgspec.Meta(min_length=1)]


@dataclass(frozen=True, slots=True)
class Stage(Generic[T]):
    """What there is between two steps, by name: the outputs so far, and the inputs that the graph had.

    `T` is what is known of a tensor: its spec while a version is read, its array while it runs.
    """

    outputs: Mapping[str, T]
    inputs: Mapping[str, T]

    def replaced(self, old: str, new: str, value: T) -> "Stage[T]":
        """Return the stage with `new` in the place of `old`."""
        named = {new if name == old else name: value if name == old else held for name, held in self.outputs.items()}
        return Stage(named, self.inputs)

    def with_outputs(self, **added: T) -> "Stage[T]":
        """Return the stage with these outputs behind the others."""
        return Stage({**self.outputs, **added}, self.inputs)


class ScoreStep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """A step after the graph."""

    def specs(self, at: Stage[TensorSpec]) -> Stage[TensorSpec]:
        """Return what the outputs are after this step.

        Raises:
            ConfigurationError: the step does not fit those before it.
        """
        raise NotImplementedError

    def apply(self, at: Stage[np.ndarray]) -> Stage[np.ndarray]:
        """Return the outputs after this step; they are as `specs` has checked them."""
        raise NotImplementedError


class Softmax(ScoreStep, frozen=True, kw_only=True, tag="softmax"):
    """Probabilities that sum to one, in place of the logits."""

    input: Name = "logits"
    output: Name = "probabilities"

    def specs(self, at: Stage[TensorSpec]) -> Stage[TensorSpec]:
        """Return the tensors, with `input` renamed to `output`; the shape stays."""
        return renamed(self, at, taken(self, at, self.input), self.output)

    def apply(self, at: Stage[np.ndarray]) -> Stage[np.ndarray]:
        """Compute the softmax over the last axis."""
        return at.replaced(self.input, self.output, scores_of(at.outputs[self.input]))


class Sigmoid(ScoreStep, frozen=True, kw_only=True, tag="sigmoid"):
    """A probability for each score by itself, in place of the logits."""

    input: Name = "logits"
    output: Name = "probabilities"

    def specs(self, at: Stage[TensorSpec]) -> Stage[TensorSpec]:
        """Return the tensors, with `input` renamed to `output`; the shape stays."""
        return renamed(self, at, taken(self, at, self.input), self.output)

    def apply(self, at: Stage[np.ndarray]) -> Stage[np.ndarray]:
        """Compute the logistic function of each element."""
        logits = widened(at.outputs[self.input])
        # The exponent is never positive, so neither side overflows.
        raised = np.exp(-np.abs(logits))
        return at.replaced(
            self.input, self.output, np.where(logits >= 0, 1, raised).astype(logits.dtype) / (1 + raised)
        )


class Argmax(ScoreStep, frozen=True, kw_only=True, tag="argmax"):
    """The index of the highest score, beside the scores. JSON answers show its label."""

    input: Name = "probabilities"
    output: Name = "label"
    labels: tuple[str, ...] = ()

    def specs(self, at: Stage[TensorSpec]) -> Stage[TensorSpec]:
        """Add the index of the highest score, int64, without the last axis of the scores.

        Raises:
            ConfigurationError: there is one score a row, or not as many labels as scores.
        """
        scores = taken(self, at, self.input)
        if scores.row_shape[-1] == 1:
            raise ConfigurationError(f"{self.input!r} has one score a row, whose argmax is always 0; use `threshold`")
        check_labels(self, self.labels, scores.row_shape[-1])
        return _added(self, at, TensorSpec(name=self.output, datatype="INT64", shape=scores.shape[:-1]))

    def apply(self, at: Stage[np.ndarray]) -> Stage[np.ndarray]:
        """Add the index of the highest score along the last axis; of equal scores, the first."""
        return at.with_outputs(**{self.output: at.outputs[self.input].argmax(axis=-1).astype(np.int64)})


class Threshold(ScoreStep, frozen=True, kw_only=True, tag="threshold"):
    """Whether a score is over `value`, beside the scores.

    Of a single score a row, or of the score of `column`: a boolean, or 0 or 1 where `labels` name these. Of several
    scores: a boolean for each.
    """

    input: Name = "probabilities"
    output: Name = "label"
    value: float = 0.5
    column: Annotated[int, msgspec.Meta(ge=0)] | None = None
    labels: tuple[str, ...] = ()

    def specs(self, at: Stage[TensorSpec]) -> Stage[TensorSpec]:
        """Add what is over the threshold: `(rows,)` of one score or of `column`, else the shape of the scores.

        Raises:
            ConfigurationError: there is no such column, or labels have no column to be of.
        """
        scores = taken(self, at, self.input, axes=1)
        count = scores.row_shape[0]
        if self.column is not None and self.column >= count:
            raise ConfigurationError(f"{kind_of(self)} takes the column {self.column} of {count}; they begin with 0")
        if self.column is None and count != 1:
            if self.labels:
                raise ConfigurationError(
                    f"{kind_of(self)} has labels for {count} scores a row; name one as its `column`"
                )
            return _added(self, at, TensorSpec(name=self.output, datatype="BOOL", shape=scores.shape))
        check_labels(self, self.labels, 2)
        # Answers show the names of whole numbers, and a boolean as it is.
        datatype = "INT64" if self.labels else "BOOL"
        return _added(self, at, TensorSpec(name=self.output, datatype=datatype, shape=(-1,)))

    def apply(self, at: Stage[np.ndarray]) -> Stage[np.ndarray]:
        """Add whether each score is over `value`: a boolean, or 0 or 1 where there are labels."""
        are_over = at.outputs[self.input] > self.value
        if self.column is not None or are_over.shape[1] == 1:
            are_over = are_over[:, self.column or 0]
        return at.with_outputs(**{self.output: are_over.astype(np.int64) if self.labels else are_over})


class TopK(ScoreStep, frozen=True, kw_only=True, tag="top-k"):
    """The `k` highest scores of each row and their labels, best first, beside all scores."""

    input: Name = "probabilities"
    output: Name = "top_labels"
    scores: Name = "top_scores"
    k: Annotated[int, msgspec.Meta(ge=1)] = 5
    labels: tuple[str, ...] = ()

    def specs(self, at: Stage[TensorSpec]) -> Stage[TensorSpec]:
        """Add the `k` highest scores and their labels or indices, `(rows, k)` each.

        Raises:
            ConfigurationError: there are fewer than `k` scores, or not as many labels as scores.
        """
        given = taken(self, at, self.input, axes=1)
        count = given.row_shape[0]
        if self.k > count > 0:
            raise ConfigurationError(f"{kind_of(self)} wants the best {self.k} of {count} scores")
        check_labels(self, self.labels, count)
        names = TensorSpec(name=self.output, datatype="BYTES" if self.labels else "INT64", shape=(-1, self.k))
        return _added(self, at, names, replace(given, name=self.scores, shape=(-1, self.k)))

    def apply(self, at: Stage[np.ndarray]) -> Stage[np.ndarray]:
        """Add the `k` highest scores of each row, the highest first, and their labels or indices."""
        given = at.outputs[self.input]
        best = np.argsort(-given, axis=1, kind="stable")[:, : self.k]
        names = np.array(self.labels, numpy_dtype("BYTES"))[best] if self.labels else best.astype(np.int64)
        return at.with_outputs(**{self.output: names, self.scores: np.take_along_axis(given, best, axis=1)})


class Select(ScoreStep, frozen=True, kw_only=True, tag="select"):
    """Only the outputs of these names, in this order."""

    outputs: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]

    def specs(self, at: Stage[TensorSpec]) -> Stage[TensorSpec]:
        """Return only the named outputs, in the order of the names.

        Raises:
            ConfigurationError: there is no such output.
        """
        for name in self.outputs:
            _known(self, at, name)
        return Stage({name: at.outputs[name] for name in self.outputs}, at.inputs)

    def apply(self, at: Stage[np.ndarray]) -> Stage[np.ndarray]:
        """Return only the named outputs, in the order of the names."""
        return Stage({name: at.outputs[name] for name in self.outputs}, at.inputs)


ArrayStep = Softmax | Sigmoid | Argmax | Threshold | TopK | Select


def widened(values: np.ndarray) -> np.ndarray:
    """Half precision in single: its sums would overflow."""
    return values.astype(np.float32) if values.dtype == np.float16 else values


def scores_of(logits: np.ndarray) -> np.ndarray:
    """Return the softmax over the last axis."""
    wide = widened(logits)
    raised = np.exp(wide - wide.max(axis=-1, keepdims=True))
    scores: np.ndarray = raised / raised.sum(axis=-1, keepdims=True)
    return scores


def kind_of(step: ScoreStep) -> str:
    """Return the step as messages name it."""
    return f"the step {step.__struct_config__.tag!r}"


def _known(step: ScoreStep, at: Stage[TensorSpec], name: str) -> TensorSpec:
    if name not in at.outputs:
        raise ConfigurationError(
            f"{kind_of(step)} takes {quoted(name)}; before it there are: {', '.join(at.outputs)}. Name one of them"
        )
    return at.outputs[name]


def taken(step: ScoreStep, at: Stage[TensorSpec], name: str, *, axes: int | None = None) -> TensorSpec:
    """Return the numbers that a step takes, with so many axes after that of the rows.

    Raises:
        ConfigurationError: there are no such numbers before the step.
    """
    spec = _known(step, at, name)
    if spec.kind != "FP" or not spec.row_shape or (axes is not None and len(spec.row_shape) != axes):
        wanted = "at least one axis" if axes is None else f"{axes} axes" if axes > 1 else "one axis"
        raise ConfigurationError(
            f"{kind_of(step)} takes real numbers with {wanted} after that of the rows; {name!r} is {spec.datatype} "
            f"{list(spec.shape)}"
        )
    return spec


def check_labels(step: ScoreStep, labels: tuple[str, ...], count: int) -> None:
    """Return if the labels are as many as the scores, or none.

    Raises:
        ConfigurationError: they are not.
    """
    if labels and len(labels) != count:
        raise ConfigurationError(f"{kind_of(step)} has {len(labels)} labels for {count} scores a row")


def _added(step: ScoreStep, at: Stage[TensorSpec], *specs: TensorSpec) -> Stage[TensorSpec]:
    for spec in specs:
        if spec.name in at.outputs:
            raise ConfigurationError(f"{kind_of(step)} adds {quoted(spec.name)}, which is there already; rename it")
    return at.with_outputs(**{spec.name: spec for spec in specs})


def renamed(step: ScoreStep, at: Stage[TensorSpec], spec: TensorSpec, name: str) -> Stage[TensorSpec]:
    """Return the stage with real numbers in single or double precision in the place of `spec`.

    Raises:
        ConfigurationError: their name is that of another output.
    """
    datatype = "FP64" if spec.datatype == "FP64" else "FP32"
    return written(step, at, spec, replace(spec, name=name, datatype=datatype))


def written(step: ScoreStep, at: Stage[TensorSpec], old: TensorSpec, new: TensorSpec) -> Stage[TensorSpec]:
    """Return the stage with an output in the place of another.

    Raises:
        ConfigurationError: its name is that of a third.
    """
    if new.name != old.name and new.name in at.outputs:
        raise ConfigurationError(f"{kind_of(step)} writes {quoted(new.name)}, which is there already; rename it")
    return at.replaced(old.name, new.name, new)
