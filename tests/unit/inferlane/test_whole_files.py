"""Files that are replaced whole, also where the disk is full or somebody has laid a link in the way."""

import os
from pathlib import Path

import pytest

from inferlane.runtime.whole_file import write_durably, write_whole


@pytest.mark.parametrize("mode", [0o600, 0o644], ids=oct)
def test_the_file_is_replaced_and_nothing_else_is_left(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "file"
    for content in (b"old", b"new"):
        write_whole(path, content, mode=mode)
        assert path.read_bytes() == content
    assert path.stat().st_mode & 0o777 == mode
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards `unlink`: without it each try on a full disk leaves a file."""
    path = tmp_path / "file"
    write_whole(path, b"old", mode=0o644)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fchmod", fail)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"new", mode=0o644)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    """Guards O_EXCL and O_NOFOLLOW: without them who may write to the folder chooses what we write to."""
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    path = tmp_path / "file"
    for link in (path, tmp_path / f".file.{os.getpid()}"):
        link.symlink_to(precious)
    write_whole(path, b"new", mode=0o644)
    assert precious.read_bytes() == b"precious"
    assert path.read_bytes() == b"new"
    assert not path.is_symlink()


def test_a_write_that_is_interrupted_leaves_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fchmod", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "file", b"new", mode=0o644)
    assert list(tmp_path.iterdir()) == []


def test_a_durable_file_is_on_the_disk_before_it_has_its_name_and_its_name_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut a file that was only renamed may be empty: all API keys were gone."""
    path = tmp_path / "keys"
    write_whole(path, b"old", mode=0o600)
    flushed: list[tuple[bytes, bytes]] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        fsync(descriptor)
        target = Path(f"/proc/self/fd/{descriptor}").readlink()
        flushed.append((target.read_bytes() if target.is_file() else b"the folder", path.read_bytes()))

    monkeypatch.setattr(os, "fsync", note)
    write_durably(path, b"new", mode=0o600)
    assert flushed == [(b"new", b"old"), (b"the folder", b"new")]
