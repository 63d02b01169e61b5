"""Models from beyond this machine: object stores and HTTP by obstore, and MLflow's registry."""

import hashlib
import re
from contextlib import suppress
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from inferlane.errors import ConfigurationError, quoted
from models.adding.sources import Source, SourceKind, find_source, is_model_file
from models.artifact import external_names
from models.object_stores import Download, check_size, explained, open_store

_HTTP = frozenset({"http", "https"})
_OBJECT_STORES = frozenset({"s3", "gs", "az"})
_MLFLOW = frozenset({"models", "runs", "mlflow-artifacts"})
KNOWN_SCHEMES = (*sorted(_HTTP), *sorted(_OBJECT_STORES), "models", "runs")


def is_remote(named: str) -> bool:
    """Whether a source is called by a URL."""
    return re.match(r"[a-z][a-z0-9+.-]*:/", named, re.IGNORECASE) is not None


def fetch_source(named: str, folder: Path, *, limit_bytes: int) -> Source:
    """Download a model into an empty `folder`.

    Credentials come from the environment of each service (AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS,
    AZURE_STORAGE_ACCOUNT_NAME, MLFLOW_TRACKING_URI and the like).

    Raises:
        ConfigurationError: it cannot be reached, is larger than the limit, or holds no model.
    """
    scheme = named.partition(":")[0].lower()
    if scheme in _MLFLOW:
        return _of_mlflow(named, folder, limit_bytes)
    if scheme not in _HTTP | _OBJECT_STORES:
        raise ConfigurationError(
            f"{quoted(named)}: the scheme {quoted(scheme)} is not known; use one of {', '.join(KNOWN_SCHEMES)}, or a "
            "file or folder of this machine"
        )
    parts = urlsplit(named)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigurationError(
            f"{quoted(f'{parts.scheme}://{parts.hostname}{parts.path}')} came with a user, a password, a query or a "
            "fragment. Credentials come from the environment, where no report and no list of processes shows them; a "
            "signed URL can be downloaded with curl and added as a file"
        )
    path = PurePosixPath(unquote(parts.path))
    is_file = is_model_file(path.name)
    if scheme in _HTTP and not is_file:
        raise ConfigurationError(f"{quoted(named)} is called as no model that is known; over HTTP name the file itself")
    home = f"{scheme}://{parts.netloc}{path.parent if is_file else path}"
    download = Download(open_store(home), named, folder, limit_bytes)
    if not is_file:
        download.everything()
        return find_source(str(folder))
    download.file(path.name)
    if path.suffix.lower() == ".onnx":
        # What is no model has no names; the inspection says what is wrong with it.
        with suppress(ValueError, IndexError, RecursionError):
            for name in external_names((folder / path.name).read_bytes()):
                download.file(name)
    return find_source(str(folder / path.name))


def check_digest(path: Path, wanted: str | None) -> None:
    """Return if the file has this digest, before anything opens it.

    Raises:
        ConfigurationError: it has another one.
    """
    if wanted is None:
        return
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", wanted):
        raise ConfigurationError(f"--digest {quoted(wanted)} is no digest; write sha256: and 64 digits of sha256sum")
    with path.open("rb") as file:
        found = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    if found != wanted:
        raise ConfigurationError(f"{path} has the digest {found}, and --digest says {wanted}: it is another file")


def _of_mlflow(named: str, folder: Path, limit_bytes: int) -> Source:
    try:
        import mlflow  # noqa: PLC0415 - an extra
        import yaml  # noqa: PLC0415 - what mlflow writes its files with
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{named} needs 'mlflow', which is not installed: pip install 'inferlane[mlflow]'"
        ) from error
    home = Path(explained(named, lambda: mlflow.artifacts.download_artifacts(artifact_uri=named, dst_path=str(folder))))
    check_size(named, sum(path.stat().st_size for path in home.rglob("*") if path.is_file()), limit_bytes)
    about = home / "MLmodel"
    if not about.is_file():
        return find_source(str(home))
    flavors = explained(named, lambda: yaml.safe_load(about.read_text(encoding="utf-8"))).get("flavors") or {}
    for flavor, (fields, kind) in _FLAVORS.items():
        for field in fields:
            name = (flavors.get(flavor) or {}).get(field)
            if name and (path := _flavor_file(home, str(name))) is not None:
                return Source(path=path, kind=kind or find_source(str(path)).kind)
    raise ConfigurationError(
        f"{named} is a model of MLflow with the flavors {', '.join(map(str, flavors)) or '(none)'}; one of "
        f"{', '.join(_FLAVORS)} can be served"
    )


# Where MLflow's flavors say which file the model is in, the best first; None: as the file is called.
_FLAVORS: dict[str, tuple[tuple[str, ...], SourceKind | None]] = {
    "onnx": (("data",), SourceKind.ONNX),
    "xgboost": (("data",), SourceKind.XGBOOST),
    "lightgbm": (("data",), SourceKind.LIGHTGBM),
    "sklearn": (("pickled_model",), None),
    "pytorch": (("model_data",), None),
}


def _flavor_file(home: Path, name: str) -> Path | None:
    path = (home / name).resolve()
    if not path.is_relative_to(home.resolve()):
        return None
    if path.is_dir():
        # PyTorch's flavor names the folder.
        return next((found for found in sorted(path.iterdir()) if is_model_file(found.name)), None)
    return path if path.is_file() else None
