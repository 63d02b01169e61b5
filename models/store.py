"""Write the store that `models.catalog` reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import tomli_w

from inferlane.contracts.naming import check_model_name
from inferlane.contracts.wire.tensors import NO_ROW_AXIS, Column, Signature, TensorSpec
from inferlane.runtime.whole_file import write_whole
from models.artifact import Artifact, read_artifact
from models.execution import ON_CPU, Execution, as_table
from models.steps.declared_steps import AfterStep, BeforeStep

Scalar = str | int | float | bool
Value = Scalar | Sequence[Scalar]
Table = Mapping[str, Value]


def dump_toml(
    values: Table, *, tables: Mapping[str, Table] | None = None, lists: Mapping[str, Sequence[Table]] | None = None
) -> str:
    """TOML text with `values` at the top, each of `lists` as `[[name]]` entries and each of `tables` as `[name]`.

    `tomllib.loads` of the text gives back the same values. A name may appear in only one of the three.

    Raises:
        TypeError: a value is none of those that the store holds.
    """
    sections = [tomli_w.dumps(values)]
    # One by one: tomli-w writes short entries in one line, where the documents and our messages say `[[name]]`.
    for name, entries in (lists or {}).items():
        sections.extend(f"[[{name}]]\n{tomli_w.dumps(entry)}" for entry in entries)
    sections.extend(tomli_w.dumps({name: table}) for name, table in (tables or {}).items())
    return "\n".join(section for section in sections if section)


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionAbout:
    """What version.toml says beside the digest and the size, which come from the file itself."""

    quantization: str
    signature: Signature
    metrics: Mapping[str, float | str]
    quantized: Mapping[str, float | str]
    rows_alone: bool = False
    # Whether NaN is refused although the graph has operators that take it.
    refuses_nan: bool = False
    execution: Execution = ON_CPU
    # The steps around the graph, which has that signature, and the files beside it that are counted.
    before: Sequence[BeforeStep] = ()
    after: Sequence[AfterStep] = ()
    files: Sequence[str] = ()
    # The names of the classes by output, where an output names its own.
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)


def onnx_path(models_dir: Path, model: str, version: str) -> Path:
    """Where the store keeps the model file of a version."""
    return models_dir / model / version / "model.onnx"


def digest_of(path: Path) -> str:
    """The digest of the version whose `model.onnx` is at `path`, with all files that it is made of.

    Raises:
        ConfigurationError: a file cannot be read, or the graph names one outside of its folder.
    """
    return read_artifact(path).digest


def write_model(folder: Path, *, description: str, default_version: str, classes: Sequence[str]) -> None:
    """Write model.toml of the model at `folder`; a reader sees the old file or the new one, never half of one."""
    check_model_name(folder.name)
    folder.mkdir(parents=True, exist_ok=True)
    text = dump_toml({"default_version": default_version, "description": description, "classes": list(classes)})
    write_whole(folder / "model.toml", text.encode(), mode=0o644)


def version_toml(about: VersionAbout, artifact: Artifact) -> str:
    """The text of version.toml."""
    tables: dict[str, Table] = {} if about.execution == ON_CPU else {"runtime": as_table(about.execution)}
    tables["metrics"] = about.metrics
    if about.quantized:
        tables["quantized"] = about.quantized
    about_files: dict[str, Value] = {"digest": artifact.digest, "size_bytes": artifact.size_bytes}
    about_graph: dict[str, Value] = {"row_axis": False} if about.signature.batch == NO_ROW_AXIS else {}
    if about.rows_alone:
        about_graph["rows_alone"] = True
    if about.files:
        about_files["files"] = list(about.files)
    return dump_toml(
        about_files | {"quantization": about.quantization} | about_graph,
        lists={
            "before": [_step_table(step) for step in about.before],
            "after": [_step_table(step) for step in about.after],
            "inputs": [_table(spec, about) for spec in about.signature.inputs],
            "outputs": [_table(spec, about) for spec in about.signature.outputs],
            "columns": [_column_table(column) for spec in about.signature.inputs for column in spec.columns],
        },
        tables=tables,
    )


def _step_table(step: BeforeStep | AfterStep) -> Table:
    """What version.toml says of a step: everything, so that it stays what it was when a default changes."""
    return {name: value for name, value in msgspec.to_builtins(step).items() if value not in (None, [], ())}


def _column_table(column: Column) -> Table:
    default: dict[str, Value] = {} if column.default is None else {"default": column.default}
    categories: dict[str, Value] = {"categories": list(column.categories)} if column.categories else {}
    return {"name": column.name, **default, **categories}


def _table(spec: TensorSpec, about: VersionAbout) -> Table:
    """What version.toml says of a tensor. Most defaults are left out: a reader of the file looks at the graph then."""
    shape = list(about.signature.graph_shape(spec))
    table: dict[str, Value] = {"name": spec.name, "datatype": spec.datatype, "shape": shape}
    if spec.allow_nan:
        table["allow_nan"] = not about.refuses_nan
    elif about.refuses_nan and spec.datatype.startswith("FP"):
        table["allow_nan"] = False
    if spec.is_free and any(spec.axes[1:]):
        table["axes"] = list(about.signature.graph_axes(spec))
    if spec.pad is not None:
        table["pad"] = spec.pad
    if spec.mask_of is not None:
        table["mask_of"] = spec.mask_of
    if classes := about.classes.get(spec.name):
        table["classes"] = list(classes)
    return table
