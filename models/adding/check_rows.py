"""Rows to check a model with, out of a file: its inputs, and the answers that are expected."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from inferlane.contracts.wire.row_texts import from_base64
from inferlane.contracts.wire.tensors import Signature, TensorSpec, numpy_dtype
from inferlane.errors import ConfigurationError, quoted

# Enough to see a difference, and few enough to be checked in seconds.
MAX_ROWS = 10_000
_KNOWN = (".csv", ".parquet", ".npz")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRows:
    """Arrays `(rows, …)` by the names of inputs, and of the outputs that the file has expected answers for."""

    inputs: Mapping[str, np.ndarray]
    expected: Mapping[str, np.ndarray]
    # The inputs with all digits of the file, where the datatype of an input has fewer.
    unrounded: Mapping[str, np.ndarray] = field(default_factory=dict)
    # What is known of the rows beside the outputs: `(rows,)` class indices or numbers.
    labels: np.ndarray | None = None


def read_check_rows(
    path: Path,
    signature: Signature,
    classes: Mapping[str, Sequence[str]],
    *,
    labels: str | None = None,
    option: str = "--check",
) -> CheckRows:
    """Read a file of rows for a model, which `option` named; `labels` is a column, or an array, that is no output.

    An `.npz` file has an array for each input, and for each output that is known, by their names. In a table (`.csv`
    with a header, `.parquet`) the columns `OUTPUT` and `OUTPUT.CLASS` or `OUTPUT.INDEX` are expected answers; `INPUT`
    and `INPUT.INDEX` are values of that input; all others are, in their order, the values of a model's only input.

    Raises:
        ConfigurationError: it cannot be read, or does not fit the model.
    """
    suffix = path.suffix.lower()
    if suffix not in _KNOWN:
        raise ConfigurationError(f"{option} {str(path)!r} is no file of rows that is known: {', '.join(_KNOWN)}")
    try:
        if suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        else:
            arrays = read_columns(path)
        known = _taken(arrays, labels)
        rows = _of_arrays(arrays, signature) if suffix == ".npz" else _of_columns(arrays, signature, classes)
    except (OSError, ValueError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigurationError(f"{option} {str(path)!r} cannot be read: {error}") from error
    return _checked(f"{option} {str(path)!r}", replace(rows, labels=known), signature, classes)


def _taken(arrays: dict[str, np.ndarray], labels: str | None) -> np.ndarray | None:
    """Take the labels away from the others."""
    if labels is None:
        return None
    if labels not in arrays:
        raise ValueError(f"there are no labels {quoted(labels)} in it, but {', '.join(map(quoted, list(arrays)[:10]))}")
    return arrays.pop(labels)


def read_columns(path: Path) -> dict[str, np.ndarray]:
    """The columns of a table, `(rows,)` each: numbers, or text.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    return _csv_columns(path) if path.suffix.lower() == ".csv" else _parquet_columns(path)


def _of_arrays(arrays: Mapping[str, np.ndarray], signature: Signature) -> CheckRows:
    outputs = {spec.name for spec in signature.outputs}
    inputs = {name: array for name, array in arrays.items() if name not in outputs}
    if len(signature.inputs) == len(inputs) == 1:
        inputs = {signature.inputs[0].name: next(iter(inputs.values()))}
    if unknown := [name for name in inputs if name not in {spec.name for spec in signature.inputs}]:
        raise ValueError(f"the arrays {', '.join(map(quoted, unknown[:5]))} are those of no input and no output")
    return CheckRows(inputs=inputs, expected={name: array for name, array in arrays.items() if name in outputs})


def _of_columns(
    columns: Mapping[str, np.ndarray], signature: Signature, classes: Mapping[str, Sequence[str]]
) -> CheckRows:
    rest = dict(columns)
    expected = {
        spec.name: array
        for spec in signature.outputs
        if (array := _gathered(rest, spec, classes.get(spec.name, ()))) is not None
    }
    inputs = {spec.name: array for spec in signature.inputs if (array := _gathered(rest, spec, ())) is not None}
    if not inputs and signature.inputs[0].columns:
        inputs = {signature.inputs[0].name: _of_named_columns(rest, signature.inputs[0])}
    if not inputs and len(signature.inputs) == 1 and rest:
        spec = signature.inputs[0]
        inputs = {spec.name: np.stack(list(rest.values()), axis=1)}
        rest = {}
    if rest:
        raise ValueError(f"the columns {', '.join(map(quoted, list(rest)[:5]))} are those of no input and no output")
    return CheckRows(inputs=inputs, expected=expected)


def _of_named_columns(rest: dict[str, np.ndarray], spec: TensorSpec) -> np.ndarray:
    """Take the columns that version.toml names; texts become the index of their category."""
    missing = [column.name for column in spec.columns if column.name not in rest]
    if missing:
        raise ValueError(f"there is no column {', '.join(map(quoted, missing[:5]))}, which version.toml names")
    taken = []
    for column in spec.columns:
        values = rest.pop(column.name)
        index = {text: float(number) for number, text in enumerate(column.categories)}
        if index and (unknown := {str(value) for value in values} - index.keys()):
            raise ValueError(
                f"the column {quoted(column.name)} holds {quoted(min(unknown))}, which is no category of it"
            )
        taken.append(np.array([index[str(value)] for value in values]) if index else values)
    return np.stack(taken, axis=1)


def _gathered(rest: dict[str, np.ndarray], spec: TensorSpec, classes: Sequence[str]) -> np.ndarray | None:
    """Take the columns of a tensor away from the others."""
    if spec.name in rest:
        return rest.pop(spec.name)
    for names in (classes, [str(number) for number in range(max(0, spec.row_shape[0] if spec.row_shape else 0))]):
        keys = [f"{spec.name}.{name}" for name in names]
        if keys and all(key in rest for key in keys):
            return np.stack([rest.pop(key) for key in keys], axis=1)
    return None


def _csv_columns(path: Path) -> dict[str, np.ndarray]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = csv.reader(file)
        header = next(lines, None)
        rows = [line for line, _ in zip(lines, range(MAX_ROWS), strict=False) if line]
    if not header or not rows:
        raise ValueError("there is no row below a header")
    if any(len(row) != len(header) for row in rows):
        number = next(number for number, row in enumerate(rows, 2) if len(row) != len(header))
        raise ValueError(f"line {number} has {len(rows[number - 2])} values, and the header {len(header)}")
    return {name: _column([row[at] for row in rows]) for at, name in enumerate(header)}


def _column(values: list[str]) -> np.ndarray:
    try:
        return np.array([float(value) if value else np.nan for value in values])
    except ValueError:
        return np.array(values)


def _parquet_columns(path: Path) -> dict[str, np.ndarray]:
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra
        from pyarrow import parquet  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "reading Parquet needs 'pyarrow', which is not installed. Install the extra: pip install "
            "'inferlane[parquet]', or give the rows as .csv or .npz"
        ) from error
    try:
        table = parquet.read_table(path).slice(0, MAX_ROWS)
    except pa.ArrowException as error:
        raise ValueError(str(error)) from error
    return {name: table.column(name).to_numpy() for name in table.column_names}


def _checked(path: str, rows: CheckRows, signature: Signature, classes: Mapping[str, Sequence[str]]) -> CheckRows:
    missing = [spec.name for spec in signature.inputs if spec.name not in rows.inputs]
    if missing:
        raise ConfigurationError(
            f"{path} has no values for the input {', '.join(map(quoted, missing))}. The model has: "
            f"{', '.join(spec.name for spec in signature.inputs)}"
        )
    inputs = {
        spec.name: _fitted(path, rows.inputs[spec.name], spec, numpy_dtype(spec.datatype)) for spec in signature.inputs
    }
    unrounded = {
        spec.name: _fitted(path, rows.inputs[spec.name], spec, np.dtype(np.float64))
        for spec in signature.inputs
        if numpy_dtype(spec.datatype).kind == "f"
    }
    expected = {
        spec.name: _indices(path, spec.name, rows.expected[spec.name][:MAX_ROWS], classes.get(spec.name, ()))
        for spec in signature.outputs
        if spec.name in rows.expected
    }
    labels = rows.labels
    if labels is not None:
        # Whoever asks for labels gives the classes of the one output that they are compared with.
        names = next(iter(classes.values()), ())
        labels = _indices(path, "the labels", labels[:MAX_ROWS], names)
    arrays = (*inputs.values(), *expected.values(), *([] if labels is None else [labels]))
    counts = {len(array) for array in arrays}
    if len(counts) != 1 or counts == {0}:
        raise ConfigurationError(f"{path} has {sorted(counts)} rows; each column needs as many, and one")
    return CheckRows(inputs=inputs, expected=expected, unrounded={**inputs, **unrounded}, labels=labels)


def _fitted(path: str, array: np.ndarray, spec: TensorSpec, dtype: np.dtype) -> np.ndarray:
    try:
        values = array[:MAX_ROWS].astype(dtype)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"{path}: {spec.name} wants {spec.datatype}: {error}") from error
    if spec.is_binary:
        values = from_base64(values, f"{path}: column {spec.name}")
    if values.shape[1:] == spec.row_shape:
        return values
    try:
        return values.reshape(len(values), *spec.row_shape)
    except ValueError:
        raise ConfigurationError(
            f"{path} has rows of the shape {list(values.shape[1:])}, and the input {spec.name!r} wants "
            f"{list(spec.row_shape)}"
        ) from None


def _indices(path: str, name: str, array: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Names of classes as their indices; numbers as they are."""
    if array.ndim != 1 or array.dtype.kind not in "OUS":
        return array
    known = {label: index for index, label in enumerate(classes)}
    unknown = [str(value) for value in array if str(value) not in known]
    if unknown:
        raise ConfigurationError(
            f"{path} expects {quoted(unknown[0])} of {name}, which is no class of the model: "
            f"{', '.join(list(known)[:10]) or 'it names none'}"
        )
    return np.array([known[str(value)] for value in array], np.int64)
