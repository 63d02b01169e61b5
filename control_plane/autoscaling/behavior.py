"""How fast a pool may grow and shrink: the `behavior` of a HorizontalPodAutoscaler (autoscaling/v2)."""

from typing import Annotated, Literal

import msgspec

# The API server's limits; a value out of them never reaches the controller.
PeriodSeconds = Annotated[int, msgspec.Meta(ge=1, le=1_800)]
WindowSeconds = Annotated[int, msgspec.Meta(ge=0, le=3_600)]

DEFAULT_DOWN_WINDOW_S = 300
DEFAULT_TOLERANCE = 0.1


class ScalingPolicy(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """At most `value` replicas, or percent of them, in any `period_seconds`."""

    type: Literal["Pods", "Percent"]
    value: Annotated[int, msgspec.Meta(ge=1)]
    period_seconds: PeriodSeconds


class ScalingRules(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """One direction. What is not set takes the default of its direction."""

    stabilization_window_seconds: WindowSeconds | None = None
    select_policy: Literal["Max", "Min", "Disabled"] | None = None
    policies: tuple[ScalingPolicy, ...] | None = None
    tolerance: Annotated[float, msgspec.Meta(ge=0)] | None = None

    def or_else(self, default: "ScalingRules") -> "ScalingRules":
        """Return the same rules with what is not set taken from `default`."""
        unset = {name: getattr(default, name) for name in self.__struct_fields__ if getattr(self, name) is None}
        return msgspec.structs.replace(self, **unset)


# `defaultHPAScaleUpRules` and `defaultHPAScaleDownRules` of Kubernetes 1.35.0, pkg/apis/autoscaling/v2/defaults.go; the
# window and the tolerance are the defaults of the controller manager's flags.
DEFAULT_UP = ScalingRules(
    stabilization_window_seconds=0,
    select_policy="Max",
    policies=(
        ScalingPolicy(type="Pods", value=4, period_seconds=15),
        ScalingPolicy(type="Percent", value=100, period_seconds=15),
    ),
    tolerance=DEFAULT_TOLERANCE,
)
DEFAULT_DOWN = ScalingRules(
    stabilization_window_seconds=DEFAULT_DOWN_WINDOW_S,
    select_policy="Max",
    policies=(ScalingPolicy(type="Percent", value=100, period_seconds=15),),
    tolerance=DEFAULT_TOLERANCE,
)


class Behavior(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Both directions; `complete` fills in the defaults."""

    scale_up: ScalingRules = ScalingRules()
    scale_down: ScalingRules = ScalingRules()

    def complete(self) -> "Behavior":
        """Return the behavior with nothing left unset."""
        return Behavior(scale_up=self.scale_up.or_else(DEFAULT_UP), scale_down=self.scale_down.or_else(DEFAULT_DOWN))
