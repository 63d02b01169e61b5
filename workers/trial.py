"""What a version must show before it serves: a worker runs this at its start, and `inferlane models verify` too."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from inferlane.contracts.wire.tensors import numpy_dtype
from inferlane.errors import ConfigurationError, ModelError
from workers.model import OnnxModel

if TYPE_CHECKING:
    from models.catalog import ModelVersion

# Rows whose sizes differ by that much: what a batch scales by its largest value shows in its smallest row.
_ROW_SCALES = (1.0, 0.01, 100.0, 1.0, 3.0, 0.1, 30.0, 1.0)
# Sums in another order differ in the last digits; int8 with the scale of a batch differs in the second.
_ROUNDING = 1e-3
_SEED = 20_261
# Outputs of a value a class, by the names that exporters give them.
_SCORES = frozenset({"probabilities", "scores", "logits"})


def load_verified(version: "ModelVersion", *, intra_op_num_threads: int, rows: int) -> OnnxModel:
    """Load a version and show that it can serve: batches of one row and of `rows`, finite answers, rows by themselves.

    The first client does not pay for allocations then.

    Raises:
        ConfigurationError: it cannot; the message says what was found.
    """
    model = OnnxModel(version, intra_op_num_threads=intra_op_num_threads)
    try:
        _try_zeros(model, rows)
        _try_classes(version)
    except ModelError as error:
        raise ConfigurationError(f"{version.path}: rows of zeros fail: {error}") from error
    _try_neighbours(model)
    return model


def _try_zeros(model: OnnxModel, rows: int) -> None:
    for count in (1, max(2, rows)):
        outputs = model.run(_zeros(model.version, count))
        for spec in model.version.signature.outputs:
            output = outputs[spec.name]
            if output.dtype != numpy_dtype(spec.datatype):
                raise ModelError(f"output {spec.name!r} holds {output.dtype} values, not {spec.datatype}")
            if not np.all(np.isfinite(output)):
                raise ModelError(
                    f"a row of zeros gives {spec.name} = {_head(output)}, which no client can read; it must be finite "
                    "numbers"
                )
            _try_labels(model.version, spec.name, output)


def _try_classes(version: "ModelVersion") -> None:
    """A model that names its classes has no output of another number of scores."""
    if not version.classes:
        return
    for spec in version.signature.outputs:
        scores = spec.row_shape[0] if len(spec.row_shape) == 1 and spec.name in _SCORES else -1
        if scores > 0 and scores != len(version.classes):
            raise ConfigurationError(
                f"{version.path}: output {spec.name!r} has {scores} values a row, but model.toml names "
                f"{len(version.classes)} classes. Correct `classes`."
            )


def _try_labels(version: "ModelVersion", name: str, output: np.ndarray) -> None:
    # What an answer turns into class names: `inferlane.contracts.wire.v1`.
    if version.classes and output.ndim == 1 and output.dtype.kind == "i":
        worst = output.max(initial=0)
        if worst >= len(version.classes) or output.min(initial=0) < 0:
            raise ModelError(
                f"output {name!r} gives the class {int(worst)}, but model.toml names {len(version.classes)} classes"
            )


def _try_neighbours(model: OnnxModel) -> None:
    """Compare each row's answer in a batch with its answer alone.

    Raises:
        ConfigurationError: an answer depends on the rows beside it, which are other people's.
    """
    batch = _samples(model.version)
    try:
        together = model.run(batch)
        alone = [model.run({name: array[n : n + 1] for name, array in batch.items()}) for n in range(len(_ROW_SCALES))]
    except ModelError:
        # Made-up rows may mean nothing to this model; rows of zeros went through.
        return
    # A label follows from scores where there are some, and may change by itself at a tie.
    scored = [name for name, array in together.items() if array.dtype.kind == "f"]
    for name in scored or together:
        apart = np.concatenate([answer[name] for answer in alone])
        if not _same(together[name], apart):
            raise ConfigurationError(
                f"{model.version.path}: the answer to a row depends on the rows beside it in a batch: {name} is "
                f"{_head(apart)} alone and {_head(together[name])} in a batch. Rows of other clients would change it. "
                "Quantize statically instead of dynamically, and leave out what looks at the whole batch."
            )


def _same(together: np.ndarray, apart: np.ndarray) -> bool:
    if together.shape != apart.shape:
        return False
    if together.dtype.kind != "f":
        return bool(np.array_equal(together, apart))
    limit = 20 * np.finfo(np.float16).eps if together.dtype == np.float16 else _ROUNDING
    size = np.abs(np.nan_to_num(apart.astype(np.float64), posinf=0, neginf=0)).max(initial=0)
    return bool(np.allclose(together, apart, rtol=limit, atol=limit * max(size, 1e-6), equal_nan=True))


def _zeros(version: "ModelVersion", count: int) -> dict[str, np.ndarray]:
    return {
        spec.name: np.zeros((count, *spec.row_shape), dtype=numpy_dtype(spec.datatype))
        for spec in version.signature.inputs
    }


def _samples(version: "ModelVersion") -> Mapping[str, np.ndarray]:
    """Rows of different sizes; whole numbers stay 0 or 1, which a look-up of tokens and categories has."""
    random = np.random.default_rng(_SEED)
    rows = {}
    for spec in version.signature.inputs:
        dtype, shape = numpy_dtype(spec.datatype), (len(_ROW_SCALES), *spec.row_shape)
        if dtype.kind == "f":
            scales = np.reshape(_ROW_SCALES, (-1, *(1 for _ in spec.row_shape)))
            rows[spec.name] = (random.standard_normal(shape) * scales).astype(dtype)
        else:
            rows[spec.name] = random.integers(0, 2, shape).astype(dtype)
    return rows


def _head(array: np.ndarray) -> str:
    flat = np.ravel(array)
    return f"[{', '.join(f'{value:.4g}' for value in flat[:8])}{', …' if flat.size > 8 else ''}]"  # noqa: PLR2004
