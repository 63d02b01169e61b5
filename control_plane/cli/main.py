"""The `inferlane` command."""

import sys

import typer

from control_plane.cli import acls, batch, dead_letters, k8s, keys, models, processes, scale, topics
from control_plane.cli.console import err, out, styled
from control_plane.cli.doctor import doctor
from control_plane.cli.up import down, status, up
from inferlane import __version__
from inferlane.errors import InferlaneError

app = typer.Typer(name="inferlane", no_args_is_help=True, help="Queue-based model server.", add_completion=False)

STACK, PROCESSES = "The stack on this machine", "One process of it"
for command in (up, down, status, doctor):
    app.command(rich_help_panel=STACK)(command)
app.add_typer(models.app, name="models")
app.add_typer(batch.app, name="batch")
app.add_typer(topics.app, name="topics")
app.add_typer(acls.app, name="acls")
app.add_typer(dead_letters.app, name="dead-letters")
app.add_typer(keys.app, name="keys")
app.add_typer(scale.app, name="scale")
app.add_typer(k8s.app, name="k8s")
for process in (processes.api, processes.router, processes.worker, processes.dashboard):
    app.command(rich_help_panel=PROCESSES)(process)


@app.command()
def version() -> None:
    """Print the version."""
    out.print(__version__)


def main() -> None:
    """Run the command; an error of ours is one line on standard error and exit code 1."""
    try:
        app()
    except InferlaneError as error:
        line = styled(("error", "bold red"), " ", (f"({error.code})", "dim"), f" {error}")
        err.print(line, soft_wrap=True)
        sys.exit(1)
