"""`inferlane models`: build, list and verify what can be served."""

import typer

app = typer.Typer(no_args_is_help=True, help="Build, list and verify models.")
