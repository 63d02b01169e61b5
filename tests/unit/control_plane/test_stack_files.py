"""Logs and state of the local stack on a disk that is full, read-only or gone: the stack goes on."""

import asyncio
import sys
from pathlib import Path

import pytest

from control_plane.local.child_process import ProcessSpec, start_child
from control_plane.local.local_stack import LocalStack
from control_plane.local.managed_process import Backoff, ManagedProcess, State
from control_plane.local.profile import StackOptions, stack_profile
from control_plane.local.stack_report import folder_fault
from control_plane.local.state_directory import StateFiles, TargetFile, keep_small, open_log, rotate
from inferlane.errors import ConfigurationError
from inferlane.runtime.config import load_settings
from inferlane.runtime.runfile import RunFile, RunRecord

WAIT_S = 20.0
RECORD = RunRecord(pid=1, create_time_s=2.5, phase="ready", api_url="http://x", environment={})
WRITES = "import sys, signal; print('said', flush=True); sys.stderr.write('too'); sys.stderr.flush(); signal.pause()"


def spec(log_path: Path, *, program: str = WRITES, is_foreign: bool = False) -> ProcessSpec:
    async def is_ready() -> bool:
        return True

    return ProcessSpec(
        name="part",
        argv=(sys.executable, "-S", "-c", program),
        env={},
        log_path=log_path,
        is_ready=is_ready,
        port=0,
        ready_within_s=WAIT_S,
        stop_within_s=WAIT_S,
        is_foreign=is_foreign,
    )


def unwritable(folder: Path) -> Path:
    """A folder in which nothing can be made, for root neither."""
    (folder / "file").touch()
    return folder / "file" / "logs"


@pytest.mark.parametrize("is_foreign", [False, True])
async def test_a_process_starts_without_a_log_where_there_can_be_none(tmp_path: Path, is_foreign: bool) -> None:
    child = await start_child(spec(unwritable(tmp_path) / "part.log", is_foreign=is_foreign))
    assert not await child.ends_within(0.2)
    child.kill()
    await child.wait()


async def test_a_program_of_others_never_meets_a_full_disk(tmp_path: Path) -> None:
    """Guards `is_foreign`: the embedded broker ends, with all that it holds, when it cannot say what it has to say."""
    (tmp_path / "part.log").symlink_to("/dev/full")
    child = await start_child(spec(tmp_path / "part.log", is_foreign=True))
    assert not await child.ends_within(0.2)
    child.kill()
    await child.wait()


async def test_what_a_program_of_others_says_is_in_its_log(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "part.log"
    child = await start_child(
        spec(path, is_foreign=True, program="print('first', flush=True); raise SystemExit('last words')")
    )
    async with asyncio.timeout(WAIT_S):
        assert await child.wait() == 1
    assert path.read_text() == "first\nlast words\n"


async def test_a_log_that_grows_is_set_aside_while_it_is_written(tmp_path: Path) -> None:
    """Guards rotation while running: it was at the start alone, and a flood filled the disk."""
    path, size = tmp_path / "part.log", 64 * 1024
    with open_log(path) as writer:
        writer.write(b"a" * size)
        rotate(path, limit_bytes=size)
        assert path.stat().st_size == size
        writer.write(b"b")
        rotate(path, limit_bytes=size)
        assert path.stat().st_size == 0
        writer.write(b"after")
    assert path.read_bytes() == b"after"
    assert path.with_suffix(".log.1").read_bytes() == b"a" * size + b"b"
    with open_log(path) as writer:
        writer.write(b"c" * size)
    rotate(path, limit_bytes=size)
    # One copy is kept, whatever was said before.
    assert path.with_suffix(".log.1").read_bytes() == b"after" + b"c" * size


def test_a_log_without_room_for_its_copy_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "part.log"
    path.write_bytes(b"x" * 100)
    path.with_suffix(".log.1").mkdir()
    rotate(path, limit_bytes=10)
    assert path.stat().st_size == 0


async def test_logs_are_looked_after_until_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control_plane.local.state_directory._LOOK_EVERY_S", 0.001)
    looks = asyncio.Semaphore(0)

    def paths() -> list[Path]:
        looks.release()
        if looks._value == 1:
            raise RuntimeError("can't start new thread")
        return [tmp_path / "gone.log"]

    task = asyncio.create_task(keep_small(paths))
    async with asyncio.timeout(WAIT_S):
        for _ in range(3):
            await looks.acquire()
    task.cancel()
    await asyncio.wait([task])


def state_files(folder: Path, again: asyncio.Event) -> StateFiles:
    return StateFiles(RunFile(folder), TargetFile(folder), write_again=again.set)


async def test_a_state_that_cannot_be_written_is_shown_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards `StateFiles.write`: a full disk ended the supervisor, and all with it (seen to fail so)."""
    monkeypatch.setattr("control_plane.local.state_directory._AGAIN_S", 0.001)
    again, folder = asyncio.Event(), tmp_path / "state"
    files = state_files(folder, again)
    files.write_first(RECORD)
    folder.rename(tmp_path / "away")
    folder.touch()
    files.write(RECORD, ())
    assert files.trouble
    assert folder_fault(folder)
    async with asyncio.timeout(WAIT_S):
        await again.wait()
    files.remove()
    folder.unlink()
    files.write(RECORD, ())
    assert not files.trouble
    assert RunFile(folder).read() == RECORD


async def test_a_stack_that_nobody_could_find_does_not_start(tmp_path: Path) -> None:
    files = state_files(unwritable(tmp_path), asyncio.Event())
    with pytest.raises(ConfigurationError, match="Make room there"):
        files.write_first(RECORD)


def test_a_failed_write_leaves_the_run_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = RunFile(tmp_path)
    file.write(RECORD)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("inferlane.runtime.runfile.msgspec.json.format", full)
    with pytest.raises(OSError, match="No space"):
        file.write(RECORD)
    monkeypatch.undo()
    assert file.read() == RECORD
    assert list(tmp_path.iterdir()) == [file.path]


async def kept(managed: ManagedProcess) -> None:
    """Run the managed until it is stopped; nothing may come out of it."""
    task = asyncio.create_task(managed.run())
    async with asyncio.timeout(WAIT_S):
        await managed.settled.wait()
    await managed.stop()
    await task


async def test_a_system_that_does_not_start_a_process_now_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards `_run_once`: without a file descriptor to spare the restart of one process ended all."""
    refused = [OSError(24, "Too many open files"), OSError(11, "Resource temporarily unavailable")]
    came_back, state_changed = asyncio.Event(), asyncio.Event()

    async def start(wanted: ProcessSpec) -> object:
        if was_ready.is_set() and refused:
            raise refused.pop()
        return await start_child(wanted)

    was_ready = asyncio.Event()

    def on_change() -> None:
        state_changed.set()
        if managed.state is State.READY:
            if was_ready.is_set() and not refused:
                came_back.set()
            elif not was_ready.is_set():
                was_ready.set()

    monkeypatch.setattr("control_plane.local.managed_process.start_child", start)
    managed = ManagedProcess(spec(tmp_path / "part.log"), backoff=Backoff(first_s=0.001), on_change=on_change)
    task = asyncio.create_task(managed.run())
    async with asyncio.timeout(WAIT_S):
        await was_ready.wait()
        assert managed.child is not None
        managed.child.kill()
        await came_back.wait()
        await managed.stop()
        await task
    assert refused == []


async def test_an_answer_that_cannot_be_read_ends_nobody(tmp_path: Path) -> None:
    """Guards the width of `except` in `_answers_yes`: a page that was no JSON came out of the managed as ValueError."""
    answers = [ValueError("no JSON"), KeyError("checks"), None]

    async def is_ready() -> bool:
        answer = answers.pop(0) if answers else None
        if answer is not None:
            raise answer
        return True

    import dataclasses  # noqa: PLC0415 - for this one

    await kept(
        ManagedProcess(
            dataclasses.replace(spec(tmp_path / "part.log"), is_ready=is_ready),
            backoff=Backoff(first_s=0.001),
            on_change=lambda: None,
        )
    )
    assert answers == []


class FailingWork:
    """Fails at its first run, and goes on at its second."""

    def __init__(self) -> None:
        self.runs = 0
        self.goes_on = asyncio.Event()

    async def run(self) -> None:
        self.runs += 1
        if self.runs == 1:
            raise ValueError("nobody foresaw this")
        self.goes_on.set()
        await asyncio.Event().wait()


async def test_work_beside_the_processes_that_fails_is_shown_and_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards `keep_working`: where the catalogue was no longer followed, `status` said that all was well."""
    monkeypatch.setattr("control_plane.local.pools.claim_port", lambda port, **_: port)
    settings = load_settings(state_dir=tmp_path, kafka_bootstrap_servers="kafka:9092", redis_url="redis://store:6379/0")
    options = StackOptions(first_ops_port=20_100)
    stack = LocalStack(stack_profile(settings, options), options, ())
    shown: list[tuple[str, ...]] = []
    note = stack._note_trouble

    def note_and_read(part: str, trouble: str) -> None:
        note(part, trouble)
        record = RunFile(tmp_path).read()
        assert record is not None
        shown.append(record.troubles)

    monkeypatch.setattr(stack, "_note_trouble", note_and_read)
    work = FailingWork()
    stack._keep("catalogue", work.run, effect="versions neither come nor go")
    async with asyncio.timeout(WAIT_S):
        await work.goes_on.wait()
    before, failed, again = shown
    assert (before, again) == ((), ())
    assert failed == ("catalogue: failed, versions neither come nor go: ValueError('nobody foresaw this')",)
    (task,) = stack._tasks
    task.cancel()
    await asyncio.wait([task])
