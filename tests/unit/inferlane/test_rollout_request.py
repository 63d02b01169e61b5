"""A rollout as a person writes it: steps and times in words, and a schema that says what the reader takes."""

import math
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from inferlane.contracts.naming import Lane
from inferlane.contracts.rollout import (
    Action,
    Check,
    Command,
    Phase,
    RolloutState,
    Step,
    Then,
    decode_rollout,
    encode_rollout,
    key_of,
)
from inferlane.contracts.rollout_request import (
    RolloutRequest,
    read_request,
    read_step,
    request_schema,
    seconds_of,
    spec_of,
    words_of,
)
from inferlane.errors import InvalidRolloutError

FILE = """
model: iris
candidate: v2
lanes: [requests]
steps: [shadow 10% for 2000 requests, 1%, "5% for 10m", 25, 50%, 100%]
each: {min_requests: 300, min_time: 2m, max_wait: 6h}
checks: {errors: {margin: 0.005}, answers: {distance: 0.2, then: pause}}
exposure: {failed_requests: 20}
bake: 90
"""


def test_a_file_says_what_a_person_means() -> None:
    spec = spec_of(read_request(yaml.safe_load(FILE)), model="iris", stable="v1")
    assert spec.steps == (
        Step(shadow=0.1, min_requests=2_000),
        Step(weight=0.01),
        Step(weight=0.05, min_time_s=600.0),
        Step(weight=0.25),
        Step(weight=0.5),
        Step(weight=1.0),
    )
    assert (spec.each.min_time_s, spec.each.max_wait_s, spec.bake_s) == (120.0, 21_600.0, 90.0)
    assert spec.lanes == (Lane.REQUESTS,)
    assert set(spec.checks) == {Check.ERRORS, Check.ANSWERS}
    assert (spec.model, spec.candidate, spec.stable, spec.fallback) == ("iris", "v2", "v1", "stable")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"steps": ["0%"]}, "0%"),
        ({"steps": ["101%"]}, "101%"),
        ({"steps": ["five"]}, "five"),
        ({"steps": ["50%", "5%"]}, "larger than the one before"),
        ({"steps": []}, "steps"),
        ({"each": {"min_time": "soon"}}, "soon"),
        ({"candidate": "v1"}, "name another one"),
        ({"wieghts": 1}, "wieghts"),
        ({"checks": {"erors": {}}}, "erors.*there are: agreement, answers, errors, expired"),
        ({"checks": {"errors": {"margin": 7}}}, "below 1"),
        ({"checks": {"prometheus": {"max": 1}}}, "no query"),
        ({"checks": {"prometheus": {"query": "up"}}}, "never fails"),
        ({"lanes": ["fast"]}, "fast"),
        ({"fallback": "v7"}, "fallback"),
        ({"checks": {"errors": {}, "answers": {"distance": 2}}}, "for `checks.answers.distance`, which is 2"),
        ({"checks": {"errors": {"margin": math.nan}}}, "checks.errors.margin is nan; write a finite number"),
        ({"checks": {"reward": {"margin": math.inf}}}, "checks.reward.margin is inf"),
        ({"checks": {"prometheus": {"query": "up", "max": math.nan}}}, "checks.prometheus.max is nan"),
        ({"checks": {"prometheus": {"query": "up", "max": 1, "min": 2}}}, "at least 2 and at most 1"),
        ({"checks": {}}, "for `checks`"),
        ({"checks": {"agreement": {}}}, "no step makes any"),
        ({"steps": ["5% for 99999999999999999999 requests"]}, "over the limit"),
        ({"steps": [f"5% for {'9' * 10_000} requests"]}, "over the limit"),
        ({"each": {"min_requests": 2**60}}, "for `each.min_requests`, which is 1152921504606846976"),
        ({"each": {"min_requests": 1e30}}, "each.min_requests"),
        ({"each": {"promote_after": -1}}, "for `each.promote_after`, which is -1"),
        ({"each": {"min_time": math.inf}}, "each.min_time is inf"),
        ({"notify": [["x"] * 200] * 200}, "over 10,000 values"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_reason(change: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRolloutError, match=says):
        spec_of(read_request({"candidate": "v2", **change}), model="iris", stable="v1")


def test_a_value_that_holds_itself_is_refused() -> None:
    """YAML's aliases can say so."""
    looped = yaml.safe_load("candidate: v2\nsteps: &steps [*steps]\n")
    with pytest.raises(InvalidRolloutError, match="in over 10 others"):
        read_request(looped)


@pytest.mark.parametrize("given_", [None, "v2", [], 5])
def test_what_is_no_object_is_refused(given_: object) -> None:
    with pytest.raises(InvalidRolloutError, match="Expected `object`"):
        read_request(given_)


@given(
    st.fixed_dictionaries(
        {"candidate": st.just("v2")},
        optional={
            "each": st.fixed_dictionaries({"min_requests": st.integers(0), "promote_after": st.integers(0)}),
            "exposure": st.fixed_dictionaries({"failed_requests": st.integers(1)}),
            "steps": st.lists(st.builds("5% for {} requests".format, st.integers(0)), min_size=1, max_size=1),
            "checks": st.fixed_dictionaries(
                {
                    "errors": st.just({}),
                    "reward": st.fixed_dictionaries({"margin": st.floats(), "min_count": st.integers()}),
                }
            ),
        },
    )
)
def test_what_is_taken_can_be_read_by_whoever_decides(asked: dict[str, Any]) -> None:
    """A count over the bound of the topic's record was taken by the API, and no router could read the command."""
    try:
        spec = spec_of(read_request(asked), model="iris", stable="v1")
    except InvalidRolloutError:
        return
    command = Command(id="c1", rollout="iris-1", action=Action.START, spec=spec)
    assert decode_rollout(key_of(command), encode_rollout(command)) == command


LASTS = st.one_of(
    st.just({}),
    st.integers(0, 10**6).map(lambda requests: {"min_requests": requests}),
    st.integers(0, 366 * 86_400 * 4).map(lambda quarters: {"min_time_s": min(quarters / 4, 366 * 86_400.0)}),
)


@given(st.integers(1, 10**9), st.booleans(), LASTS)
def test_a_step_is_read_as_it_is_written(parts: int, is_shadow: bool, lasts: dict[str, Any]) -> None:
    share = parts / 10**9
    step = read_step(words_of(Step(shadow=share, **lasts) if is_shadow else Step(weight=share, **lasts)))
    assert (step.shadow if is_shadow else step.weight) == pytest.approx(share, rel=1e-12)
    assert (step.weight if is_shadow else step.shadow) == 0
    assert {"min_requests": step.min_requests, "min_time_s": step.min_time_s} == {
        "min_requests": None,
        "min_time_s": None,
        **lasts,
    }


@pytest.mark.parametrize("text", ["5% for ___ requests", "5% for , requests"])
def test_a_count_without_a_digit_is_none(text: str) -> None:
    with pytest.raises(InvalidRolloutError):
        read_step(text)


@given(st.text(max_size=30))
def test_any_text_is_a_step_or_refused(text: str) -> None:
    try:
        step = read_step(text)
    except InvalidRolloutError:
        return
    assert 0 < step.weight + step.shadow <= 1


@pytest.mark.parametrize(("given_", "seconds"), [("30s", 30), ("2m", 120), ("1.5h", 5_400), ("1d", 86_400), (7, 7)])
def test_a_time_has_a_unit_or_is_in_seconds(given_: str | float, seconds: float) -> None:
    assert seconds_of(given_) == seconds


def test_the_schema_names_every_field_that_is_read() -> None:
    schema = request_schema()
    fields = schema["$defs"]["RolloutRequest"]
    assert set(fields["properties"]) == set(RolloutRequest.__struct_fields__)
    assert (fields["required"], fields["additionalProperties"]) == (["candidate"], False)


def test_a_whole_number_with_a_point_is_an_integer_as_in_the_schema() -> None:
    asked = {"model": "iris", "candidate": "v2", "exposure": {"failed_requests": 20.0}, "each": {"min_requests": 300.0}}
    spec = spec_of(read_request({**asked, "checks": {"quality": {"min_count": 50.0}}}), model="iris", stable="v1")
    assert (spec.exposure.failed_requests, spec.each.min_requests) == (20, 300)
    assert [options.min_count for options in spec.checks.values()] == [50]
    with pytest.raises(InvalidRolloutError, match="Expected `int`, got `float`"):
        read_request({**asked, "exposure": {"failed_requests": 20.5}})


@pytest.mark.parametrize("text", ["roll_back", "roll back"])
def test_the_consequence_is_read_in_the_form_of_older_releases_too(text: str) -> None:
    asked = read_request({"candidate": "v2", "checks": {"answers": {"then": text}}})
    assert asked.checks[Check.ANSWERS].then is Then.ROLL_BACK
    state = RolloutState(id="r", spec=spec_of(asked, model="iris", stable="v1"), phase=Phase.DRAFT)
    written = encode_rollout(state)
    assert b'"then":"roll_back"' in written
    assert decode_rollout(key_of(state), written.replace(b"roll_back", text.encode())) == state
