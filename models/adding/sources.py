"""Where a model comes from: a file, or a folder with one model in it."""

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from inferlane.errors import ConfigurationError

# What an export puts beside the model and what serves it may need. Source: transformers and optimum.
_COMPANIONS = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "preprocessor_config.json",
    "vocab.txt",
)
_REMOTE = re.compile(r"[a-z][a-z0-9+.-]*:/", re.IGNORECASE)


class SourceKind(StrEnum):
    """What a file is, by its name."""

    ONNX = "onnx"
    SKOPS = "skops"
    PICKLE = "pickle"
    XGBOOST = "xgboost"
    LIGHTGBM = "lightgbm"


_KINDS = {
    ".onnx": SourceKind.ONNX,
    ".skops": SourceKind.SKOPS,
    ".pkl": SourceKind.PICKLE,
    ".pickle": SourceKind.PICKLE,
    ".joblib": SourceKind.PICKLE,
    ".json": SourceKind.XGBOOST,
    ".ubj": SourceKind.XGBOOST,
    ".txt": SourceKind.LIGHTGBM,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The file of a model, and the files that go into the store beside it."""

    path: Path
    kind: SourceKind
    # Of an export: what its configuration files are in.
    folder: Path | None = None
    companions: tuple[Path, ...] = ()


def find_source(named: str) -> Source:
    """Return the model that is called so.

    Raises:
        ConfigurationError: there is none, or more than one.
    """
    if _REMOTE.match(named):
        raise ConfigurationError(
            f"{named!r}: SOURCE is a file or a folder of this machine. Download it, and add what you have downloaded."
        )
    path = Path(named)
    if path.is_dir():
        return _in_folder(path)
    if not path.is_file():
        raise ConfigurationError(f"there is no file or folder {named!r}. SOURCE is a file or a folder of this machine.")
    kind = _KINDS.get(path.suffix.lower())
    if kind is None:
        raise ConfigurationError(
            f"{named!r} is called as no model that is known: {', '.join(_KINDS)}. Export it to ONNX, or rename it."
        )
    return Source(path=path, kind=kind)


def _in_folder(folder: Path) -> Source:
    for home in (folder, folder / "onnx"):
        found = sorted(home.glob("*.onnx"))
        named = [path for path in found if path.name == "model.onnx"]
        if len(named or found) == 1:
            companions = (folder / name for name in _COMPANIONS)
            return Source(
                path=(named or found)[0],
                kind=SourceKind.ONNX,
                folder=folder,
                companions=tuple(path for path in companions if path.is_file()),
            )
        if found:
            raise ConfigurationError(
                f"{str(home)!r} holds several models: {', '.join(path.name for path in found[:10])}. Name one of them."
            )
    raise ConfigurationError(f"{str(folder)!r} holds no model: there is no .onnx file in it. Name the file itself.")
