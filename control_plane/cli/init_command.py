"""`inferlane init`: a folder to start from, with the Compose file, the dashboards and a settings file.

The Compose file is the project's own, so what is started from it is what the project tests.
"""

import difflib
import os
import re
import secrets
import shutil
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_type_hints

import typer
from dotenv import dotenv_values

from control_plane.cli.console import out
from control_plane.services import SETTINGS_FILE
from inferlane import __version__
from inferlane.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_COMPOSE_FILE = "docker-compose.yml"
# Compose stops where such a variable is not set; each is a password.
_PASSWORD = re.compile(r"\$\{(\w+):\?")
# A letter or two of a name differ; names of other programs' variables differ by more.
_NEARLY = 0.93
_DASHBOARDS = ("prometheus", "grafana", "compose")
_DOCKERFILE = f"""\
# The image of docker-compose.yml. It serves the sample model iris; put models of your own into the store
# (`inferlane models add … --models-dir models`) and copy that instead of building the samples.
# A wheel of Inferlane beside this file is preferred to the package index.
FROM python:3.13-slim-trixie AS build
WORKDIR /build
COPY {SETTINGS_FILE} *.whl /wheels/
RUN python -m venv /opt/inferlane/venv \\
 && /opt/inferlane/venv/bin/pip install --no-cache-dir --find-links /wheels \\
      "inferlane[otel,grpc,text,image]=={__version__}" \\
 && python -m venv /samples \\
 && /samples/bin/pip install --no-cache-dir --find-links /wheels "inferlane[models]=={__version__}" \\
 && /samples/bin/inferlane models build-samples --models-dir /opt/inferlane/models

FROM python:3.13-slim-trixie
# hadolint ignore=DL3008
RUN apt-get update \\
 && apt-get install --yes --no-install-recommends tini \\
 && rm -rf /var/lib/apt/lists/* \\
 && groupadd --gid 10001 inferlane \\
 && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin inferlane
COPY --from=build /opt/inferlane /opt/inferlane
ENV PATH=/opt/inferlane/venv/bin:$PATH \\
    PYTHONDONTWRITEBYTECODE=1 \\
    PYTHONUNBUFFERED=1 \\
    INFERLANE_MODELS_DIR=/opt/inferlane/models
WORKDIR /opt/inferlane
USER 10001:10001
ENTRYPOINT ["tini", "--", "inferlane"]
CMD ["--help"]
"""


def init(
    folder: Annotated[Path, typer.Argument(help="Folder to write to; what is in it already is kept.")] = Path(),
) -> None:
    """Write a starter folder: docker-compose.yml with its passwords and dashboards, and a settings file."""
    written, kept = [], []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, content in _starter_files().items():
            target = folder / path
            if target.exists():
                kept.append(path)
                continue
            if isinstance(content, Path):
                shutil.copytree(content, target)
            else:
                _write_privately(target, content)
            written.append(path)
    except OSError as error:
        raise ConfigurationError(
            f"{error.filename or folder} cannot be written ({error.strerror}). Choose a folder of your own."
        ) from error
    for path in written:
        out.print(f"written: {folder / path}", soft_wrap=True)
    for path in kept:
        out.print(f"kept as it was: {folder / path}", soft_wrap=True)
    there = "" if folder == Path() else f"cd {folder} && "
    out.print(f"On this machine: {there}inferlane up --samples --detach", soft_wrap=True)
    out.print(f"With Docker: {there}docker compose up -d", soft_wrap=True)


def read_settings_file(folder: Path, *, commands: "Iterable[Callable[..., None]]") -> None:
    """Put the values of `inferlane.env` into the environment, where a variable is not set there.

    `commands`: those whose options have variables of their own, which are no settings of a process.

    Raises:
        ConfigurationError: the file cannot be read, or sets a variable that is no setting.
    """
    path = folder / SETTINGS_FILE
    if not path.is_file():
        return
    try:
        values = dotenv_values(path, interpolate=False)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}. Mend or remove it.") from error
    known = _known_variables(commands)
    for name, value in values.items():
        if name.startswith("INFERLANE_") and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            meant = f" Did you mean {near[0]}?" if near else ""
            raise ConfigurationError(f"{path} sets {name}, which is no setting.{meant} Change or remove the line.")
        if value is None:
            raise ConfigurationError(f"{path} has a line {name!r} without a value. Write NAME=value, or remove it.")
        os.environ.setdefault(name, value)


def misspelt_variables(
    names: "Iterable[str]", *, commands: "Iterable[Callable[..., None]]"
) -> "Iterator[tuple[str, str]]":
    """Return each name that is no setting and nearly one, with the setting: nothing else says that it has no effect."""
    known = _known_variables(commands)
    for name in sorted(set(names) - known):
        near = difflib.get_close_matches(name, known, n=1, cutoff=_NEARLY)
        if name.startswith("INFERLANE_") and near:
            yield name, near[0]


def _known_variables(commands: "Iterable[Callable[..., None]]") -> set[str]:
    return {*_setting_variables(), *(name for command in commands for name in _option_variables(command))}


def _setting_variables() -> "Iterator[str]":
    # Pydantic is loaded for a settings file only: most folders have none.
    from inferlane.runtime.config import setting_fields, variable_of  # noqa: PLC0415 - as above

    return (variable_of(name) for name in setting_fields())


def _option_variables(command: "Callable[..., None]") -> "Iterator[str]":
    for hint in get_type_hints(command, include_extras=True).values():
        for option in getattr(hint, "__metadata__", ()):
            if isinstance(name := getattr(option, "envvar", None), str):
                yield name


def _starter_files() -> "dict[str, str | Path]":
    """Return the text of each file, or the folder to copy, by its path in the starter folder."""
    compose = _compose_text()
    passwords = dict.fromkeys(_PASSWORD.findall(compose))
    package = Path(str(files("dashboards")))
    return {
        _COMPOSE_FILE: compose,
        "Dockerfile": _DOCKERFILE,
        ".dockerignore": f"*\n!{SETTINGS_FILE}\n!*.whl\n",
        # Hexadecimal: no character of it means anything to Compose, Kafka or Valkey.
        ".env": "".join(f"{name}={secrets.token_hex(32)}\n" for name in passwords),
        SETTINGS_FILE: _settings_text(),
        **{f"dashboards/{name}": package / name for name in _DASHBOARDS},
    }


def _compose_text() -> str:
    """Return the project's Compose file: from the wheel, or from the checkout that this runs from."""
    packaged = Path(str(files("control_plane"))) / "starter" / _COMPOSE_FILE
    path = packaged if packaged.is_file() else Path(__file__).parents[2] / _COMPOSE_FILE
    return path.read_text(encoding="utf-8")


def _settings_text() -> str:
    from pydantic import SecretStr  # noqa: PLC0415 - for this command only

    from inferlane.runtime.config import setting_fields, variable_of  # noqa: PLC0415 - as above

    lines = [
        "# Settings of the `inferlane` commands that are started in this folder, with their defaults. To change one,",
        "# remove the # before its line. A variable of the environment wins. The services of docker-compose.yml have",
        "# their settings there.",
        "",
    ]
    for name, field in setting_fields().items():
        default = field.get_default(call_default_factory=True)
        shown = "" if default is None or isinstance(default, SecretStr) else str(default)
        lines.append(f"# {variable_of(name)}={shown}")
    return "\n".join([*lines, ""])


def _write_privately(path: Path, text: str) -> None:
    """Write a file; one with passwords is for its owner alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = 0o600 if path.name == ".env" else 0o644
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
        file.write(text)
