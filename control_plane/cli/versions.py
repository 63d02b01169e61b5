"""Which versions a command is about: those that are named, else those of the local models folder."""

from typing import TYPE_CHECKING, Annotated

import typer

from inferlane.contracts.naming import check_model_name, check_version_name
from inferlane.errors import ConfigurationError, InvalidNameError
from inferlane.quoting import quoted

if TYPE_CHECKING:
    from inferlane.runtime.config import Settings

NamedVersions = Annotated[
    list[str] | None,
    typer.Option(
        "--version",
        help="A version as MODEL/VERSION, or VERSION of the default model; repeat. Needs no models folder.",
        show_default="every version of INFERLANE_MODELS_DIR",
    ),
]


def chosen_versions(settings: "Settings", named: list[str] | None) -> list[tuple[str, str]]:
    """Return the `(model, version)` pairs.

    Raises:
        ConfigurationError: a name is no pair, is given twice, or no models folder is there and none is named.
    """
    if named is None:
        return _of_the_catalog(settings)
    found = [_pair(name, settings.default_model) for name in named]
    if len(set(found)) < len(found):
        raise ConfigurationError(f"a version is named twice in {quoted(named)}; name each once")
    return found


def _pair(name: str, default_model: str) -> tuple[str, str]:
    model, separator, version = name.rpartition("/")
    try:
        check_version_name(version)
        if separator:
            check_model_name(model)
    except InvalidNameError as error:
        raise ConfigurationError(
            f"--version {quoted(name)} names no version; write MODEL/VERSION, as iris/v1: {error}"
        ) from error
    return model or default_model, version


def _of_the_catalog(settings: "Settings") -> list[tuple[str, str]]:
    from models.catalog import load_catalog  # noqa: PLC0415 - keep `inferlane --help` fast

    try:
        catalog = load_catalog(settings.models_dir, default_model=settings.default_model)
    except ConfigurationError as error:
        raise ConfigurationError(f"{error} Or name what there is to be: --version MODEL/VERSION.") from error
    return [(version.model, version.version) for version in catalog.all_versions()]
