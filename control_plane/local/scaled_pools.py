"""The pools that the local autoscaler scales, and the ScaledObject that each follows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from control_plane.autoscaling.scaled_object import read_scaled_objects
from control_plane.local.pools import worker_pool
from inferlane.contracts.naming import Lane
from inferlane.errors import ConfigurationError
from inferlane.runtime.kafka.offsets import Subscription

if TYPE_CHECKING:
    from pathlib import Path

    from control_plane.autoscaling.scaled_object import KafkaTrigger, ScaledObject
    from control_plane.local.probe import Target
    from inferlane.contracts.naming import Names


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledPool:
    """A pool of workers by the name that the supervisor knows it by, and the ScaledObject that it follows."""

    name: str
    model: str
    version: str
    scaled_object: "ScaledObject"

    @property
    def subscriptions(self) -> tuple[Subscription, ...]:
        """The topic and group of each trigger, in the order of the triggers."""
        return tuple(Subscription(trigger.topic, trigger.consumer_group) for trigger in self.scaled_object.triggers)


def read_scaled_pools(
    path: "Path", targets: "Sequence[Target]", *, max_workers: int, names: "Names"
) -> tuple[ScaledPool, ...]:
    """Return the pools of `targets` that the file has a ScaledObject for, each with at most `max_workers`.

    ScaledObjects of other pools are left out: the file is that of a cluster, which may serve more. One of a pool that
    versions share is that of each of them here, with the triggers of its topics.

    Raises:
        ConfigurationError: the file cannot be read, is malformed, names a group that does not read its topic, has two
            ScaledObjects for one pool or none for any.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(
            f"cannot read the ScaledObjects in {path}: {error.strerror}. Name the file with --scaled-objects."
        ) from error
    versions = {
        names.work_topic(target.model, target.version, lane): (target.model, target.version)
        for target in targets
        for lane in Lane
    }
    pools: dict[str, ScaledPool] = {}
    for scaled_object in read_scaled_objects(text, source=str(path)):
        for part in _parts(scaled_object.capped(max_workers), versions, names):
            of_triggers = {versions.get(trigger.topic) for trigger in part.triggers}
            if of_triggers == {None}:
                continue
            pool = _pool(part, of_triggers, source=str(path), names=names)
            if pool.name in pools:
                raise ConfigurationError(
                    f"{path}: {pools[pool.name].scaled_object.name} and {scaled_object.name} both scale {pool.name}. "
                    "Remove one."
                )
            pools[pool.name] = pool
    if not pools:
        raise ConfigurationError(
            f"{path} has no ScaledObject for any version that is served here: none has a trigger for one of "
            f"{', '.join(versions)}. Name another file with --scaled-objects."
        )
    return tuple(pools.values())


def _parts(
    scaled_object: "ScaledObject", versions: Mapping[str, tuple[str, str]], names: "Names"
) -> "list[ScaledObject]":
    """Return the ScaledObject of a shared pool as one of each version; any other as it is."""
    by_group: dict[str, list[KafkaTrigger]] = {}
    for trigger in scaled_object.triggers:
        by_group.setdefault(trigger.consumer_group, []).append(trigger)
    groups = {topic: names.worker_group(*version) for topic, version in versions.items()}
    fit = all(
        groups.get(trigger.topic, trigger.consumer_group) == trigger.consumer_group
        for trigger in scaled_object.triggers
    )
    if len(by_group) == 1 or not fit:
        return [scaled_object]
    return [msgspec.structs.replace(scaled_object, triggers=tuple(triggers)) for triggers in by_group.values()]


def _pool(
    scaled_object: "ScaledObject", of_triggers: Iterable[tuple[str, str] | None], *, source: str, names: "Names"
) -> ScaledPool:
    """Check that every trigger is of one version and of the group that reads it."""
    first, *others = of_triggers
    if first is None or others:
        topics = ", ".join(trigger.topic for trigger in scaled_object.triggers)
        raise ConfigurationError(
            f"{source}: ScaledObject {scaled_object.name} looks at {topics}, not the topics of one version. Mend it."
        )
    group = names.worker_group(*first)
    if other := [trigger.consumer_group for trigger in scaled_object.triggers if trigger.consumer_group != group]:
        raise ConfigurationError(
            f"{source}: ScaledObject {scaled_object.name} looks at the group {other[0]}, not at {group}, which reads "
            "its topics. Mend it."
        )
    return ScaledPool(name=worker_pool(*first), model=first[0], version=first[1], scaled_object=scaled_object)


def pool_like(known: ScaledPool, target: "Target", names: "Names") -> ScaledPool:
    """Return the pool of a version that appeared while the stack runs: scaled as a known one, by its own topics."""
    group = names.worker_group(target.model, target.version)
    triggers = tuple(
        msgspec.structs.replace(
            trigger,
            topic=names.work_topic(target.model, target.version, Lane(trigger.topic.rpartition(".")[2])),
            consumer_group=group,
        )
        for trigger in known.scaled_object.triggers
    )
    name = worker_pool(target.model, target.version)
    scaled_object = msgspec.structs.replace(known.scaled_object, name=name, target=name, triggers=triggers)
    return ScaledPool(name=name, model=target.model, version=target.version, scaled_object=scaled_object)
