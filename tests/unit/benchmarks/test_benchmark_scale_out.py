"""What twice the processes answered, and what that is worth on the machine that it was measured on."""

import pytest
from msgspec.structs import replace

from benchmarks.measured import Machine
from benchmarks.scale_out import LARGE, SMALL, LoadSpell, ScaleOut, Shape, cores_needed, scale_out_to_markdown, verdict

MACHINE = Machine(cpu="a cpu", cores=16, memory_gib=64, kernel="6", python="3.11", measured_at="now")


def spell(shape: Shape, *, answered: int, cpu_s: float, available: float = 1.0) -> LoadSpell:
    return LoadSpell(
        shape=shape,
        concurrency=64,
        seconds=10.0,
        answered=answered,
        errors=0,
        p99_ms=20.0,
        cpu_s={"API": cpu_s, "router": cpu_s, "workers": cpu_s, "store": 100.0},
        available=available,
    )


def scale(*, answered: int = 80_000, cpu_s: float = 8.0, cores: int = 16) -> ScaleOut:
    return ScaleOut(
        case="iris",
        machine=replace(MACHINE, cores=cores),
        small=[spell(SMALL, answered=count, cpu_s=4.0) for count in (10, 50_000, 50_000)],
        large=[spell(LARGE, answered=count, cpu_s=cpu_s) for count in (answered, answered, 10)],
    )


def test_efficiency_is_the_rate_by_twice_the_rate_of_half_the_processes() -> None:
    assert scale().efficiency == pytest.approx(0.8)


def test_time_in_which_the_machine_stood_still_does_not_count() -> None:
    assert spell(SMALL, answered=1_000, cpu_s=1.0, available=0.5).rate_per_s == pytest.approx(200.0)


def test_the_cpu_of_an_answer_bounds_the_efficiency_without_that_of_the_store() -> None:
    assert scale(answered=50_000, cpu_s=8.0).cost_ratio == pytest.approx(0.5)


def test_with_a_core_for_each_process_the_figure_counts() -> None:
    assert "**" not in verdict(scale(cores=cores_needed()))


def test_with_fewer_cores_than_processes_the_figure_says_so() -> None:
    text = scale_out_to_markdown(scale(cores=cores_needed() - 1))
    assert f"**{cores_needed() - 1} cores for {cores_needed()} processes**" in text
    assert "says nothing of a larger machine" in text
