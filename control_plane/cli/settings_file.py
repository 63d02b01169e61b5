"""`inferlane.env`: settings of the commands that are started in its folder."""

import difflib
import os
from pathlib import Path
from typing import TYPE_CHECKING, get_type_hints

from dotenv import dotenv_values

from control_plane.cli.doctor import doctor
from control_plane.cli.up_command import up
from control_plane.services import SETTINGS_FILE
from inferlane.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

# Their options have variables of their own, which are no settings of a process.
_COMMANDS = (up, doctor)
# A letter or two of a name differ; names of other programs' variables differ by more.
_NEARLY = 0.93


def read_settings_file(folder: Path) -> None:
    """Put the values of `inferlane.env` into the environment, where a variable is not set there.

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
    known = _known_variables()
    for name, value in values.items():
        if name.startswith("INFERLANE_") and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            meant = f" Did you mean {near[0]}?" if near else ""
            raise ConfigurationError(f"{path} sets {name}, which is no setting.{meant} Change or remove the line.")
        if value is None:
            raise ConfigurationError(f"{path} has a line {name!r} without a value. Write NAME=value, or remove it.")
        os.environ.setdefault(name, value)


def misspelt_variables(names: "Iterable[str]") -> "Iterator[tuple[str, str]]":
    """Return each name that is no setting and nearly one, with the setting: nothing else says that it has no effect."""
    known = _known_variables()
    for name in sorted(set(names) - known):
        near = difflib.get_close_matches(name, known, n=1, cutoff=_NEARLY)
        if name.startswith("INFERLANE_") and near:
            yield name, near[0]


def _known_variables() -> set[str]:
    return {*_setting_variables(), *(name for command in _COMMANDS for name in _option_variables(command))}


def _setting_variables() -> "Iterator[str]":
    # Pydantic is loaded for a settings file only: most folders have none.
    from inferlane.runtime.config import setting_fields, variable_of  # noqa: PLC0415 - as above

    return (variable_of(name) for name in setting_fields())


def _option_variables(command: "Callable[..., None]") -> "Iterator[str]":
    for hint in get_type_hints(command, include_extras=True).values():
        for option in getattr(hint, "__metadata__", ()):
            if isinstance(name := getattr(option, "envvar", None), str):
                yield name
