"""`inferlane acls`: what each service may do on the broker."""

import asyncio

import typer
from rich.table import Table

from control_plane.broker_rights import rights_by_service, user_name
from control_plane.cli.console import out, reachable_settings
from control_plane.cli.versions import NamedVersions, chosen_versions

app = typer.Typer(no_args_is_help=True, help="Show and create the rights that each service has on the broker.")


@app.command()
def create(version: NamedVersions = None) -> None:
    """Write the rights to a broker that has an authorizer. Log in as a user that may alter the cluster."""
    from control_plane.broker_grants import grant_rights  # noqa: PLC0415 - keep `inferlane --help` fast

    settings = reachable_settings()
    rights = rights_by_service(settings.names, chosen_versions(settings, version))
    count = asyncio.run(grant_rights(settings, rights))
    users = ", ".join(user_name(settings.names, service) for service in rights)
    out.print(f"{count} rights for {users}", soft_wrap=True)


@app.command("list")
def list_acls(version: NamedVersions = None) -> None:
    """Show every user with its rights, without asking the broker."""
    settings = reachable_settings()
    table = Table("user", "on", "name", "may")
    for service, rights in rights_by_service(settings.names, chosen_versions(settings, version)).items():
        for right in rights:
            table.add_row(user_name(settings.names, service), right.resource, right.name, ", ".join(right.operations))
    out.print(table)
