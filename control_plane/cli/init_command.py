"""`inferlane init`: a folder to start from, with the Compose file, the dashboards and a settings file.

The Compose file is the project's own, so what is started from it is what the project tests.
"""

import os
import re
import secrets
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from control_plane.cli.console import out
from control_plane.services import SETTINGS_FILE
from inferlane import __version__
from inferlane.errors import ConfigurationError

_COMPOSE_FILE = "docker-compose.yml"
# Compose stops where such a variable is not set; each is a password.
_PASSWORD = re.compile(r"\$\{(\w+):\?")
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
    INFERLANE_MODELS_DIR=/opt/inferlane/models \\
    INFERLANE_STATE_DIR=/tmp
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
