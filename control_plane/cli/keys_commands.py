"""`inferlane keys`: the keys of the HTTP API, and what callbacks of a key are signed with."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from control_plane.cli.console import err, load_settings, out
from inferlane.errors import ConfigurationError, quoted
from inferlane.runtime.api_keys import Scope, create_key, read_keys, revoke_key

keys_app = typer.Typer(no_args_is_help=True, help="Create, list and revoke the keys of the HTTP API.")

KeysFile = Annotated[
    Path | None,
    typer.Option("--file", help="The keys file; default: INFERLANE_API_KEYS_FILE.", show_default=False),
]


@keys_app.command("create")
def keys_create(
    name: Annotated[str, typer.Option(help="Its name, shown in lists and logs.")],
    scope: Annotated[
        list[Scope] | None,
        typer.Option(
            help="What it may do; repeat for several. predict sees its own requests alone, all-requests those of every "
            "key; admin may all."
        ),
    ] = None,
    file: KeysFile = None,
) -> None:
    """Create a key and print it once: the file stores only its digest."""
    path = _keys_path(file)
    key = create_key(path, name=name, scopes=scope or [Scope.PREDICT])
    err.print(
        f"added {name} to {path}. The key is not shown again; send it as `Authorization: Bearer <key>`.",
        soft_wrap=True,
    )
    # Alone on standard output, so that `$(inferlane keys create …)` is the key.
    typer.echo(key)


@keys_app.command("list")
def keys_list(file: KeysFile = None) -> None:
    """Show the name, scopes and age of each key; the keys themselves are not stored."""
    table = Table("name", "scopes", "created", "sha256 starts with")
    for key in read_keys(_keys_path(file)):
        table.add_row(key.name, ", ".join(key.scopes), f"{key.created:%Y-%m-%d %H:%M} UTC", key.sha256[:12])
    out.print(table)


@keys_app.command("revoke")
def keys_revoke(name: Annotated[str, typer.Argument(help="The name of the key.")], file: KeysFile = None) -> None:
    """Remove a key; running APIs reject it within about a second, without a restart."""
    path = _keys_path(file)
    revoke_key(path, name)
    out.print(f"revoked {name} in {path}", soft_wrap=True)


@keys_app.command("webhook-secret")
def keys_webhook_secret(
    name: Annotated[str, typer.Argument(help="The name of the key.")], file: KeysFile = None
) -> None:
    """Print what callbacks of this key are signed with, by the first secret of INFERLANE_WEBHOOK_SECRET."""
    from webhook_sender.signing import parse_secrets, secret_of_key, written  # noqa: PLC0415 - loads the library that signs

    path = _keys_path(file)
    if name not in {key.name for key in read_keys(path)}:
        raise ConfigurationError(f"{str(path)!r} has no key named {quoted(name)}; `inferlane keys list` shows them")
    secret = load_settings().webhooks.secret
    first, *_ = parse_secrets("" if secret is None else secret.get_secret_value())
    typer.echo(written(secret_of_key(first, name)))


def _keys_path(file: Path | None) -> Path:
    path = file or load_settings().api.keys_file
    if path is None:
        raise ConfigurationError(
            "no keys file is named; set INFERLANE_API_KEYS_FILE to where the API shall read it, or use --file"
        )
    return path
