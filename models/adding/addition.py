"""Adding a version: find it, convert it, inspect it, check it, publish it."""

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from inferlane import __version__
from inferlane.contracts.naming import check_model_name, check_version_name
from inferlane.errors import ConfigurationError
from models.adding.checking import Checked, CheckOrder, check_in_child
from models.adding.conversion import ConversionOrder, Converted, convert_in_child
from models.adding.graph_notes import NO_NOTES, GraphNotes
from models.adding.inspection import Inspected, inspect
from models.adding.publication import Published, check_free, preparation, publish
from models.adding.remote import check_digest, fetch_source, is_remote
from models.adding.sources import Source, SourceKind, find_source
from models.artifact import read_artifact
from models.described_classes import with_steps
from models.described_tensors import read_version_file
from models.execution import ON_CPU, Execution
from models.files import read_model_file
from models.store import VersionAbout, version_toml

_NO_NAN = "missing values (NaN) are refused: the library takes none, or answers them otherwise than the converted model"
_CONVERTED, _PREDICTIONS, _DOWNLOADED = "converted.onnx", "predictions.npz", "downloaded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Addition:
    """What is to be added, and how it is checked."""

    source: str
    model: str
    version: str | None
    models_dir: Path
    check: Path | None
    tolerance: float
    timeout_s: float
    trust_pickle: bool = False
    # Rows are run one by one, because the answer to one depends on the others.
    rows_alone: bool = False
    # A file that declares the steps around the model; None finds them in the files of an export.
    steps: Path | None = None
    finds_steps: bool = True
    # Of a text, in tokens; None: what the export says.
    max_length: int | None = None
    # Whether a row of an export is two texts.
    pairs: bool = False
    execution: Execution = ON_CPU
    notes: GraphNotes = NO_NOTES
    description: str = ""
    # Of the file that SOURCE is; and how much may be downloaded.
    digest: str | None = None
    limit_bytes: int = 4 * 1024**3


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """`report.json`: what was seen of a version when it was added."""

    source: str
    added_at: str
    release: str
    converted: Converted | None
    producer: str
    ir_version: int
    opsets: Mapping[str, int]
    nodes: int
    digest: str
    size_bytes: int
    changes: tuple[str, ...]
    checked: Checked


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """A version that is in the store now."""

    published: Published
    report: Report
    classes: Mapping[str, tuple[str, ...]]


def add(addition: Addition, *, say: Callable[[str], object]) -> Added:
    """Add a model to the store, whole or not at all; `say` hears what is being done.

    Raises:
        InvalidNameError: no topic could be called so.
        ConfigurationError: it could not be served, or the store cannot take it.
    """
    check_model_name(addition.model)
    if addition.version is not None:
        check_version_name(addition.version)
        check_free(addition.models_dir, model=addition.model, version=addition.version)
    if addition.check is not None and not addition.check.is_file():
        raise ConfigurationError(f"--check: there is no file {str(addition.check)!r}")
    # A source of this machine that is not there ends before anything is made.
    local = None if is_remote(addition.source) else find_source(addition.source)
    with preparation(addition.models_dir) as scratch, _called_as_given(addition.source, scratch):
        source = local or _fetched(addition, scratch, say)
        check_digest(source.path, addition.digest)
        converted = _converted(addition, source, scratch, say)
        say("inspecting")
        inspected = inspect(
            source.path if converted is None else scratch / _CONVERTED, has_row_axis=addition.notes.has_row_axis
        )
        folder = scratch / "version"
        _write_files(folder, inspected, source)
        say("checking")
        checked = _checked(addition, inspected, folder, source, scratch)
        inspected = replace(inspected, artifact=read_artifact(folder / "model.onnx", _files_of(source)))
        report = _report(addition, inspected, checked, converted)
        classes = {**_score_classes(report), **inspected.classes}
        steps = checked.declared.around(checked.graph)
        (folder / "version.toml").write_text(
            version_toml(_about(report, classes, addition, _files_of(source)), inspected.artifact), encoding="utf-8"
        )
        # As every service will read it: what none could read must not be in the store.
        _check_readable(folder)
        (folder / "report.json").write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        published = publish(
            folder,
            addition.models_dir,
            model=addition.model,
            version=addition.version,
            description=addition.description,
        )
    return Added(published=published, report=report, classes=with_steps(classes, steps))


def _check_readable(folder: Path) -> None:
    try:
        read_version_file(folder)
    except ConfigurationError as error:
        reason = str(error).replace(f"{folder}/", "")
        raise ConfigurationError(
            f"no service could read what describes this version: {reason}. A model with fewer inputs, outputs and "
            "classes can be served, or one with shorter names of them"
        ) from error


def _fetched(addition: Addition, scratch: Path, say: Callable[[str], object]) -> Source:
    say("downloading")
    folder = scratch / _DOWNLOADED
    folder.mkdir()
    return fetch_source(addition.source, folder, limit_bytes=addition.limit_bytes)


@contextmanager
def _called_as_given(named: str, scratch: Path) -> Iterator[None]:
    """A person knows the URL that was given, and not the folder that it was downloaded into."""
    try:
        yield
    except ConfigurationError as error:
        reason = re.sub(rf"{re.escape(str(scratch / _DOWNLOADED))}[^\s:,'\"]*", lambda _: named, str(error))
        raise ConfigurationError(reason) from error


def _converted(addition: Addition, source: Source, scratch: Path, say: Callable[[str], object]) -> Converted | None:
    if source.kind is SourceKind.ONNX:
        return None
    say("converting")
    order = ConversionOrder(
        source=str(source.path.resolve()),
        kind=source.kind,
        trust_pickle=addition.trust_pickle,
        target=str(scratch / _CONVERTED),
        predictions=str(scratch / _PREDICTIONS),
        rows=None if addition.check is None else str(addition.check.resolve()),
    )
    return convert_in_child(order, scratch=scratch, timeout_s=addition.timeout_s)


def _write_files(folder: Path, inspected: Inspected, source: Source) -> None:
    folder.mkdir()
    for name, content in {"model.onnx": inspected.artifact.model, **inspected.artifact.external}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for path in source.companions:
        shutil.copyfile(path, folder / path.name)


def _files_of(source: Source) -> tuple[str, ...]:
    """The files that come with the model, by name."""
    return tuple(path.name for path in source.companions)


def _checked(addition: Addition, inspected: Inspected, folder: Path, source: Source, scratch: Path) -> Checked:
    order = CheckOrder(
        folder=str(folder),
        classes=inspected.classes,
        model_classes=_model_classes(addition),
        rows=None if addition.check is None else str(addition.check.resolve()),
        predictions=str(scratch / _PREDICTIONS) if (scratch / _PREDICTIONS).exists() else None,
        tolerance=addition.tolerance,
        rows_alone=addition.rows_alone,
        steps=None if addition.steps is None else str(addition.steps.resolve()),
        export=None if source.folder is None or not addition.finds_steps else str(source.folder.resolve()),
        max_length=addition.max_length,
        pairs=addition.pairs,
        files=_files_of(source),
        execution=addition.execution,
        notes=addition.notes,
    )
    try:
        return check_in_child(order, scratch=scratch, timeout_s=addition.timeout_s)
    except ConfigurationError as error:
        # The person knows the file that was given, and not the copy of it.
        reason = str(error).replace(str(folder / "model.onnx"), str(source.path))
        if "Unknown Category" in reason:
            reason += " A request may hold any text: fit the OneHotEncoder with handle_unknown='ignore'."
        raise ConfigurationError(reason) from error


def _model_classes(addition: Addition) -> tuple[str, ...]:
    """The classes of the model, which its version has where none of its outputs names its own."""
    try:
        return read_model_file(addition.models_dir / addition.model).classes
    except ConfigurationError:
        return ()


def _report(addition: Addition, inspected: Inspected, checked: Checked, converted: Converted | None) -> Report:
    changes = inspected.changes
    if converted is not None and converted.refuses_nan:
        if any(spec.allow_nan for spec in checked.graph.inputs):
            changes = (*changes, _NO_NAN)
        checked = msgspec.structs.replace(checked, accepts_nan=False)
    return Report(
        source=addition.source,
        added_at=datetime.now(UTC).isoformat(timespec="seconds"),
        release=__version__,
        converted=converted,
        producer=inspected.producer,
        ir_version=inspected.ir_version,
        opsets=inspected.opsets,
        nodes=inspected.nodes,
        digest=inspected.artifact.digest,
        size_bytes=inspected.artifact.size_bytes,
        changes=changes,
        checked=checked,
    )


def _score_classes(report: Report) -> dict[str, tuple[str, ...]]:
    """What the library calls the columns of the scores, where the graph does not say."""
    classes = report.converted.classes if report.converted else ()
    outputs = report.checked.signature.outputs
    return {
        spec.name: classes
        for spec in outputs
        if classes and spec.datatype.startswith("FP") and spec.row_shape == (len(classes),)
    }


def _about(
    report: Report, classes: Mapping[str, tuple[str, ...]], addition: Addition, files: tuple[str, ...]
) -> VersionAbout:
    return VersionAbout(
        quantization="none",
        signature=report.checked.graph,
        before=report.checked.declared.before,
        after=report.checked.declared.after,
        files=files,
        metrics={f"batch{rows}_latency_us": value for rows, value in report.checked.latency_us.items()},
        quantized={},
        rows_alone=addition.rows_alone,
        refuses_nan=report.converted is not None and report.converted.refuses_nan,
        execution=addition.execution,
        classes=classes,
    )
