"""Settings that contradict each other: each is in its range, and the two together cannot both be meant."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from inferlane.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingPair:
    """Two settings by their variables: `lower` may be at most as large as `upper`; `effect` is what happened if not."""

    lower: str
    upper: str
    effect: str


SETTING_PAIRS = (
    SettingPair(
        lower="INFERLANE_DEFAULT_WAIT_S",
        upper="INFERLANE_MAX_WAIT_S",
        effect="a call that names no wait would wait longer than any call may",
    ),
    SettingPair(
        lower="INFERLANE_DEFAULT_DEADLINE_S",
        upper="INFERLANE_MAX_DEADLINE_S",
        effect="a call that names no deadline would have a later one than any call may",
    ),
    SettingPair(
        lower="INFERLANE_MAX_DEADLINE_S",
        upper="INFERLANE_REQUEST_RETENTION_S",
        effect="the broker could delete a request before its deadline",
    ),
    SettingPair(
        lower="INFERLANE_MAX_BODY_BYTES",
        upper="INFERLANE_MAX_PENDING_BYTES",
        effect="the largest bodies would be refused as overload for ever",
    ),
    SettingPair(
        lower="INFERLANE_COMMIT_INTERVAL_S",
        upper="INFERLANE_STUCK_AFTER_S",
        effect="a busy consumer would be replaced as stuck between two commits",
    ),
    SettingPair(
        lower="INFERLANE_OUTCOME_INTERVAL_S",
        upper="INFERLANE_OUTCOME_SLOT_S",
        effect="slots would be empty between two reports, and a rollout would compare slots of different times",
    ),
    SettingPair(
        lower="INFERLANE_OUTCOME_SLOT_S",
        upper="INFERLANE_OUTCOME_WINDOW_S",
        effect="the windows could not hold a single slot",
    ),
)


def fit_pairs(values: Mapping[str, object], *, chosen: Collection[str]) -> dict[str, object]:
    """Return the defaults that follow a lower limit which was chosen. All names are variables.

    Raises:
        ConfigurationError: a chosen value contradicts its limit; the message names both variables, their values, what
            they would do and the remedy.
    """
    follow: dict[str, object] = {}
    for pair in SETTING_PAIRS:
        lower, upper = values[pair.lower], values[pair.upper]
        if not isinstance(lower, int | float) or not isinstance(upper, int | float) or lower <= upper:
            continue
        if pair.lower not in chosen:
            follow[pair.lower] = upper
            continue
        default = "" if pair.upper in chosen else " (its default)"
        raise ConfigurationError(
            f"{pair.lower}={lower:.15g} is above {pair.upper}={upper:.15g}{default}: {pair.effect}. "
            f"Lower the first to {upper:.15g} or less, or raise the second."
        )
    return follow
