"""Verify that a version can serve: a worker does so at its start, and so does `inferlane models verify`."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from inferlane.contracts.wire.tensors import numpy_dtype
from inferlane.errors import ConfigurationError, InvalidInputError, ModelError
from workers.model import OnnxModel

if TYPE_CHECKING:
    from inferlane.contracts.wire.tensors import Signature, TensorSpec
    from models.catalog import ModelVersion

# The scales of the rows. A model that scales a batch by its largest value shows an error in the smallest row.
_ROW_SCALES = (1.0, 0.01, 100.0, 1.0, 3.0, 0.1, 30.0, 1.0)
# Sums in another order differ in the last digits; int8 quantized by the scale of a batch differs in the second digit.
_ROUNDING = 1e-3
_SEED = 20_261
_TRIED_BYTES = 512 * 1024 * 1024
# Of an axis that is free.
_TRIED_LENGTH = 8
# Names that exporters give to outputs with one value per class.
_SCORES = frozenset({"probabilities", "scores", "logits"})


def load_verified(version: "ModelVersion", *, intra_op_num_threads: int, rows: int) -> OnnxModel:
    """Load a version and verify it: batches of one row and of `rows`, finite outputs, rows independent of each other.

    It also warms the session up, so that the first request does not pay for allocations.

    Raises:
        ConfigurationError: it cannot; the message says what was found.
    """
    model = OnnxModel(version, intra_op_num_threads=intra_op_num_threads)
    try:
        _verify_zeros(model, rows)
        _verify_classes(version)
    except ModelError as error:
        raise ConfigurationError(f"{version.path}: rows of zeros fail: {error}") from error
    _verify_independence(model)
    if version.graph.has_free_axes:
        _verify_filled_up(model)
    if model.steps is not None:
        _verify_steps(model)
    return model


def tried_rows(signature: "Signature", wanted: int) -> int:
    """So many of the wanted rows that all of their inputs fit a bounded memory; at least one.

    Rows so large come one by one: no record holds more.
    """
    row_bytes = sum(math.prod(map(abs, spec.row_shape)) * spec.dtype.itemsize for spec in signature.inputs)
    return max(1, min(wanted, _TRIED_BYTES // max(1, row_bytes)))


def _verify_zeros(model: OnnxModel, rows: int) -> None:
    # On a GPU the first run of each size takes long.
    for count in sorted({1, max(2, tried_rows(model.version.graph, rows)), *model.version.execution.sizes}):
        outputs = model.run_graph(_zeros(model.version.graph, count))
        _verify_outputs(model.version, model.version.graph, outputs, "a row of zeros")


def _verify_outputs(
    version: "ModelVersion", signature: "Signature", outputs: Mapping[str, np.ndarray], row: str
) -> None:
    for spec in signature.outputs:
        output = outputs[spec.name]
        if output.dtype != numpy_dtype(spec.datatype):
            raise ModelError(f"output {spec.name!r} holds {output.dtype} values, not {spec.datatype}")
        if output.dtype.kind == "f" and not np.all(np.isfinite(output)):
            raise ModelError(
                f"{row} gives {spec.name} = {_head(output)}, which no client can read; it must be finite numbers"
            )
        _verify_labels(version, spec.name, output)


def _verify_steps(model: OnnxModel) -> None:
    """Run texts and images that were made up, together and alone, through steps and graph.

    Raises:
        ConfigurationError: a step fails, or the answer to a row depends on the rows beside it.
    """
    signature = model.version.signature
    batch = sample_rows(model, len(_ROW_SCALES))
    try:
        together = model.run(batch)
        _verify_outputs(model.version, signature, together, "a row that was made up")
        _verify_shapes(signature, together)
        alone = [model.run({name: array[n : n + 1] for name, array in batch.items()}) for n in range(len(_ROW_SCALES))]
    except (InvalidInputError, ModelError) as error:
        raise ConfigurationError(f"{model.version.path}: rows for its steps fail: {error}") from error
    if model.steps is not None:
        together, alone = model.steps.comparable(together), [model.steps.comparable(row) for row in alone]
    _refuse_dependence(model, _difference(together, alone))


def _verify_shapes(signature: "Signature", outputs: Mapping[str, np.ndarray]) -> None:
    for spec in signature.outputs:
        shape = outputs[spec.name].shape[1:]
        if not spec.fits(shape):
            raise ModelError(
                f"output {spec.name!r} has rows of the shape {list(shape)}, and should have {list(spec.row_shape)}"
            )


def sample_rows(model: OnnxModel, count: int) -> dict[str, np.ndarray]:
    """Rows for each input that clients see: what the steps make up, and zeros for the others."""
    made = {} if model.steps is None else model.steps.samples(count)
    return _zeros(model.version.signature, count) | made


def _verify_classes(version: "ModelVersion") -> None:
    """Refuse a model whose number of scores differs from the number of classes that it names."""
    # A label that names its own classes may have one that no score is for.
    of_model = () if version.label_output in version.declared_classes else version.classes
    for spec in version.signature.outputs:
        names = version.declared_classes.get(spec.name, of_model)
        scores = spec.row_shape[0] if len(spec.row_shape) == 1 and spec.name in _SCORES else -1
        # One score may tell two classes apart, by its sign.
        if names and scores > 0 and scores != len(names) and (scores, len(names)) != (1, 2):
            raise ConfigurationError(
                f"{version.path}: output {spec.name!r} has {scores} values a row, but there are {len(names)} names of "
                "classes. Correct `classes` in model.toml, or of the output in version.toml."
            )


def _verify_labels(version: "ModelVersion", name: str, output: np.ndarray) -> None:
    # Responses turn these indices into class names: `inferlane.contracts.wire.v1`.
    names = version.class_names.get(name)
    if names and output.ndim == 1 and output.dtype.kind == "i":
        lowest, highest = int(output.min(initial=0)), int(output.max(initial=0))
        if highest >= len(names) or lowest < 0:
            raise ModelError(
                f"output {name!r} gives the class {lowest if lowest < 0 else highest}, but there are {len(names)} "
                "names of classes"
            )


def _verify_independence(model: OnnxModel) -> None:
    """Compare each row's outputs in a batch with its outputs alone.

    Raises:
        ConfigurationError: an output depends on the other rows of the batch, which belong to other clients.
    """
    _refuse_dependence(model, row_dependence(model))


def _refuse_dependence(model: OnnxModel, dependence: str | None) -> None:
    if dependence is not None:
        raise ConfigurationError(
            f"{model.version.path}: the output of a row depends on the rows beside it in its batch: {dependence}. Rows "
            "of other clients would change it. Quantize statically instead of dynamically, and remove layers that use "
            "the whole batch. Or have each row run by itself, which is slower: `rows_alone = true` in version.toml, "
            "`inferlane models add --rows-alone`."
        )


def row_dependence(model: OnnxModel, batch: Mapping[str, np.ndarray] | None = None) -> str | None:
    """Return how the outputs of rows in a batch differ from those of the same rows alone, None if they do not.

    `batch` are rows as clients send them. Without it, the graph gets random ones.
    """
    run = model.run_graph if batch is None else model.run
    batch = _samples(model.version) if batch is None else batch
    count = len(next(iter(batch.values())))
    try:
        together = run(batch)
        alone = [run({name: array[n : n + 1] for name, array in batch.items()}) for n in range(count)]
    except ModelError:
        # Random rows may be invalid for this model; rows of zeros were valid.
        return None
    return _difference(together, alone)


def _difference(together: Mapping[str, np.ndarray], alone: Sequence[Mapping[str, np.ndarray]]) -> str | None:
    # If there are scores, labels follow from them, and may differ at a tie.
    scored = [name for name, array in together.items() if array.dtype.kind == "f"]
    for name in scored or together:
        apart = np.concatenate([outputs[name] for outputs in alone])
        if not _same(together[name], apart):
            return f"{name} is {_head(apart)} alone and {_head(together[name])} in a batch"
    return None


def _verify_filled_up(model: OnnxModel) -> None:
    """Compare the answers to rows with those to the same rows filled up as in a batch with longer ones.

    Raises:
        ConfigurationError: what rows are filled up with changes their answers.
    """
    signature = model.version.graph
    if all(spec.pad is None for spec in signature.inputs):
        return
    own = {name: array[:1] for name, array in _samples(model.version).items()}
    longer = {
        spec.name: np.pad(
            own[spec.name],
            [(0, _TRIED_LENGTH * (axis == -1 and index > 0)) for index, axis in enumerate(spec.shape)],
            constant_values=spec.pad or 0,
        )
        for spec in signature.inputs
    }
    try:
        alone, together = model.run_graph(own), model.run_graph(longer)
    except ModelError:
        # Made-up rows may mean nothing to this model; rows of zeros went through.
        return
    for spec in signature.outputs:
        kept = together[spec.name][tuple(map(slice, alone[spec.name].shape))]
        if alone[spec.name].dtype.kind == "f" and not _same(kept, alone[spec.name]):
            raise ConfigurationError(
                f"{model.version.path}: rows filled up with `pad` to the length of others get another answer: "
                f"{spec.name} is {_head(alone[spec.name])} alone and {_head(kept)} filled up. Name the model's mask "
                "with `mask_of`, or leave out `pad`: then only rows of one length share a batch."
            )


def _same(together: np.ndarray, apart: np.ndarray) -> bool:
    if together.shape != apart.shape:
        return False
    if together.dtype.kind != "f":
        return bool(np.array_equal(together, apart))
    limit = 20 * np.finfo(np.float16).eps if together.dtype == np.float16 else _ROUNDING
    size = np.abs(np.nan_to_num(apart.astype(np.float64), posinf=0, neginf=0)).max(initial=0)
    return bool(np.allclose(together, apart, rtol=limit, atol=limit * max(size, 1e-6), equal_nan=True))


def _zeros(signature: "Signature", count: int) -> dict[str, np.ndarray]:
    """Rows of zeros; a mask is one of ones, for no row is all fill."""
    return {
        spec.name: np.full((count, *_tried_shape(spec)), int(spec.mask_of is not None), numpy_dtype(spec.datatype))
        if spec.datatype != "BYTES"
        else np.zeros((count, *_tried_shape(spec)), numpy_dtype(spec.datatype))
        for spec in signature.inputs
    }


def _samples(version: "ModelVersion") -> Mapping[str, np.ndarray]:
    """Random rows of different scales; integers are 0 or 1, which every vocabulary of tokens or categories has."""
    random = np.random.default_rng(_SEED)
    rows = {}
    for spec in version.graph.inputs:
        dtype, shape = numpy_dtype(spec.datatype), (len(_ROW_SCALES), *_tried_shape(spec))
        if spec.mask_of is not None:
            rows[spec.name] = np.ones(shape, dtype)
        elif dtype.kind == "f":
            scales = np.reshape(_ROW_SCALES, (-1, *(1 for _ in spec.row_shape)))
            rows[spec.name] = (random.standard_normal(shape) * scales).astype(dtype)
        else:
            rows[spec.name] = random.integers(0, 2, shape).astype(dtype)
    return rows


def _tried_shape(spec: "TensorSpec") -> list[int]:
    return [_TRIED_LENGTH if axis == -1 else axis for axis in spec.row_shape]


def _head(array: np.ndarray) -> str:
    flat = np.ravel(array)
    values = [f"{value:.4g}" if flat.dtype.kind == "f" else str(value) for value in flat[:8]]
    return f"[{', '.join(values)}{', …' if flat.size > len(values) else ''}]"
