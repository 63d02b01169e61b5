"""The files of a store: where its models and versions lie, and what `model.toml` and `version.toml` must hold."""

import math
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from inferlane.contracts.naming import is_model_name
from inferlane.contracts.wire.tensors import Column
from inferlane.errors import ConfigurationError
from models.execution import ON_CPU, Execution
from models.steps.declared_steps import AfterStep, BeforeStep

T = TypeVar("T")
_SHOWN_CHARS = 500
# Far more than anybody writes by hand. Every process reads these files at its start, at a megabyte a second.
_MAX_FILE_BYTES = 256 * 1024
# A JSON number that every client reads as it was written.
_LARGEST_EXACT = 2**53


class ModelFile(msgspec.Struct, frozen=True):
    """`model.toml`."""

    default_version: str
    description: str = ""
    classes: tuple[str, ...] = ()


class TensorEntry(msgspec.Struct, frozen=True):
    name: Annotated[str, msgspec.Meta(min_length=1)]
    datatype: str
    shape: tuple[int, ...]
    # Of an input with a free axis: what the graph calls all its axes. Those of one name have one length in a row.
    axes: tuple[str, ...] = ()
    # Of an output: what the columns of its scores, or its whole numbers, are called.
    classes: tuple[str, ...] = ()
    # Of inputs; where it is absent, the graph says it.
    allow_nan: bool | None = None
    # Of inputs with a free axis, as `TensorSpec` has them. Hugging Face's names say it where they are absent.
    pad: float | str | None = None
    mask_of: str | None = None


class TableStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="table"):
    """The names of columns, as `[[columns]]` has them: they are read before a row is sent, not by the worker."""

    columns: Annotated[tuple[Column, ...], msgspec.Meta(min_length=1)]


class VersionFile(msgspec.Struct, frozen=True):
    """`version.toml`; `metrics` and `quantized` are whatever somebody wrote there."""

    digest: Annotated[str, msgspec.Meta(pattern=r"^sha256:[0-9a-f]{64}$")]
    size_bytes: Annotated[int, msgspec.Meta(ge=0)]
    quantization: str
    inputs: Annotated[tuple[TensorEntry, ...], msgspec.Meta(min_length=1)]
    outputs: Annotated[tuple[TensorEntry, ...], msgspec.Meta(min_length=1)]
    # False of a graph that takes a single row and has no axis for rows: the shapes are those of a row then.
    row_axis: bool = True
    # True of a graph whose answer to a row depends on the rows beside it: a worker runs each row by itself then.
    rows_alone: bool = False
    columns: tuple[Column, ...] = ()
    runtime: Execution = ON_CPU
    before: tuple[BeforeStep | TableStep, ...] = ()
    after: tuple[AfterStep, ...] = ()
    # The files beside the model that digest and size cover too; those that a step reads need not be named.
    files: tuple[str, ...] = ()
    metrics: Any = None
    quantized: Any = None


# msgspec describes a Struct type at its first use, and crashes when two threads do so at once; shared workers read
# these files in threads. A decoder describes its type, and all types in it, while one thread imports this module.
_DESCRIBED = (msgspec.json.Decoder(ModelFile), msgspec.json.Decoder(VersionFile))


def model_folders(models_dir: Path) -> list[Path]:
    """The folders that hold a model, or that nobody can look into although they are called as one.

    Raises:
        ConfigurationError: the store itself cannot be read.
    """
    try:
        return [folder for folder in _visible(models_dir) if _is_model(folder)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ConfigurationError(f"cannot read the models folder (INFERLANE_MODELS_DIR): {error}") from error


def version_folders(folder: Path) -> list[Path]:
    """The folders of a model that hold a version, or that nobody can look into.

    Raises:
        OSError: the model's folder cannot be read.
    """
    return [path for path in _visible(folder) if _is_version(path)]


def _visible(folder: Path) -> list[Path]:
    # What begins with a dot is a version that is being written, or nobody's.
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _is_model(folder: Path) -> bool:
    try:
        return (folder / "model.toml").exists() or any((path / "version.toml").exists() for path in _visible(folder))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        # Whoever reads it says why; but `lost+found` is no model.
        return is_model_name(folder.name)


def _is_version(folder: Path) -> bool:
    try:
        return any((folder / name).exists() for name in ("version.toml", "model.onnx"))
    except OSError:
        # Whoever reads it says why.
        return True


def read_model_file(folder: Path) -> ModelFile:
    """Read `model.toml` of a model's folder.

    Raises:
        ConfigurationError: it cannot be read, or does not hold what it must; the message names file and field.
    """
    return read_toml(folder / "model.toml", ModelFile)


def shown_values(table: Any) -> Mapping[str, float | str]:
    """The values of a free table as JSON has them: finite numbers and text as they are, all else as text.

    What somebody noted beside a model (a date, NaN, a table) must never keep the model, or a list of models, from
    being read.
    """
    entries = table if isinstance(table, Mapping) else {} if table is None else {"value": table}
    return {str(key)[:_SHOWN_CHARS]: _shown(value) for key, value in entries.items()}


def _shown(value: Any) -> float | str:
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LARGEST_EXACT:
        return value
    return (value if isinstance(value, str) else str(value))[:_SHOWN_CHARS]


def read_toml(path: Path, kind: type[T]) -> T:
    """Read a TOML file and check it against `kind`.

    Raises:
        ConfigurationError: it cannot be read, is not TOML, or does not have the form; the message names file and field.
    """
    try:
        return msgspec.convert(tomllib.loads(_text(path)), kind)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{path}: missing or malformed: {error}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"cannot read {path}: {error}") from error


def _text(path: Path) -> str:
    """The file, as far as it is one: a pipe would hold the process for ever, a device would fill its memory.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not UTF-8, no file, or too large.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is no file")
    with path.open("rb") as file:
        raw = file.read(_MAX_FILE_BYTES + 1)
    if len(raw) > _MAX_FILE_BYTES:
        raise ValueError(f"it has more than {_MAX_FILE_BYTES} bytes, which is the limit; keep notes in another file")
    return raw.decode("utf-8-sig")
