"""Settings that contradict each other are refused where they are read, with both values and the remedy."""

import pytest

from inferlane.errors import ConfigurationError
from inferlane.runtime.config import load_settings, setting_fields, variable_of
from inferlane.runtime.setting_pairs import SETTING_PAIRS, SettingPair


def flat(variable: str) -> str:
    return variable.removeprefix("INFERLANE_").lower()


@pytest.mark.parametrize("pair", SETTING_PAIRS, ids=lambda pair: pair.lower)
def test_a_pair_may_be_equal_and_is_refused_when_turned_round(pair: SettingPair) -> None:
    upper = setting_fields()[flat(pair.upper)].default
    load_settings(**{flat(pair.lower): upper})
    above = upper + 1
    with pytest.raises(ConfigurationError) as caught:
        load_settings(**{flat(pair.lower): above})
    assert str(caught.value) == (
        f"{pair.lower}={above:.15g} is above {pair.upper}={upper:.15g} (its default): {pair.effect}. "
        f"Lower the first to {upper:.15g} or less, or raise the second."
    )


@pytest.mark.parametrize(
    ("limit", "default", "value"),
    [
        ("MAX_WAIT_S", "DEFAULT_WAIT_S", 5),
        ("MAX_DEADLINE_S", "DEFAULT_DEADLINE_S", 7.5),
        ("REQUEST_RETENTION_S", "MAX_DEADLINE_S", 7_200.5),
        ("MAX_PENDING_BYTES", "MAX_BODY_BYTES", 4_096),
    ],
)
def test_a_default_follows_a_limit_below_it_also_in_other_processes(limit: str, default: str, value: float) -> None:
    settings = load_settings(**{limit.lower(): value})
    assert settings.chosen()[default.lower()] == value
    assert settings.environment()[f"INFERLANE_{default}"] == settings.environment()[f"INFERLANE_{limit}"]


def test_a_chosen_value_above_a_chosen_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERLANE_MAX_WAIT_S", "5")
    monkeypatch.setenv("INFERLANE_DEFAULT_WAIT_S", "10")
    with pytest.raises(ConfigurationError, match=r"INFERLANE_DEFAULT_WAIT_S=10 is above INFERLANE_MAX_WAIT_S=5: "):
        load_settings()


def test_reports_that_come_less_often_than_slots_begin_are_refused() -> None:
    """They were taken: a rollout then compared slots that one version had reported and the other had not."""
    with pytest.raises(ConfigurationError, match="OUTCOME_INTERVAL_S=6 is above INFERLANE_OUTCOME_SLOT_S=5 "):
        load_settings(outcome_interval_s=6)


def test_every_pair_names_settings() -> None:
    known = {variable_of(name) for name in setting_fields()}
    assert {name for pair in SETTING_PAIRS for name in (pair.lower, pair.upper)} <= known


@pytest.mark.parametrize("setting", ["result_ttl_s", "delivered_result_ttl_s"])
def test_a_life_of_less_than_a_second_which_the_store_refuses_is_out_of_range(setting: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{variable_of(setting)}=0.5: "):
        load_settings(**{setting: 0.5})
