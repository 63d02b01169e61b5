"""The whole policy of one pool: KEDA's polls and the HPA's steps, each on its own period, over the same replicas."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from control_plane.autoscaling.hpa import HorizontalAutoscaler, MetricValue
from control_plane.autoscaling.scaled_object import KafkaTrigger, ScaledObject


@dataclass(frozen=True, slots=True)
class PartitionOffsets:
    """The offsets of one partition.

    `end`: the offset after its last record. `committed`: the group's offset, None if it never committed one. KEDA knows
    no beginning: for a group that never committed, records that retention removed count as lag too.
    """

    end: int
    committed: int | None


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at a trigger: `metric_records` is what the HPA divides by the threshold."""

    metric_records: int
    is_active: bool


def partition_lag_records(offsets: PartitionOffsets, trigger: KafkaTrigger) -> int:
    """Return the lag of one partition; it is negative where the topic was made anew under an old group."""
    if offsets.committed is not None:
        return offsets.end - offsets.committed
    if trigger.scale_to_zero_on_invalid_offset:
        return 0
    # With `latest` the lag of a group that never committed cannot be known: 1 keeps a consumer that will commit.
    return 1 if trigger.offset_reset_policy == "latest" else offsets.end


def read_trigger(partitions: Iterable[PartitionOffsets], trigger: KafkaTrigger) -> Reading:
    """Return what KEDA reports for the topic.

    The metric is cut so that the HPA asks for no more replicas than there are partitions, but with an integer division:
    between P and P + 1 thresholds it is not, and the HPA asks for P + 1 (#4483). So `maxReplicaCount` must be P.
    """
    lags = [partition_lag_records(offsets, trigger) for offsets in partitions]
    total = metric = sum(lags)
    limits_replicas = (
        not trigger.allow_idle_consumers
        or trigger.limit_to_partitions_with_lag
        or trigger.ensure_even_distribution_of_partitions
    )
    if limits_replicas:
        most = len(lags)
        if trigger.ensure_even_distribution_of_partitions:
            metric = balanced_replicas(total, partitions=len(lags), threshold=trigger.lag_threshold)
            metric *= trigger.lag_threshold
        if trigger.limit_to_partitions_with_lag:
            most = sum(lag > 0 for lag in lags)
        if metric // trigger.lag_threshold > most:
            metric = most * trigger.lag_threshold
    return Reading(metric_records=metric, is_active=total > trigger.activation_lag_threshold)


def balanced_replicas(total_records: int, *, partitions: int, threshold: int) -> int:
    """Return the fewest replicas for the lag among those that get equal shares of the partitions.

    Source: `getNextFactorThatBalancesConsumersToTopicPartitions`, held to KEDA's `TestGetNextFactor`.
    """
    shares = (count for count in range(1, partitions + 1) if partitions % count == 0)
    return next((count for count in shares if count * threshold >= total_records), partitions)


class Activation:
    """Scale one pool from and to zero; call `step` every polling interval."""

    def __init__(self, scaled_object: ScaledObject, *, now_s: float) -> None:
        self._scaled_object = scaled_object
        self._began_s = now_s
        self._last_active_s: float | None = None

    def note_active(self, now_s: float) -> None:
        """Restart the cooldown, as if a trigger had been active now."""
        self._last_active_s = now_s

    def step(self, current: int, *, is_active: bool, has_error: bool, now_s: float) -> int:
        """Return the replicas to have.

        `is_active`: a trigger is above its activation threshold, or falls back. `has_error`: one could not be read.
        """
        scaled_object = self._scaled_object
        if is_active:
            wakes = current == 0 or (scaled_object.idle_replicas is not None and current < scaled_object.min_replicas)
            # A trigger that fails while another is active does not renew the cooldown.
            if wakes or not has_error:
                self._last_active_s = now_s
            return max(1, scaled_object.min_replicas) if wakes else current
        if has_error and (scaled_object.fallback is None or scaled_object.fallback.replicas > 0):
            return current
        if self._sleeps_from(current):
            return self._asleep() if self._has_cooled(now_s) else current
        if scaled_object.idle_replicas is None and current < scaled_object.min_replicas:
            return scaled_object.min_replicas
        return current

    def _sleeps_from(self, current: int) -> bool:
        idle = self._scaled_object.idle_replicas
        return (idle is not None and current > idle) or (current > 0 and self._scaled_object.min_replicas == 0)

    def _asleep(self) -> int:
        idle = self._scaled_object.idle_replicas
        return self._scaled_object.min_replicas if idle is None else idle

    def _has_cooled(self, now_s: float) -> bool:
        if self._last_active_s is None:
            return now_s - self._began_s > self._scaled_object.initial_cooldown_s
        return now_s - self._last_active_s > self._scaled_object.cooldown_s


# `--horizontal-pod-autoscaler-sync-period` of the controller manager. On a cluster it is not ours to choose.
HPA_SYNC_S = 15.0

Offsets = Sequence[PartitionOffsets] | None
"""The partitions of one trigger's topic; None if they could not be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingDecision:
    """The outcome of one look. `reason` is one of `activated`, `deactivated`, `lag` and `unchanged`."""

    replicas: int
    reason: str


class PoolScaler:
    """Decide the size of one pool. `replicas` is the last decision, not the number of running processes.

    `look` whenever `next_look_s` has come, with the offsets of each trigger in the order of the ScaledObject. Times are
    of one clock that never goes back. Where no trigger can be read the broker is away, and nothing changes. The pool
    counts as active when it is made, so that a stack that has just started is not put to sleep before its first client
    came.
    """

    def __init__(
        self, scaled_object: ScaledObject, *, replicas: int, now_s: float, hpa_sync_s: float = HPA_SYNC_S
    ) -> None:
        self.scaled_object = scaled_object
        self.replicas = replicas
        self._activation = Activation(scaled_object, now_s=now_s)
        self._activation.note_active(now_s)
        self._hpa = HorizontalAutoscaler(
            scaled_object.behavior, least=scaled_object.hpa_min_replicas, most=scaled_object.max_replicas
        )
        self._hpa_sync_s = hpa_sync_s
        self._next_poll_s = self._next_sync_s = now_s
        self._failures = [0] * len(scaled_object.triggers)

    @property
    def next_look_s(self) -> float:
        """When the next poll or step is due."""
        return min(self._next_poll_s, self._next_sync_s)

    def look(self, offsets: Sequence[Offsets], *, now_s: float) -> ScalingDecision:
        """Run the poll or step that is due and return the desired size of the pool."""
        before = self.replicas
        if now_s >= self._next_poll_s:
            self._next_poll_s = now_s + self.scaled_object.polling_interval_s
            self._poll(offsets, now_s=now_s)
        polled = self.replicas
        if now_s >= self._next_sync_s:
            self._next_sync_s = now_s + self._hpa_sync_s
            metrics, _ = self._read(offsets)
            self.replicas = self._hpa.step(self.replicas, metrics, now_s=now_s)
        if before == 0 and polled > 0:
            reason = "activated"
        elif polled < before:
            reason = "deactivated"
        else:
            reason = "unchanged" if self.replicas == before else "lag"
        return ScalingDecision(replicas=self.replicas, reason=reason)

    def _poll(self, offsets: Sequence[Offsets], *, now_s: float) -> None:
        if _broker_is_away(offsets):
            # Without a broker KEDA cannot make its client, and leaves the pool before it decides (`checkScalers` of
            # KEDA 2.20.0 returns when `GetScalersCache` fails): it neither wakes nor sleeps.
            return
        metrics, is_active = self._read(offsets)
        self.replicas = self._activation.step(
            self.replicas, is_active=is_active, has_error=None in metrics, now_s=now_s
        )

    def _read(self, offsets: Sequence[Offsets]) -> tuple[list[MetricValue | None], bool]:
        """Return each trigger's metric, None for one that fails, and whether any is active.

        A trigger that failed more often than the fallback's threshold, while the broker answers, counts as active with
        the metric of as many replicas as the fallback names (`GetMetricsWithFallback` and `getScalerState` of KEDA
        2.20.0). While the broker is away nothing is counted: kedacore/keda#5525 and #8056.
        """
        if _broker_is_away(offsets):
            return [None] * len(offsets), False
        metrics: list[MetricValue | None] = []
        is_active = False
        for number, (trigger, partitions) in enumerate(zip(self.scaled_object.triggers, offsets, strict=True)):
            if partitions is not None:
                self._failures[number] = 0
                reading = read_trigger(partitions, trigger)
                metrics.append(MetricValue(reading.metric_records, trigger.lag_threshold))
                is_active |= reading.is_active
                continue
            self._failures[number] += 1
            fallback = self.scaled_object.fallback
            if fallback is not None and self._failures[number] > fallback.failure_threshold:
                replicas = fallback.replicas_for(self.replicas)
                metrics.append(MetricValue(trigger.lag_threshold * replicas, trigger.lag_threshold))
                is_active = True
            else:
                metrics.append(None)
        return metrics, is_active


def _broker_is_away(offsets: Sequence[Offsets]) -> bool:
    return all(partitions is None for partitions in offsets)
