"""The `inferlane` command: where each of its commands is, and what becomes of an error."""

import errno
import math
import os
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.markup import escape
from typer.core import TyperGroup

from control_plane.cli.console import err, out, styled, write_in_any_encoding
from control_plane.services import SETTINGS_FILE
from inferlane import __version__
from inferlane.errors import InferlaneError

# What is added to the niceness of work on models, whose child processes inherit it. At 5 a busy process of a stack gets
# three times as much CPU: less delays the stack's requests, more makes `models add` take minutes on a busy machine.
_GIVES_WAY = 5
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}

STACK, PROCESSES, TRIALS = "The stack on this machine", "One process of it", "A version under trial"


class _Command(NamedTuple):
    """Where a command or a group of commands is: `attribute` of `control_plane.cli.module`."""

    module: str
    attribute: str
    panel: str | None = None


# In the order of `--help`. A command loads its own module alone: those of all take as much CPU as Typer and rich.
_COMMANDS = {
    "init": _Command("init_command", "init", STACK),
    "up": _Command("up_command", "up", STACK),
    "down": _Command("stack_commands", "down", STACK),
    "restart": _Command("stack_commands", "restart", STACK),
    "status": _Command("stack_commands", "status", STACK),
    "doctor": _Command("doctor", "doctor", STACK),
    "replay": _Command("trial_commands", "replay", TRIALS),
    "shadow": _Command("trial_commands", "shadow", TRIALS),
    "reroute": _Command("trial_commands", "reroute", TRIALS),
    "asyncapi": _Command("provisioning_commands", "asyncapi"),
    "api": _Command("service_commands", "api", PROCESSES),
    "router": _Command("service_commands", "router", PROCESSES),
    "worker": _Command("service_commands", "worker", PROCESSES),
    "webhooks": _Command("service_commands", "webhooks", PROCESSES),
    "dashboard": _Command("service_commands", "dashboard", PROCESSES),
    "models": _Command("models_commands", "app"),
    "rollout": _Command("rollout_commands", "app", TRIALS),
    "batch": _Command("batch_commands", "app"),
    "topics": _Command("provisioning_commands", "topics_app"),
    "acls": _Command("provisioning_commands", "acls_app"),
    "dead-letters": _Command("dead_letter_commands", "app"),
    "keys": _Command("keys_commands", "keys_app"),
    "scale": _Command("scale_commands", "app"),
    "k8s": _Command("kubernetes_commands", "k8s_app"),
}


def _print_version(asked: bool) -> None:
    if asked:
        out.print(f"inferlane {__version__}", highlight=False)
        raise typer.Exit


def inferlane(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Queue-based model server."""


class _CommandGroup(TyperGroup):
    """The commands: the help of a parameter is no markup, and no number is infinite or NaN, which no range excludes."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        _set_rules(self)


def _set_rules(command: Any) -> None:
    """Set the rules for every parameter of a command, or of each command of a group."""
    for parameter in command.params:
        parameter.callback = partial(_finite, parameter.callback)
        parameter.help = escape(parameter.help or "") or None
    for each in getattr(command, "commands", {}).values():
        _set_rules(each)


def _finite(then: Callable[[Any, Any, Any], Any] | None, context: Any, parameter: Any, value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no finite number.", ctx=context, param=parameter)
    return value if then is None else then(context, parameter, value)


def command_line(name: str | None = None) -> typer.Typer:
    """Return the command `inferlane` with the command of that name alone; with all of them if there is none."""
    app = typer.Typer(name="inferlane", cls=_CommandGroup, no_args_is_help=True)
    app.callback()(inferlane)
    for each in [name] if name in _COMMANDS else _COMMANDS:
        module, attribute, panel = _COMMANDS[each]
        command = getattr(import_module(f"control_plane.cli.{module}"), attribute)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=each, rich_help_panel=panel)
        else:
            app.command(each, rich_help_panel=panel)(command)
    return app


def _read_settings(name: str | None) -> None:
    """Put `inferlane.env` into the environment; warn of variables that look like settings and are none."""
    warns = name in {"up", "doctor"}
    if not warns and not Path(SETTINGS_FILE).is_file():
        return
    from control_plane.cli.settings_file import misspelt_variables, read_settings_file  # noqa: PLC0415 - loads dotenv

    read_settings_file(Path.cwd())
    for variable, near in misspelt_variables(os.environ) if warns else ():
        said = f" {variable} is no setting and has no effect. Did you mean {near}?"
        err.print(styled(("warning", "bold yellow"), said), soft_wrap=True)


def main() -> None:
    """Run the command; an error of ours is one line on standard error and exit code 1."""
    name = next(iter(sys.argv[1:]), None)
    write_in_any_encoding()
    try:
        if name == "models":
            # Beside a stack that answers clients meanwhile.
            os.nice(_GIVES_WAY)
        _read_settings(name)
        command_line(name)()
    except InferlaneError as error:
        causes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
        line = styled(("error", "bold red"), " ", (f"({error.code})", "dim"), f" {error}{causes}")
        err.print(line, soft_wrap=True)
        sys.exit(1)
    except OSError as error:
        is_full = error.errno in _NO_ROOM
        if error.filename is None and not is_full:
            raise
        remedy = "Make room on its disk." if is_full else "Name another file or folder, or make this one."
        # What is written through an open file fails without its name.
        reason = f"{error.filename or 'a file of this command'} cannot be used: {error.strerror}. {remedy}"
        err.print(styled(("error", "bold red"), " ", ("(file)", "dim"), f" {reason}"), soft_wrap=True)
        sys.exit(1)
