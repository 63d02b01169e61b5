"""`inferlane topics`: create and list what the versions need."""

import asyncio

import typer
from rich.table import Table

from control_plane.cli.console import out, reachable_settings
from control_plane.cli.versions import NamedVersions, chosen_versions

app = typer.Typer(no_args_is_help=True, help="Create and list the topics that the models need.")


@app.command()
def create(version: NamedVersions = None) -> None:
    """Create the topics that do not exist yet; existing ones stay as they are."""
    from inferlane.runtime.topics import create_topics  # noqa: PLC0415 - keep `inferlane --help` fast

    settings = reachable_settings()
    created = asyncio.run(create_topics(settings, chosen_versions(settings, version)))
    out.print(f"created {len(created)} topics" + "".join(f"\n  {name}" for name in created))


@app.command("list")
def list_topics(version: NamedVersions = None) -> None:
    """Show every topic with its partitions and settings, as the code wants them."""
    from inferlane.runtime.topics import topic_specs  # noqa: PLC0415 - keep `inferlane --help` fast

    settings = reachable_settings()
    table = Table("topic", "partitions", "settings")
    for spec in topic_specs(settings, chosen_versions(settings, version)):
        table.add_row(spec.name, str(spec.partitions), ", ".join(f"{k}={v}" for k, v in spec.config.items()))
    out.print(table)
