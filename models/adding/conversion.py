"""Conversion: a model of scikit-learn, XGBoost, LightGBM or PyTorch becomes ONNX in a process of its own.

A pickle runs whatever its author wrote when it is opened, so it is opened only where a person has said that it may,
and never in a service. The converted model is run beside the library's own on the same rows: conversions do differ.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from inferlane.contracts.wire.tensors import Signature
from inferlane.errors import ConfigurationError, InferlaneError, clipped
from models.adding.isolated_run import answer_order, run_in_child
from models.adding.sources import SourceKind

# The extra that brings each of them.
_EXTRAS = {
    "skops": "sklearn",
    "sklearn": "sklearn",
    "skl2onnx": "sklearn",
    "joblib": "sklearn",
    "onnxmltools": "xgboost' or 'inferlane[lightgbm",
    "xgboost": "xgboost",
    "lightgbm": "lightgbm",
    "torch": "torch",
    "onnxscript": "torch",
}
_SHOWN_CHARS = 600


# Of rows with missing values.
_NAN_TOLERANCE = 1e-3


class ConversionOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be converted, and where the ONNX file and the library's own predictions go."""

    source: str
    kind: SourceKind
    trust_pickle: bool
    target: str
    predictions: str
    rows: str | None


class Converted(msgspec.Struct, frozen=True, kw_only=True):
    """What it was, in words, and what the library had to say."""

    library: str
    model_class: str
    rows_from: str
    classes: tuple[str, ...]
    # The library takes no missing values, or answers them otherwise than the converted model.
    refuses_nan: bool = False
    warnings: tuple[str, ...] = ()


def convert_in_child(order: ConversionOrder, *, scratch: Path, timeout_s: float) -> Converted:
    """Convert a model in a child process.

    Raises:
        ConfigurationError: it is a pickle that nobody trusts, a library is missing, or it cannot be converted.
    """
    if order.kind.is_pickle and not order.trust_pickle:
        instead = (
            "Export the model to ONNX instead (torch.onnx.export)"
            if order.kind.is_of_torch
            else "Save the model with skops.io.dump(model, 'model.skops') instead"
        )
        raise ConfigurationError(
            f"{order.source} is a pickle, which runs whatever its author wrote when it is opened. {instead}, or say "
            "--trust-pickle if you know who made it"
        )
    return run_in_child(
        "models.adding.conversion", order, Converted, what=order.source, scratch=scratch, timeout_s=timeout_s
    )


def _convert_or_refuse(order: ConversionOrder) -> Converted:
    try:
        return _convert(order)
    except InferlaneError:
        raise
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        extra = _EXTRAS.get(library)
        remedy = f"pip install 'inferlane[{extra}]'" if extra else f"pip install {library}"
        raise ConfigurationError(f"{order.source} needs {library!r}, which is not installed: {remedy}") from error
    except Exception as error:  # whatever a library raises for a model that it cannot convert
        text = clipped(f"{type(error).__name__}: {error}", limit_chars=_SHOWN_CHARS)
        raise ConfigurationError(f"{order.source} cannot be converted to ONNX: {text}") from error


def _convert(order: ConversionOrder) -> Converted:
    # Libraries that take seconds to load, and extras that may not be there.
    from models.adding.archives import check_archive  # noqa: PLC0415
    from models.adding.inspection import inspect  # noqa: PLC0415
    from models.adding.library_models import open_model  # noqa: PLC0415

    if order.kind.is_of_torch:
        from models.adding.torch_models import open_torch_model  # noqa: PLC0415
    source = Path(order.source)
    check_archive(source)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        model = (
            open_torch_model(source, order.kind)
            if order.kind.is_of_torch
            else open_model(source, order.kind, trusted=order.trust_pickle)
        )
    target = Path(order.target)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        target.write_bytes(model.to_onnx(Path(order.rows) if order.rows else None).SerializeToString())
        inspected = inspect(target)
        rows_from, refuses_nan = _write_predictions(order, model, inspected.artifact.model, inspected.classes)
    said = [str(warning.message).splitlines()[0] for warning in heard if "Version" in warning.category.__name__]
    return Converted(
        library=model.library,
        model_class=model.name,
        rows_from=rows_from,
        classes=model.classes,
        refuses_nan=refuses_nan,
        warnings=tuple(clipped(text, limit_chars=200) for text in dict.fromkeys(said)),
    )


def _write_predictions(
    order: ConversionOrder, model: Any, converted: bytes, classes: Mapping[str, Sequence[str]]
) -> tuple[str, bool]:
    """Write rows with what the library predicts for them, by the names of the outputs.

    Returns where the rows are from, and whether missing values have to be refused.
    """
    import onnx  # noqa: PLC0415 - as above

    from models.adding.check_rows import read_check_rows  # noqa: PLC0415
    from models.adding.sample_rows import draw_rows  # noqa: PLC0415
    from models.model_session import open_session, signature_of  # noqa: PLC0415

    try:
        session = open_session(converted)
    except Exception as error:  # onnxruntime raises pybind types of its own with no common base
        raise ConfigurationError(f"onnxruntime cannot load the converted model: {clipped(str(error))}") from error
    graph = signature_of(session)
    signature = Signature.of_graph(graph.inputs, graph.outputs)
    inputs: Mapping[str, np.ndarray]
    # What the library predicts is of the rows as they are: to the graph, numbers may have lost digits.
    unrounded: Mapping[str, np.ndarray]
    if order.rows is None:
        inputs = unrounded = draw_rows(
            onnx.load_model_from_string(converted), signature, texts=model.texts, with_nan=model.takes_nan
        )
        rows_from = "drawn at random"
    else:
        rows = read_check_rows(Path(order.rows), signature, classes)
        inputs, unrounded = rows.inputs, rows.inputs if order.kind.is_of_torch else rows.unrounded
        rows_from = Path(order.rows).name
    if signature.batch > 0:
        # The graph, and so the library, takes so many rows and no others.
        inputs, unrounded = (
            {name: array[: signature.batch] for name, array in arrays.items()} for arrays in (inputs, unrounded)
        )

    def run(rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        # onnxruntime takes strings as Python's objects alone.
        fed = {name: array.astype(object) if array.dtype.kind == "T" else array for name, array in rows.items()}
        return dict(zip([spec.name for spec in signature.outputs], session.run(None, fed), strict=True))

    found = run(inputs)
    if not order.kind.is_of_torch:
        _describe_outputs(Path(order.target), found)
    expected = _matching(found, model.predictions(unrounded))
    # Numpy keeps its own strings in a file only as a pickle, which nobody opens here.
    texts = {name: array.astype(object).astype("U") for name, array in inputs.items() if array.dtype.kind == "T"}
    arrays: dict[str, Any] = {**inputs, **texts, **expected}
    np.savez(order.predictions, **arrays)
    if model.takes_nan or order.kind.is_of_torch:
        # Some of the rows have missing values already, or the library has none.
        return rows_from, False
    drawn = draw_rows(onnx.load_model_from_string(converted), signature, texts=model.texts, with_nan=True)
    return rows_from, not _agree_on_nan(model, drawn, run)


def _agree_on_nan(
    model: Any, rows: Mapping[str, np.ndarray], run: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
) -> bool:
    """Whether the library takes rows with missing values, and the converted model answers them alike."""
    from models.adding.reference_comparison import compare  # noqa: PLC0415 - as above

    try:
        expected = _matching(found := run(rows), model.predictions(rows))
        compare(found, expected, _NAN_TOLERANCE, expected_of="the library")
    except Exception:  # noqa: BLE001 - libraries refuse NaN in their own ways, and all of them mean no
        return False
    return True


def _describe_outputs(path: Path, found: Mapping[str, np.ndarray]) -> None:
    """Give the outputs of a converted model the shapes that they have: converters do not always say them rightly."""
    import onnx  # noqa: PLC0415 - as above

    model = onnx.load(path)
    for output in model.graph.output:
        kind = output.type.tensor_type
        if output.name in found and output.type.WhichOneof("value") == "tensor_type":
            shape = [None, *found[output.name].shape[1:]]
            output.CopyFrom(onnx.helper.make_tensor_value_info(output.name, kind.elem_type, shape))
    path.write_bytes(model.SerializeToString())


def _matching(found: Mapping[str, np.ndarray], predicted: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """The library's prediction for each output: the first of as many values and of the same kind."""
    if len(found) == len(predicted) and all(map(_are_alike, found.values(), predicted)):
        return dict(zip(found, predicted, strict=True))
    matches: dict[str, np.ndarray] = {}
    for name, output in found.items():
        for values in predicted:
            if _are_alike(output, values):
                matches[name] = values.astype("U") if values.dtype.kind == "O" else values
                break
    if not matches:
        raise ConfigurationError("no output of the converted model is like a prediction of the library's own")
    return matches


def _are_alike(output: np.ndarray, values: np.ndarray) -> bool:
    return values.size == output.size and (values.dtype.kind == "f") == (output.dtype.kind == "f")


if __name__ == "__main__":
    answer_order(ConversionOrder, _convert_or_refuse)
