"""Where a model comes from: a file, or a folder with one model in it."""

import zipfile
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath

from inferlane.errors import ConfigurationError, clipped, quoted

# What an export puts beside the model and what serves it may need. Source: transformers and optimum.
_COMPANIONS = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "preprocessor_config.json",
    "vocab.txt",
)


class SourceKind(StrEnum):
    """What a file is, by its name."""

    ONNX = "onnx"
    SKOPS = "skops"
    PICKLE = "pickle"
    XGBOOST = "xgboost"
    LIGHTGBM = "lightgbm"
    TORCH_EXPORT = "torch-export"
    TORCH_SCRIPT = "torch-script"
    TORCH_PICKLE = "torch-pickle"

    @property
    def is_of_torch(self) -> bool:
        """Whether PyTorch wrote it."""
        return self.value.startswith("torch-")

    @property
    def is_pickle(self) -> bool:
        """Whether to open it may run whatever its author wrote. Source: the documentation of `torch.export.load`."""
        return self in {SourceKind.PICKLE, SourceKind.TORCH_EXPORT, SourceKind.TORCH_PICKLE}


_KINDS = {
    ".onnx": SourceKind.ONNX,
    ".skops": SourceKind.SKOPS,
    ".pkl": SourceKind.PICKLE,
    ".pickle": SourceKind.PICKLE,
    ".joblib": SourceKind.PICKLE,
    ".json": SourceKind.XGBOOST,
    ".ubj": SourceKind.XGBOOST,
    ".txt": SourceKind.LIGHTGBM,
    ".pt2": SourceKind.TORCH_EXPORT,
    ".pt": SourceKind.TORCH_PICKLE,
    ".pth": SourceKind.TORCH_PICKLE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The file of a model, and the files that go into the store beside it."""

    path: Path
    kind: SourceKind
    # Of an export: what its configuration files are in.
    folder: Path | None = None
    companions: tuple[Path, ...] = ()


def is_model_file(name: str) -> bool:
    """Whether a file is called as a model that is known."""
    return PurePosixPath(name).suffix.lower() in _KINDS


def find_source(named: str) -> Source:
    """Return the model of this machine that is called so.

    Raises:
        ConfigurationError: there is none, or more than one.
    """
    path = Path(named)
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"there is no file or folder {quoted(named)} ({clipped(str(error.args[-1]))}). Name one, or a URL."
        ) from error
    if is_folder:
        return _in_folder(path)
    if not is_file:
        raise ConfigurationError(f"there is no file or folder {named!r}. SOURCE is one, or a URL.")
    kind = _KINDS.get(path.suffix.lower())
    if kind is None:
        raise ConfigurationError(
            f"{named!r} is called as no model that is known: {', '.join(_KINDS)}. Export it to ONNX, or rename it."
        )
    if kind is SourceKind.TORCH_PICKLE and _is_torch_script(path):
        kind = SourceKind.TORCH_SCRIPT
    return Source(path=path, kind=kind)


def _is_torch_script(path: Path) -> bool:
    """Whether a file of PyTorch holds code of its own, which is no pickle."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any("/code/" in name for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


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
