"""Write the store that `models.catalog` reads."""

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from inferlane.contracts.naming import check_model_name, check_version_name
from inferlane.contracts.signature import Signature, TensorSpec
from inferlane.runtime.whole_files import write_whole
from models.artifact import read_artifact
from models.toml import Table, dump_toml

# The catalog never looks this deep for a version, so an unfinished one is never served.
_UNFINISHED = ".unfinished-"


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionAbout:
    """What version.toml says beside the digest and the size, which come from the file itself."""

    quantization: str
    signature: Signature
    metrics: Mapping[str, float | str]
    quantized: Mapping[str, float | str]


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


def write_version(
    models_dir: Path,
    *,
    model: str,
    version: str,
    write_onnx: Callable[[Path], None],
    describe: Callable[[Path], VersionAbout],
) -> None:
    """Write one version, whole or not at all.

    `write_onnx` fills the path that it is given and `describe` then measures it; whatever either raises leaves the
    store as it was. A version of the same name is replaced: between two renames there is none, and a crash there
    leaves the model without it until the next build.
    """
    check_model_name(model)
    check_version_name(version)
    models_dir.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=models_dir, prefix=_UNFINISHED))
    try:
        fresh = scratch / "fresh"
        fresh.mkdir()
        onnx = fresh / "model.onnx"
        write_onnx(onnx)
        (fresh / "version.toml").write_text(_version_toml(onnx, describe(onnx)), encoding="utf-8")
        target = models_dir / model / version
        target.parent.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):
            target.rename(scratch / "replaced")
        fresh.rename(target)
    finally:
        shutil.rmtree(scratch)


def _version_toml(onnx: Path, about: VersionAbout) -> str:
    artifact = read_artifact(onnx)
    tables: dict[str, Table] = {"metrics": about.metrics}
    if about.quantized:
        tables["quantized"] = about.quantized
    return dump_toml(
        {"digest": artifact.digest, "size_bytes": artifact.size_bytes, "quantization": about.quantization},
        lists={"inputs": _tables(about.signature.inputs), "outputs": _tables(about.signature.outputs)},
        tables=tables,
    )


def _tables(specs: Sequence[TensorSpec]) -> list[Table]:
    return [{"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)} for spec in specs]
