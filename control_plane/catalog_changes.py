"""Changes of the catalogue of a running stack: a version is served, retired, or becomes the default of its model."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
from aiokafka.errors import ClusterAuthorizationFailedError, TopicAuthorizationFailedError

from control_plane.broker_acls import grant_rights, rights_by_service
from control_plane.topic_admin import create_topics
from control_plane.version_use import why_in_use
from inferlane.contracts.catalog_entry import CatalogEntry, VersionState
from inferlane.contracts.naming import Lane, pool_key
from inferlane.errors import ConfigurationError, InvalidRequestError, UnavailableError
from inferlane.runtime.catalog_table import CatalogTable, publish_entry, read_catalog_topic
from inferlane.runtime.kafka.lag import BacklogReader
from inferlane.runtime.kafka.offsets import Subscription
from inferlane.runtime.rollout_table import RolloutFollower, RolloutTable
from inferlane.runtime.split_table import SplitFollower, SplitTable
from models.catalog import Catalog, Model
from models.catalog_entries import entry_of_store
from models.live_catalog import overlaid
from models.store_reader import load_catalog, read_store

if TYPE_CHECKING:
    from inferlane.contracts.naming import Names
    from inferlane.contracts.traffic_split import Split
    from inferlane.runtime.service_settings import WebhookSettings
    from inferlane.runtime.settings import KafkaSettings, StackSettings

# Within which every API has heard that a version takes no new requests: each follows the topic, and looks at it again
# after a poll at the latest.
_HEARD_WITHIN_S = 2.0
_LOOK_S = 0.25
Say = Callable[[str], object]


class InUseError(InvalidRequestError):
    """A version cannot be retired while traffic goes to it. Remedy: send the traffic elsewhere first."""

    code = "version_in_use"


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogState:
    """The catalogue as it is now: the topic, and what the store and the topic give together."""

    table: CatalogTable
    catalog: Catalog
    # Whether a broker was asked: what the store has is served then.
    is_live: bool = True

    def entry(self, stack: "StackSettings", model: str, version: str) -> CatalogEntry:
        """Return the entry of a version; one that the topic does not have yet is made of the store.

        Raises:
            UnknownModelError: there is no such version.
            ConfigurationError: the store does not have it as it must be.
        """
        found = self.table.get(model, version)
        if found is not None and found.state is not VersionState.RETIRED:
            return found
        self.catalog.model(model).version(version)
        return entry_of_store(stack.models_dir, model, version, generation=1, default_since=0)


async def read_state(kafka: "KafkaSettings", stack: "StackSettings") -> CatalogState:
    """Read the topic and the store.

    Raises:
        ConfigurationError: the folder of the store cannot be read.
        UnavailableError: the broker does not answer.
    """
    table = await read_catalog_topic(kafka, stack.names)
    # Where the store has nothing, the topic alone says what is there.
    base, _ = read_store(stack.models_dir, default_model=stack.default_model)
    return CatalogState(table=table, catalog=overlaid(base, table.entries, serves_retiring=True))


def store_state(stack: "StackSettings") -> CatalogState:
    """Return what the store alone says, where no stack runs.

    Raises:
        ConfigurationError: the store is missing or empty.
    """
    catalog = load_catalog(stack.models_dir, default_model=stack.default_model)
    return CatalogState(table=CatalogTable(), catalog=catalog, is_live=False)


async def serve_version(  # noqa: PLR0913 - the version, and the parts of the settings that name its topics and rights
    kafka: "KafkaSettings",
    stack: "StackSettings",
    webhooks: "WebhookSettings",
    model: str,
    version: str,
    *,
    location: str = "",
    grants_rights: bool = False,
) -> CatalogEntry:
    """Put a version of the store in service: its topics first, for whoever reads the entry may use them at once.

    `grants_rights` creates what the services' users may do with the version before that.

    Raises:
        ConfigurationError: the store does not have it as it must be, it could not be told from another version, or the
            broker denies its topics.
        UnavailableError: the broker does not answer.
    """
    state = await read_state(kafka, stack)
    check_told_apart(state, model, version)
    generation = state.table.next_generation(model, now_s=time.time())
    known = [entry for entry in state.table.entries.values() if entry.model == model]
    is_first = not known and state.catalog.models.get(model, _NO_MODEL).default_version in {version, ""}
    entry = entry_of_store(
        stack.models_dir, model, version, generation=generation, default_since=generation if is_first else 0
    )
    if location:
        entry = msgspec.structs.replace(entry, location=location)
    if grants_rights:
        await grant_rights(kafka, stack.names, rights_by_service(stack.names, [(model, version)]))
    await _create_topics(kafka, stack.names, webhooks, model, version)
    await publish_entry(kafka, stack.names, entry)
    return entry


def check_told_apart(state: CatalogState, model: str, version: str) -> None:
    """Return if topics, metrics and pools of the version are not those of another one that is served.

    Raises:
        ConfigurationError: they could not be told apart, and the version would never be served.
    """
    served = {(one.model, one.version) for one in state.catalog.all_versions()}
    served |= {
        (entry.model, entry.version)
        for entry in state.table.entries.values()
        if entry.state is not VersionState.RETIRED
    }
    wanted = pool_key(model, version)
    for other in sorted(served - {(model, version)}):
        if pool_key(*other) == wanted:
            raise ConfigurationError(
                f"{model} {version} could not be told from {' '.join(other)}, which is in the catalogue or in a store: "
                "case, dots, dashes and underscores do not count. The catalogue was not changed; add the version again "
                "under another name."
            )


async def _create_topics(
    kafka: "KafkaSettings", names: "Names", webhooks: "WebhookSettings", model: str, version: str
) -> None:
    try:
        await create_topics(kafka, names, webhooks, [(model, version)])
    except UnavailableError as error:
        if not isinstance(error.__cause__, TopicAuthorizationFailedError | ClusterAuthorizationFailedError):
            raise
        raise ConfigurationError(
            f"the broker denies {kafka.sasl_username or 'this user'} the topics of {model} {version} "
            f"({error.__cause__}): the rights of the version are not there. Nothing was changed. Run `inferlane models "
            f"serve {model}/{version} --acls` as a user that may alter the cluster; or have it run `inferlane acls "
            f"create --version {model}/{version}`, and this command again"
        ) from error


async def set_default(kafka: "KafkaSettings", stack: "StackSettings", model: str, version: str) -> CatalogEntry:
    """Make a version the default of its model: requests that name no version go to it, unless a split says otherwise.

    Raises:
        UnknownModelError: there is no such version.
        ConfigurationError: it is being retired.
        UnavailableError: the broker does not answer.
    """
    state = await read_state(kafka, stack)
    entry = state.entry(stack, model, version)
    _check_serving(entry)
    state.catalog.model(model).version(version)
    generation = state.table.next_generation(model, now_s=time.time())
    changed = msgspec.structs.replace(entry, generation=generation, default_since=generation, changed_s=time.time())
    await publish_entry(kafka, stack.names, changed)
    return changed


async def split_of(kafka: "KafkaSettings", names: "Names", model: str) -> "Split | None":
    """Return the split that decides for requests that name no version, instead of the default; None without one.

    Raises:
        UnavailableError: the broker does not answer.
    """
    splits = SplitTable()
    await _read_once(SplitFollower(kafka, names, splits))
    return splits.get(model)


async def begin_retirement(kafka: "KafkaSettings", stack: "StackSettings", model: str, version: str) -> CatalogEntry:
    """Have new requests for a version refused.

    Raises:
        UnknownModelError: there is no such version.
        InUseError: the split gives it traffic, or it is the default of a model that has others.
        UnavailableError: the broker does not answer.
    """
    state = await read_state(kafka, stack)
    entry = state.entry(stack, model, version)
    if entry.state is VersionState.SERVING:
        if (served := state.catalog.models.get(model)) is not None:
            await _check_unused(kafka, stack.names, served, version)
        entry = await _publish_state(kafka, stack.names, state.table, entry, VersionState.RETIRING)
    return entry


async def end_retirement(kafka: "KafkaSettings", names: "Names", entry: CatalogEntry) -> None:
    """Take a version out of the catalogue for good.

    Raises:
        UnavailableError: the broker does not answer.
    """
    await _publish_state(kafka, names, await read_catalog_topic(kafka, names), entry, VersionState.RETIRED)


async def wait_drained(
    kafka: "KafkaSettings", stack_names: "Names", model: str, version: str, *, within_s: float, say: Say
) -> None:
    """Return when no request of a retiring version is under way any more, in either lane.

    First the router must have passed on all that was there when the last API had heard of the retirement, then the
    workers must have finished all that it passed on.

    Raises:
        UnavailableError: requests still wait after `within_s`, or the broker does not answer.
    """
    names, reader = stack_names, BacklogReader(kafka)
    routed = [Subscription(topic, names.router_group) for topic in names.ingress.values()]
    worked = [Subscription(names.work_topic(model, version, lane), names.worker_group(model, version)) for lane in Lane]
    await asyncio.sleep(_HEARD_WITHIN_S)
    deadline_s = time.monotonic() + within_s
    try:
        ends = {
            subscription: [partition.end for partition in partitions]
            for subscription, partitions in (await reader.read_partitions(routed)).items()
        }
        while True:
            found = await reader.read_partitions([*routed, *worked])
            behind = sum(
                max(0, end - (partition.committed or partition.beginning))
                for subscription in routed
                for end, partition in zip(ends.get(subscription, ()), found.get(subscription, ()), strict=False)
            )
            waiting = sum(partition.lag_records for name in worked for partition in found.get(name, ()))
            if not behind and not waiting:
                return
            say(f"draining: {waiting} requests wait for {model} {version}, {behind} for the router")
            if time.monotonic() > deadline_s:
                raise UnavailableError(
                    f"{waiting} requests still wait for {model} {version} after {within_s:g} s, {behind} for the "
                    "router. It takes no new ones; run the command again to go on, or with --now to leave them: their "
                    "clients then get EXPIRED at their deadline"
                )
            await asyncio.sleep(_LOOK_S)
    finally:
        await reader.close()


_NO_MODEL = Model(name="", description="", default_version="", versions={})


async def _publish_state(
    kafka: "KafkaSettings", names: "Names", table: CatalogTable, entry: CatalogEntry, state: VersionState
) -> CatalogEntry:
    now_s = time.time()
    generation = table.next_generation(entry.model, now_s=now_s)
    changed = msgspec.structs.replace(entry, state=state, generation=generation, changed_s=now_s)
    await publish_entry(kafka, names, changed)
    return changed


def _check_serving(entry: CatalogEntry) -> None:
    if entry.state is not VersionState.SERVING:
        raise ConfigurationError(f"{entry.model} {entry.version} is {entry.state}, so it cannot be the default")


async def _check_unused(kafka: "KafkaSettings", names: "Names", model: Model, version: str) -> None:
    others = [name for name in model.versions if name != version]
    if not others:
        # The model goes with its last version.
        return
    rollouts = RolloutTable()
    await _read_once(RolloutFollower(kafka, names, rollouts))
    split = await split_of(kafka, names, model.name)
    why = why_in_use(model, version, rollout=rollouts.under_way(model.name), split=split)
    if why is not None:
        raise InUseError(why)


async def _read_once(follower: SplitFollower | RolloutFollower) -> None:
    try:
        await follower.start()
    finally:
        await follower.close()
