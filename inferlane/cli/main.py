"""The `inferlane` command."""

import sys

import typer
from rich.console import Console

from inferlane.cli import models
from inferlane.errors import InferlaneError

app = typer.Typer(name="inferlane", no_args_is_help=True, help="Queue-based model server.", add_completion=False)
app.add_typer(models.app, name="models")


def main() -> None:
    """Run the command; an error of ours is one line on standard error and exit code 1."""
    try:
        app()
    except InferlaneError as error:
        Console(stderr=True).print(f"[bold red]error[/] [dim]({error.code})[/] {error}", highlight=False)
        sys.exit(1)
