import subprocess
import sys
from collections.abc import Iterator

import pytest

from benchmarks.backlog import Drain
from benchmarks.bulk import ALONE, WORKER, Bulk, BulkRun, bulk_to_markdown
from benchmarks.cost import CostRun, Deployment
from benchmarks.idle import Idle, idle_to_markdown
from benchmarks.measured import Checked, Machine
from benchmarks.queueing import busiest_wait_s
from benchmarks.spells import Spell, SpellMeter
from benchmarks.systems.deployed import SERVING, by_kind
from benchmarks.usage import cpu_by_process

MACHINE = Machine(cpu="x", cores=2, memory_gib=1.0, kernel="x", python="x", measured_at="x")

# Starts a child that spins for half a second of CPU time and tells its pid, and does nothing itself.
PARENT = """
import subprocess, sys
spin = "import time\\nwhile time.process_time() < 0.5: pass\\nprint(flush=True)\\nimport sys; sys.stdin.read()"
child = subprocess.Popen([sys.executable, "-c", spin], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def family() -> Iterator[tuple[int, int]]:
    """The pids of a parent that is idle and of its child, which has used half a second."""
    with subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        yield parent.pid, int(parent.stdout.readline())
        parent.communicate()


def test_a_named_child_counts_by_itself_and_not_for_the_parent_that_is_named_too(family: tuple[int, int]) -> None:
    parent, child = family
    apart = cpu_by_process({"supervisor": parent, "worker": child})
    assert apart["worker"] >= 0.45
    assert cpu_by_process({"supervisor": parent})["supervisor"] == pytest.approx(sum(apart.values()), abs=0.05)


def test_a_spell_counts_what_was_spent_within_it_alone(family: tuple[int, int]) -> None:
    with SpellMeter({"worker": family[1]}) as meter:
        pass
    assert meter.spell.cpu_s["worker"] < 0.1
    assert meter.spell.elapsed_s > 0


def spell(**cpu_s: float) -> Spell:
    return Spell(elapsed_s=10.0, available=0.5, cpu_s=cpu_s)


def test_workers_add_up_and_what_is_no_part_of_a_deployment_keeps_its_name() -> None:
    kinds = by_kind({"worker-iris-v1-1": 1.0, "worker-iris-v2-1": 2.0, "api": 0.5, "supervisor": 4.0})
    assert kinds == {"workers": 3.0, "API": 0.5, "supervisor": 4.0}
    assert kinds["router"] == 0


def test_the_idle_table_is_by_the_time_that_the_machine_ran() -> None:
    idle = Idle(broker="embedded", machine=MACHINE, settled_s=1, spell=spell(api=0.1, router=0.2, supervisor=1.0))
    table = idle_to_markdown(idle)
    assert "| api | 2.00% |" in table
    assert "| API, router, workers together | 6.00% |" in table


def test_requests_cost_what_they_add_to_an_idle_spell_of_the_same_running_time() -> None:
    idle = Spell(elapsed_s=20.0, available=1.0, cpu_s={"api": 0.4})
    run = CostRun(
        deployment=Deployment(versions=2, partitions=12), sent=100, answered=100, idle=idle, loaded=spell(api=0.6)
    )
    assert run.per_1000(SERVING) == pytest.approx(6.0)
    assert run.beside_idle_per_1000(SERVING) == pytest.approx(5.0)
    assert run.idle_share(["API"]) == pytest.approx(0.02)


def test_a_deployment_is_read_as_versions_by_partitions() -> None:
    assert Deployment.parse("20x24") == Deployment(versions=20, partitions=24)
    with pytest.raises(ValueError, match="invalid literal"):
        Deployment.parse("20")


def bulk_run(way: str, *, cpu_s: float, **checked: int) -> BulkRun:
    drain = Drain(records=100, elapsed_s=4.0, available=0.5, cpu_s=cpu_s, waited_s=1.0)
    return BulkRun(way=way, drain=drain, checked=Checked(**checked))


def test_the_bulk_table_compares_cpu_and_counts_records_without_a_right_result() -> None:
    runs = (bulk_run(ALONE, cpu_s=1.0), bulk_run(WORKER, cpu_s=2.0, equal=98, unequal=1, failed=1))
    table = bulk_to_markdown(Bulk(case="iris", broker="apache", machine=MACHINE, runs=runs))
    (row,) = [line for line in table.splitlines() if line.startswith(f"| {WORKER}")]
    assert row == ("| one worker | 12,800 | 100.0% | 25,600 | 100.0% | 12,800 | 50.0% | 20,000 | 2 of 100 | 1 | 50% |")


def test_the_wait_for_a_core_is_that_of_the_thread_that_used_most_cpu() -> None:
    before = {"1": (10, 0), "2": (0, 7)}
    after = {"1": (20, 900), "2": (10**9, 10**9 // 2 + 7), "3": (5, 5)}
    assert busiest_wait_s(before, after) == pytest.approx(0.5)
    assert busiest_wait_s(before, {}) == 0.0
