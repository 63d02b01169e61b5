"""The supervisor with small real processes: order, restarts, sizes, signals."""

import asyncio
import dataclasses
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from control_plane.local.child_process import ProcessSpec
from control_plane.local.managed_process import Backoff, StartError, State
from control_plane.local.supervisor import Pool, Supervisor
from inferlane.errors import ConfigurationError, UnavailableError

WAIT_S = 20.0
# Writes one line when it starts and one when it is asked to stop, in a file that all processes share.
DIARY = """
import pathlib, signal, sys
name, diary = sys.argv[1], pathlib.Path(sys.argv[2])
def note(word):
    with diary.open("a") as file: file.write(f"{word} {name}\\n")
def stop(*_):
    note("stopped"); sys.exit(0)
signal.signal(signal.SIGTERM, stop)
note("started")
while True: signal.pause()
"""
DEAF = DIARY.replace("SIGTERM, stop", "SIGTERM, signal.SIG_IGN")


class Stage:
    """A supervisor under test, and the event that follows each change of a process."""

    def __init__(self, folder: Path) -> None:
        self.diary = folder / "diary"
        self.diary.touch()
        self.folder = folder
        self.stop = asyncio.Event()
        self.changed = asyncio.Event()

    def lines(self) -> list[str]:
        return self.diary.read_text().splitlines()

    def spec(self, name: str, *, program: str = DIARY, stop_within_s: float = WAIT_S) -> ProcessSpec:
        starts_before = len([line for line in self.lines() if line == f"started {name}"])

        async def is_ready() -> bool:
            return self.lines().count(f"started {name}") > starts_before

        return ProcessSpec(
            name=name,
            argv=(sys.executable, "-S", "-c", program, name, str(self.diary)),
            env={},
            log_path=self.folder / f"{name}.log",
            is_ready=is_ready,
            port=0,
            ready_within_s=WAIT_S,
            stop_within_s=stop_within_s,
        )

    def pool(self, name: str, rank: int, *, size: int = 1, program: str = DIARY, stop_within_s: float = WAIT_S) -> Pool:
        return Pool(
            name=name,
            rank=rank,
            size=size,
            make=lambda number: self.spec(f"{name}-{number}", program=program, stop_within_s=stop_within_s),
        )

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not holds():
                self.changed.clear()
                await self.changed.wait()

    @asynccontextmanager
    async def running(self, *pools: Pool) -> AsyncIterator[Supervisor]:
        supervisor = Supervisor(pools, backoff=Backoff(first_s=0.01), on_change=self.changed.set)
        async with self.supervising(supervisor):
            yield supervisor

    @asynccontextmanager
    async def supervising(self, supervisor: Supervisor) -> AsyncIterator[None]:
        """Run the block once all pools are ready; nothing may live after it."""
        ready = asyncio.Event()

        async def when_ready() -> None:
            ready.set()

        async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as tasks:
            tasks.create_task(supervisor.run(self.stop, when_ready=when_ready))
            await ready.wait()
            yield
            self.stop.set()
        assert psutil.Process().children() == []


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def pids(supervisor: Supervisor) -> dict[str, int]:
    return {managed.spec.name: managed.child.pid for _, managed in supervisor.processes() if managed.child}


async def test_stop_order_is_the_reverse_of_start_order(stage: Stage) -> None:
    async with stage.running(stage.pool("c", 2), stage.pool("a", 0), stage.pool("b", 1)):
        assert stage.lines() == ["started a-1", "started b-1", "started c-1"]
    assert stage.lines()[3:] == ["stopped c-1", "stopped b-1", "stopped a-1"]


async def test_a_process_that_dies_comes_back(stage: Stage) -> None:
    async with stage.running(stage.pool("a", 0)) as supervisor:
        [(_, managed)] = supervisor.processes()
        first = managed.child
        assert first is not None
        psutil.Process(first.pid).kill()
        await stage.until(lambda: managed.restarts == 1 and managed.state is State.READY)
        assert managed.child is not first


async def test_a_process_that_runs_and_does_not_move_is_replaced(stage: Stage) -> None:
    """Guards `ManagedProcess._hangs`: taken out, a stuck worker stays until somebody looks."""
    moves = True

    async def is_live() -> bool:
        return moves

    spec = dataclasses.replace(stage.spec("a-1", program=DEAF), is_live=is_live, live_poll_s=0.01)
    pool = Pool(name="a", rank=0, make=lambda _: dataclasses.replace(spec, stop_within_s=0.1))
    async with stage.running(pool) as supervisor:
        [(_, managed)] = supervisor.processes()
        first = pids(supervisor)["a-1"]
        moves = False
        await stage.until(lambda: managed.restarts >= 1)
        moves = True
        await stage.until(lambda: managed.state is State.READY and pids(supervisor)["a-1"] != first)


async def test_one_late_answer_does_not_kill(stage: Stage) -> None:
    """Guards `_NOT_LIVE_IN_A_ROW`: a busy machine must not turn a pause into a restart."""
    answers = 0
    asked_often = asyncio.Event()

    async def is_live() -> bool:
        nonlocal answers
        answers += 1
        if answers > 20:
            asked_often.set()
        if answers % 3 == 0:
            return True
        raise TimeoutError

    spec = dataclasses.replace(stage.spec("a-1"), is_live=is_live, live_poll_s=0.001)
    async with stage.running(Pool(name="a", rank=0, make=lambda _: spec)) as supervisor:
        await asked_often.wait()
        assert [managed.restarts for _, managed in supervisor.processes()] == [0]


async def test_a_process_that_served_before_and_waits_for_a_part_is_left_to_wait(stage: Stage) -> None:
    """Guards `ManagedProcess._waits_well`: without it, an outage longer than a start adds a back-off to itself."""
    starts = asks = 0
    is_back = False
    was_asked = asyncio.Event()

    async def is_ready() -> bool:
        return is_back or starts == 1

    async def is_live() -> bool:
        nonlocal asks
        asks += starts > 1
        if asks >= 5:
            was_asked.set()
        return True

    async def prepare() -> None:
        stage.changed.set()

    spec = dataclasses.replace(
        stage.spec("a-1"), is_ready=is_ready, is_live=is_live, prepare=prepare, ready_within_s=1.5, live_poll_s=0.01
    )

    def make(_number: int) -> ProcessSpec:
        nonlocal starts
        starts += 1
        return spec

    async with stage.running(Pool(name="a", rank=0, size=1, make=make)) as supervisor:
        [(_, managed)] = supervisor.processes()
        assert managed.child is not None
        starts = 2
        psutil.Process(managed.child.pid).kill()
        async with asyncio.timeout(WAIT_S):
            await was_asked.wait()
        # It has waited for longer than a start may take, and is the same process.
        assert (managed.restarts, managed.state) == (1, State.STARTING)
        is_back = True
        await stage.until(lambda: managed.state is State.READY)
        assert managed.restarts == 1


async def test_a_restarted_process_is_prepared_again_before_it_counts_as_ready(stage: Stage) -> None:
    prepared_in: list[State] = []

    async def prepare() -> None:
        prepared_in.extend(managed.state for _, managed in supervisor.processes())

    spec = dataclasses.replace(stage.spec("a-1"), prepare=prepare)
    supervisor = Supervisor(
        [Pool(name="a", rank=0, make=lambda _: spec)], backoff=Backoff(first_s=0.01), on_change=stage.changed.set
    )
    async with stage.supervising(supervisor):
        psutil.Process(pids(supervisor)["a-1"]).kill()
        await stage.until(lambda: len(prepared_in) == 2)
    assert prepared_in == [State.STARTING, State.STARTING]


async def test_a_pool_grows_and_shrinks_and_the_others_stay(stage: Stage) -> None:
    async with stage.running(stage.pool("a", 0), stage.pool("b", 1)) as supervisor:
        before = pids(supervisor)
        await supervisor.scale("b", 3)
        assert set(pids(supervisor)) == {"a-1", "b-1", "b-2", "b-3"}
        await supervisor.scale("b", 1)
        assert pids(supervisor) == before
        assert sorted(stage.lines()[-2:]) == ["stopped b-2", "stopped b-3"]
        await supervisor.scale("b", 0)
        assert set(pids(supervisor)) == {"a-1"}


async def test_an_unknown_pool_or_a_negative_size_is_refused(stage: Stage) -> None:
    async with stage.running(stage.pool("a", 0)) as supervisor:
        with pytest.raises(ConfigurationError, match="no pool 'x'; there are: a"):
            await supervisor.scale("x", 1)
        with pytest.raises(ConfigurationError, match="-1 processes"):
            await supervisor.scale("a", -1)


async def test_a_process_that_fails_at_start_stops_the_stack_and_shows_its_log(stage: Stage) -> None:
    bad = stage.pool("bad", 1, program="raise SystemExit('no such model')")
    with pytest.raises(ExceptionGroup) as raised:
        async with stage.running(stage.pool("a", 0), bad, stage.pool("never", 2)):
            pytest.fail("it became ready")
    error = raised.value.exceptions[0]
    assert isinstance(error, StartError)
    assert "bad-1 ended (exit code 1)" in str(error)
    assert "no such model" in str(error)
    assert stage.lines() == ["started a-1", "stopped a-1"]
    assert psutil.Process().children() == []


async def test_a_start_that_fails_leaves_no_task_of_a_pool_that_still_starts(stage: Stage) -> None:
    def never_ready(number: int) -> ProcessSpec:
        async def is_ready() -> bool:
            return False

        return dataclasses.replace(stage.spec(f"slow-{number}"), is_ready=is_ready)

    slow = Pool(name="slow", rank=0, tries=3, make=never_ready)
    bad = Pool(name="bad", rank=1, make=lambda n: stage.spec(f"bad-{n}", program="raise SystemExit(3)"))
    supervisor = Supervisor([slow, bad], backoff=Backoff(first_s=0.01), on_change=stage.changed.set)
    before = asyncio.all_tasks()
    async with asyncio.timeout(WAIT_S):
        with pytest.raises(StartError):
            await started(supervisor, stage)
    assert asyncio.all_tasks() == before


async def started(supervisor: Supervisor, stage: Stage) -> None:
    async def when_ready() -> None:
        pytest.fail("it became ready")

    await supervisor.run(stage.stop, when_ready=when_ready)


async def test_a_failed_scale_leaves_the_pool_as_it_was(stage: Stage) -> None:
    programs = iter([DIARY, "raise SystemExit(3)", DIARY])
    pool = Pool(name="a", rank=0, make=lambda n: stage.spec(f"a-{n}", program=next(programs)))
    async with stage.running(pool) as supervisor:
        with pytest.raises(StartError):
            await supervisor.scale("a", 2)
        assert set(pids(supervisor)) == {"a-1"}
        await supervisor.scale("a", 2)
        assert set(pids(supervisor)) == {"a-1", "a-2"}


async def test_a_process_that_ignores_sigterm_is_killed_when_its_grace_is_over(stage: Stage) -> None:
    async with stage.running(stage.pool("deaf", 0, program=DEAF, stop_within_s=0.05)):
        pass
    assert stage.lines() == ["started deaf-1"]


async def test_kill_ends_a_drain_that_takes_too_long(stage: Stage) -> None:
    async with stage.running(stage.pool("deaf", 0, program=DEAF)) as supervisor:
        [(_, managed)] = supervisor.processes()
        stage.stop.set()
        await stage.until(lambda: managed.state is State.STOPPING)
        supervisor.kill()


async def test_stop_while_starting_leaves_nothing(stage: Stage) -> None:
    supervisor = Supervisor([stage.pool("a", 0), stage.pool("b", 1)], on_change=stage.changed.set)

    async def when_ready() -> None:
        pytest.fail("it was told to stop")

    async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(supervisor.run(stage.stop, when_ready=when_ready))
        await stage.until(lambda: bool(pids(supervisor)))
        stage.stop.set()
    assert "started b-1" not in stage.lines()
    assert psutil.Process().children() == []


async def test_an_unanswered_probe_stops_the_stack(stage: Stage) -> None:
    async def when_ready() -> None:
        raise UnavailableError("no answer")

    with pytest.raises(UnavailableError):
        await Supervisor([stage.pool("a", 0)]).run(stage.stop, when_ready=when_ready)
    assert stage.lines() == ["started a-1", "stopped a-1"]


async def test_a_signal_to_our_process_group_does_not_reach_the_children(stage: Stage) -> None:
    async with stage.running(stage.pool("a", 0)) as supervisor:
        [pid] = pids(supervisor).values()
        assert os.getpgid(pid) != os.getpgid(0)


async def test_a_process_that_may_fail_is_tried_with_back_off_then_given_up_and_the_others_go_on(stage: Stage) -> None:
    """Guards `Pool.tries`: taken out, one version that cannot be loaded ends the stack."""
    bad = dataclasses.replace(stage.pool("bad", 1, program="raise SystemExit('no such model')"), tries=3)
    async with stage.running(stage.pool("a", 0), bad, stage.pool("next", 2)) as supervisor:
        managed = dict(supervisor.processes())
        assert managed["next"].state is State.READY
        await stage.until(lambda: managed["bad"].state is State.FAILED)
        assert (managed["bad"].restarts, managed["bad"].fault) == (2, "no such model (ended (exit code 1))")
    assert stage.lines() == ["started a-1", "started next-1", "stopped next-1", "stopped a-1"]


async def test_a_process_that_may_fail_and_takes_for_ever_holds_nobody_up(stage: Stage) -> None:
    """Guards `Supervisor._start_all`: taken out, one version that loads for ever keeps the API away for minutes."""
    comes = asyncio.Event()

    async def is_ready() -> bool:
        return comes.is_set()

    spec = dataclasses.replace(stage.spec("slow-1"), is_ready=is_ready)
    slow = Pool(name="slow", rank=1, tries=3, make=lambda _: spec)
    supervisor = Supervisor([stage.pool("a", 0), slow, stage.pool("next", 2)], on_change=stage.changed.set)
    said: list[str] = []

    async def when_ready() -> None:
        said.extend(managed.state for _, managed in supervisor.processes())
        stage.stop.set()

    async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(supervisor.run(stage.stop, when_ready=when_ready))
        await stage.until(lambda: dict(supervisor.processes()).keys() == {"a", "slow", "next"})
        managed = dict(supervisor.processes())
        await stage.until(lambda: managed["next"].state is State.READY)
        assert (managed["slow"].state, said) == (State.STARTING, [])
        comes.set()
    assert said == [State.READY, State.READY, State.READY]


async def test_a_process_that_may_fail_and_comes_up_later_is_kept_as_any_other(stage: Stage) -> None:
    marker = stage.folder / "second"
    program = (
        f"import pathlib, sys\nm = pathlib.Path({str(marker)!r})\nif not m.exists(): m.touch(); sys.exit(3)\n{DIARY}"
    )
    pool = dataclasses.replace(stage.pool("bad", 0, program=program), tries=3)
    async with stage.running(pool) as supervisor:
        [(_, managed)] = supervisor.processes()
        await stage.until(lambda: managed.state is State.READY)
        assert managed.fault == ""


async def test_a_pool_is_added_and_removed_while_the_others_run_and_stops_in_its_place(stage: Stage) -> None:
    """Guards the order of `add`: a worker that stopped after the router it needs would not drain."""
    async with stage.running(stage.pool("router", 1), stage.pool("api", 3)) as supervisor:
        kept = pids(supervisor)
        await supervisor.add(stage.pool("late", 2))
        await supervisor.add(stage.pool("gone", 2))
        assert [pool for pool, _ in supervisor.processes()] == ["router", "late", "gone", "api"]
        with pytest.raises(ConfigurationError, match="late"):
            await supervisor.add(stage.pool("late", 2))
        await supervisor.remove("gone")
        await supervisor.remove("never-there")
        assert stage.lines()[-1] == "stopped gone-1"
        assert kept.items() <= pids(supervisor).items()
    assert stage.lines()[-3:] == ["stopped api-1", "stopped late-1", "stopped router-1"]


async def test_a_pool_that_cannot_start_is_added_as_failed_and_can_be_removed(stage: Stage) -> None:
    broken = dataclasses.replace(stage.pool("broken", 2, program="import sys; sys.exit('no model')"), tries=1)
    async with stage.running(stage.pool("router", 1)) as supervisor:
        await supervisor.add(broken)
        [process] = [process for pool, process in supervisor.processes() if pool == "broken"]
        await stage.until(lambda: process.state is State.FAILED)
        assert "no model" in process.fault
        await supervisor.remove("broken")
        assert [pool for pool, _ in supervisor.processes()] == ["router"]


async def test_a_rolling_restart_drains_one_process_at_a_time_and_counts_no_death(stage: Stage) -> None:
    def make(number: int) -> ProcessSpec:
        name = f"a-{number}"

        async def is_ready() -> bool:
            return stage.lines().count(f"started {name}") > stage.lines().count(f"stopped {name}")

        return dataclasses.replace(stage.spec(name), is_ready=is_ready)

    async with stage.running(Pool(name="a", rank=0, size=2, make=make)) as supervisor:
        before = pids(supervisor)
        await supervisor.restart("a")
        assert stage.lines()[2:] == ["stopped a-1", "started a-1", "stopped a-2", "started a-2"]
        after = pids(supervisor)
        assert before.keys() == after.keys()
        assert not set(before.values()) & set(after.values())
        assert {managed.restarts for _, managed in supervisor.processes()} == {0}
        assert {managed.state for _, managed in supervisor.processes()} == {State.READY}


async def test_a_rolling_restart_leaves_other_pools_alone_and_refuses_one_that_is_not_there(stage: Stage) -> None:
    async with stage.running(stage.pool("a", 0), stage.pool("b", 0)) as supervisor:
        before = pids(supervisor)
        await supervisor.restart("a")
        assert pids(supervisor)["b-1"] == before["b-1"]
        with pytest.raises(ConfigurationError, match="no pool 'c'"):
            await supervisor.restart("c")


async def test_a_stop_during_a_rolling_restart_stops_everything(stage: Stage) -> None:
    async with stage.running(stage.pool("a", 0, size=2)) as supervisor:
        restarting = asyncio.create_task(supervisor.restart("a"))
        await stage.until(lambda: "stopped a-1" in stage.lines() or stage.stop.is_set())
        stage.stop.set()
        await restarting
    assert not any(managed.child and managed.child.is_running for _, managed in supervisor.processes())


async def test_pools_of_one_wave_start_together_and_stop_by_rank(stage: Stage) -> None:
    """None of them is ready before all have started."""

    async def all_started() -> bool:
        return {"started b-1", "started c-1"} <= set(stage.lines())

    def waiting(pool: Pool) -> Pool:
        def make(number: int) -> ProcessSpec:
            return dataclasses.replace(pool.make(number), is_ready=all_started)

        return dataclasses.replace(pool, wave=1, make=make)

    async with stage.running(stage.pool("a", 0), waiting(stage.pool("c", 3)), waiting(stage.pool("b", 1))):
        assert stage.lines()[0] == "started a-1"
    assert stage.lines()[3:] == ["stopped c-1", "stopped b-1", "stopped a-1"]
