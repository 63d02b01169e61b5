"""The `inferlane` command: its groups, and `api`, `router`, `worker`, `webhooks` and `dashboard`, one process each."""

import errno
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from control_plane import services
from control_plane.cli import (
    batch_commands,
    catalog_commands,
    dead_letter_commands,
    models_commands,
    rollout_commands,
    scale_commands,
)
from control_plane.cli.console import err, out, reachable_settings, styled, write_json
from control_plane.cli.doctor import doctor
from control_plane.cli.init_command import init, misspelt_variables, read_settings_file
from control_plane.cli.keys_commands import keys_app
from control_plane.cli.kubernetes_commands import k8s_app
from control_plane.cli.provisioning_commands import acls_app, topics_app
from control_plane.cli.quantize_command import quantize_model
from control_plane.cli.stack_commands import down, restart, status
from control_plane.cli.trial_commands import replay, reroute, shadow
from control_plane.cli.up_command import up
from inferlane import __version__
from inferlane.errors import ConfigurationError, InferlaneError

# What is added to the niceness of work on models, whose child processes inherit it. At 5 a busy process of a stack gets
# three times as much CPU: less delays the stack's requests, more makes `models add` take minutes on a busy machine.
_GIVES_WAY = 5
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}

app = typer.Typer(name="inferlane", no_args_is_help=True)

STACK, PROCESSES, TRIALS = "The stack on this machine", "One process of it", "A version under trial"
for command in (init, up, down, restart, status, doctor):
    app.command(rich_help_panel=STACK)(command)
models_commands.app.command("quantize")(quantize_model)
catalog_commands.add_to(models_commands.app)
app.command(rich_help_panel=TRIALS)(replay)
app.command(rich_help_panel=TRIALS)(shadow)
app.command(rich_help_panel=TRIALS)(reroute)
app.add_typer(models_commands.app, name="models")
app.add_typer(rollout_commands.app, name="rollout", rich_help_panel=TRIALS)
app.add_typer(batch_commands.app, name="batch")
app.add_typer(topics_app, name="topics")
app.add_typer(acls_app, name="acls")
app.add_typer(dead_letter_commands.app, name="dead-letters")
app.add_typer(keys_app, name="keys")
app.add_typer(scale_commands.app, name="scale")
app.add_typer(k8s_app, name="k8s")


@app.command()
def asyncapi() -> None:
    """Print the AsyncAPI 3 document of the topics as JSON."""
    import msgspec  # noqa: PLC0415 - used here alone

    from inferlane.runtime.topic_document import topic_document  # noqa: PLC0415 - loads every contract

    settings = reachable_settings()
    write_json(msgspec.json.decode(topic_document(settings.kafka, settings.stack.names)))


@app.command(rich_help_panel=PROCESSES)
def api() -> None:
    """Run the HTTP API: produce requests to Kafka, return results to clients."""
    services.run_api()


@app.command(rich_help_panel=PROCESSES)
def router() -> None:
    """Run the router: forward requests to the topic of a version, aggregate outcomes."""
    services.run_router()


@app.command(rich_help_panel=PROCESSES)
def worker(
    model: Annotated[
        list[str] | None,
        typer.Option(help="The model to serve; with no --version MODEL/VERSION, and again for each further one."),
    ] = None,
    version: Annotated[str | None, typer.Option(help="The version to serve.")] = None,
    roster: Annotated[
        Path | None, typer.Option(help="A file of MODEL/VERSION lines, followed while the process runs.")
    ] = None,
) -> None:
    """Run one worker of the pool of a version, or one process that serves many versions."""
    names = model or []
    if version is None and (names or roster):
        services.run_shared_worker(names=names, roster=roster)
    elif version is not None and len(names) == 1 and roster is None:
        services.run_worker(model=names[0], version=version)
    else:
        raise ConfigurationError(
            "a worker serves one version (--model NAME --version VERSION) or many in one process "
            "(--model NAME/VERSION --model NAME/VERSION …, or --roster FILE)"
        )


@app.command(rich_help_panel=PROCESSES)
def webhooks() -> None:
    """Send the results of requests to the URLs that they named, signed, until each is delivered."""
    services.run_webhooks()


@app.command(rich_help_panel=PROCESSES)
def dashboard() -> None:
    """Serve the live dashboard, updated once per second."""
    services.run_dashboard()


def _print_version(asked: bool) -> None:
    if asked:
        out.print(f"inferlane {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def inferlane(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Queue-based model server."""


def _warn_of_misspelt_variables() -> None:
    for name, near in misspelt_variables(os.environ, commands=(up, doctor)):
        warning = styled(("warning", "bold yellow"), f" {name} is no setting and has no effect. Did you mean {near}?")
        err.print(warning, soft_wrap=True)


def main() -> None:
    """Run the command; an error of ours is one line on standard error and exit code 1."""
    try:
        if sys.argv[1:2] == ["models"]:
            # Beside a stack that answers clients meanwhile.
            os.nice(_GIVES_WAY)
        read_settings_file(Path.cwd(), commands=(up, doctor))
        if sys.argv[1:2] in (["up"], ["doctor"]):
            _warn_of_misspelt_variables()
        app()
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
