"""`inferlane topics`, `acls` and `asyncapi`: what must exist on the broker first, and what the topics carry."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from control_plane.broker_acls import rights_by_service, user_name
from control_plane.cli.console import out, reachable_settings, run_work, write_json
from inferlane.contracts.naming import check_model_name, check_version_name
from inferlane.errors import ConfigurationError, InferlaneError, InvalidNameError, quoted

# The Kafka client and the catalog are loaded by the command that needs them (PLC0415).
# ruff: noqa: PLC0415
if TYPE_CHECKING:
    from inferlane.runtime.settings import StackSettings

NamedVersions = Annotated[
    list[str] | None,
    typer.Option(
        "--version",
        help="A version as MODEL/VERSION, or VERSION of the default model; repeat. Needs no models folder.",
        show_default="every version of INFERLANE_MODELS_DIR",
    ),
]


def chosen_versions(stack: "StackSettings", named: list[str] | None) -> list[tuple[str, str]]:
    """Return the `(model, version)` pairs.

    Raises:
        ConfigurationError: a name is no pair, is given twice, or no models folder is there and none is named.
    """
    if named is None:
        return _of_the_catalog(stack)
    found = [_pair(name, stack.default_model) for name in named]
    if len(set(found)) < len(found):
        raise ConfigurationError(f"a version is named twice in {quoted(named)}; name each once")
    return found


def _pair(name: str, default_model: str) -> tuple[str, str]:
    model, separator, version = name.rpartition("/")
    try:
        check_version_name(version)
        if separator:
            check_model_name(model)
    except InvalidNameError as error:
        raise ConfigurationError(
            f"--version {quoted(name)} names no version; write MODEL/VERSION, as iris/v1: {error}"
        ) from error
    return model or default_model, version


def _of_the_catalog(stack: "StackSettings") -> list[tuple[str, str]]:
    from models.store_reader import load_catalog

    try:
        catalog = load_catalog(stack.models_dir, default_model=stack.default_model)
    except ConfigurationError as error:
        raise ConfigurationError(f"{error} Or name what there is to be: --version MODEL/VERSION.") from error
    return [(version.model, version.version) for version in catalog.all_versions()]


topics_app = typer.Typer(no_args_is_help=True, help="Create and list the topics that the models need.")


@topics_app.command("create")
def topics_create(version: NamedVersions = None) -> None:
    """Create the topics that do not exist yet; existing ones stay as they are, and harmful settings are named."""
    from control_plane.topic_admin import check_existing, create_topics

    settings = reachable_settings()
    wanted = (settings.kafka, settings.stack.names, settings.webhooks, chosen_versions(settings.stack, version))
    created = run_work(create_topics(*wanted))
    out.print(f"created {len(created)} topics" + "".join(f"\n  {name}" for name in created))
    try:
        run_work(check_existing(*wanted))
    except InferlaneError as error:
        # What was to be created is there: whoever waits for that goes on.
        out.print(f"existing topics stay as they are. {error}", markup=False, soft_wrap=True)


@topics_app.command("list")
def topics_list(version: NamedVersions = None) -> None:
    """Show every topic with the partitions and settings that it should have."""
    from control_plane.topic_admin import topic_specs

    settings = reachable_settings()
    table = Table("topic", "partitions", "settings")
    for spec in topic_specs(
        settings.kafka, settings.stack.names, settings.webhooks, chosen_versions(settings.stack, version)
    ):
        table.add_row(spec.name, str(spec.partitions), ", ".join(f"{k}={v}" for k, v in spec.config.items()))
    out.print(table)


acls_app = typer.Typer(no_args_is_help=True, help="Show and create the rights that each service has on the broker.")


@acls_app.command("create")
def acls_create(version: NamedVersions = None) -> None:
    """Create the ACLs on a broker with an authorizer. Log in as a user that may alter the cluster."""
    from control_plane.broker_acls import grant_rights

    settings = reachable_settings()
    rights = rights_by_service(settings.stack.names, chosen_versions(settings.stack, version))
    count = run_work(grant_rights(settings.kafka, settings.stack.names, rights))
    users = ", ".join(user_name(settings.stack.names, service) for service in rights)
    out.print(f"{count} rights for {users}", soft_wrap=True)


@acls_app.command("delete")
def acls_delete(
    version: Annotated[list[str], typer.Option("--version", help="A version as MODEL/VERSION; repeat.")],
) -> None:
    """Delete the ACLs that the services have for these versions alone, such as of one that was retired."""
    from control_plane.broker_acls import revoke_rights, rights_of_version

    settings = reachable_settings()
    for model, name in chosen_versions(settings.stack, version):
        count = run_work(
            revoke_rights(settings.kafka, settings.stack.names, rights_of_version(settings.stack.names, (model, name)))
        )
        out.print(f"{count} rights for {model}/{name} deleted", soft_wrap=True)


@acls_app.command("list")
def acls_list(version: NamedVersions = None) -> None:
    """Show every user with its rights, without asking the broker."""
    settings = reachable_settings()
    table = Table("user", "on", "name", "may")
    for service, rights in rights_by_service(settings.stack.names, chosen_versions(settings.stack, version)).items():
        for right in rights:
            table.add_row(
                user_name(settings.stack.names, service), right.resource, right.name, ", ".join(right.operations)
            )
    out.print(table)


def asyncapi() -> None:
    """Print the AsyncAPI 3 document of the topics as JSON."""
    import msgspec

    from inferlane.runtime.topic_document import topic_document

    settings = reachable_settings()
    write_json(msgspec.json.decode(topic_document(settings.kafka, settings.stack.names)))
