"""What the shell completes: models, versions and rollouts of the running stack, and the names of checks.

A stack that does not answer completes nothing: a person who presses Tab gets no error.
"""

from collections.abc import Callable, Iterable
from typing import Any

from control_plane.cli.api_calls import ApiCalls
from control_plane.cli.console import reachable_settings
from inferlane.errors import InferlaneError

# Longer than a stack of this machine takes; a person waits for the shell meanwhile.
_WITHIN_S = 2.0


def complete_model(incomplete: str) -> list[str]:
    """The models that are served."""
    return _found(incomplete, lambda api: [model["name"] for model in _models(api)])


def complete_version(ctx: Any, incomplete: str) -> list[str]:
    """The versions of the model that is on the line already."""
    model = ctx.params.get("model")
    return _found(
        incomplete,
        lambda api: [name for one in _models(api) if one["name"] == model for name in _versions(one)],
    )


def complete_rollout(incomplete: str) -> list[str]:
    """Every rollout, those under way first, and the models that have one."""
    from inferlane.contracts.rollout import Phase  # noqa: PLC0415 - commands start without it

    ended = {phase for phase in Phase if phase.is_final}

    def names(api: ApiCalls) -> list[str]:
        rollouts = sorted(api.get("/v1/rollouts")["rollouts"], key=lambda one: one["phase"] in ended)
        return [one["id"] for one in rollouts] + [one["spec"]["model"] for one in rollouts]

    return _found(incomplete, names)


def complete_check(incomplete: str) -> list[str]:
    """The names of checks."""
    from inferlane.contracts.rollout import Check  # noqa: PLC0415 - commands start without it

    return _matching(Check, incomplete)


def _models(api: ApiCalls) -> list[dict[str, Any]]:
    models: list[dict[str, Any]] = api.get("/v1/models")["models"]
    return models


def _versions(model: dict[str, Any]) -> Iterable[str]:
    return [version["version"] for version in model["versions"]]


def _found(incomplete: str, names: Callable[[ApiCalls], Iterable[str]]) -> list[str]:
    try:
        return _matching(names(ApiCalls(reachable_settings(), within_s=_WITHIN_S)), incomplete)
    except (InferlaneError, KeyError, TypeError):
        return []


def _matching(names: Iterable[str], incomplete: str) -> list[str]:
    return list(dict.fromkeys(str(name) for name in names if name.startswith(incomplete)))
