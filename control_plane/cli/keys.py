"""`inferlane keys`: who may call the API."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from control_plane.cli.console import err, out
from inferlane.errors import ConfigurationError
from inferlane.runtime.api_keys import Scope, create_key, read_keys, revoke_key
from inferlane.runtime.config import load_settings

app = typer.Typer(no_args_is_help=True, help="Create, list and revoke the keys of the HTTP API.")

File = Annotated[
    Path | None,
    typer.Option("--file", help="The keys file; default: INFERLANE_API_KEYS_FILE.", show_default=False),
]


@app.command()
def create(
    name: Annotated[str, typer.Option(help="Who will use it; shown in lists and logs.")],
    scope: Annotated[
        list[Scope] | None,
        typer.Option(
            help="What it may do; repeat for several. predict sees its own requests alone, all-requests those of every "
            "key; admin may all."
        ),
    ] = None,
    file: File = None,
) -> None:
    """Make a key and print it, once: the file keeps its digest alone."""
    path = _path(file)
    key = create_key(path, name=name, scopes=scope or [Scope.PREDICT])
    err.print(
        f"added {name} to {path}. The key is not shown again; send it as `Authorization: Bearer <key>`.",
        soft_wrap=True,
    )
    # Alone on standard output, so that `$(inferlane keys create …)` is the key.
    typer.echo(key)


@app.command("list")
def list_keys(file: File = None) -> None:
    """Show the name, scopes and age of each key; the keys themselves are nowhere."""
    table = Table("name", "scopes", "created", "sha256 starts with")
    for key in read_keys(_path(file)):
        table.add_row(key.name, ", ".join(key.scopes), f"{key.created:%Y-%m-%d %H:%M} UTC", key.sha256[:12])
    out.print(table)


@app.command()
def revoke(name: Annotated[str, typer.Argument(help="The name of the key.")], file: File = None) -> None:
    """Remove a key; APIs that run refuse it within a second or so, without a restart."""
    path = _path(file)
    revoke_key(path, name)
    out.print(f"revoked {name} in {path}", soft_wrap=True)


def _path(file: Path | None) -> Path:
    path = file or load_settings().api_keys_file
    if path is None:
        raise ConfigurationError(
            "no keys file is named; set INFERLANE_API_KEYS_FILE to where the API shall read it, or use --file"
        )
    return path
