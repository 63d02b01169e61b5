"""The versions of a shared worker: named on the command line, or by a file that is followed."""

import asyncio
from pathlib import Path

import pytest

from inferlane.errors import ConfigurationError
from workers.roster import Roster, parse_version_names, write_version_names


def test_what_is_written_is_read_again_and_comments_are_passed_over() -> None:
    names = frozenset({("fraud", "v1"), ("iris", "v1.2")})
    text = "# the small ones\n\n" + write_version_names(names) + "  iris/v1.2  # again\n"
    assert parse_version_names(text.splitlines(), source="roster") == names


@pytest.mark.parametrize(("name", "said"), [("fraud", "write MODEL/VERSION"), ("fr aud/v1", "'fr aud' is not 1 to 63")])
def test_a_name_that_is_none_is_refused_with_the_rule(name: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        parse_version_names([name], source="--model")


async def test_a_file_is_followed_and_one_that_cannot_be_read_any_more_changes_nothing(tmp_path: Path) -> None:
    file, stop = tmp_path / "roster", asyncio.Event()
    file.write_text("a/v1\n")
    async with asyncio.timeout(60):
        changes = Roster(file=file).follow(stop)
        assert await anext(changes) == {("a", "v1")}
        file.write_text("nonsense\n")
        _replace(file, "a/v1\nb/v1\n")
        assert await anext(changes) == {("a", "v1"), ("b", "v1")}
        file.unlink()
        stop.set()
        assert [names async for names in changes] == []


async def test_a_file_that_may_be_read_again_is_read_though_it_has_not_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mode that is repaired changes neither the size nor the time of a file."""
    file, refused = tmp_path / "roster", asyncio.Event()
    file.write_text("a/v1\n")
    read_text = Path.read_text

    def refuse_once(path: Path, encoding: str) -> str:
        if refused.is_set():
            return read_text(path, encoding)
        refused.set()
        raise PermissionError(13, "Permission denied")

    async with asyncio.timeout(60):
        changes = Roster(file=file).follow(asyncio.Event())
        assert await anext(changes) == {("a", "v1")}
        monkeypatch.setattr(Path, "read_text", refuse_once)
        _replace(file, "a/v1\nb/v1\n")
        assert await anext(changes) == {("a", "v1"), ("b", "v1")}
        assert refused.is_set()


async def test_a_file_that_is_not_there_at_the_start_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot read the versions"):
        await anext(Roster(file=tmp_path / "none").follow(asyncio.Event()))


async def test_versions_of_the_command_line_stay_until_the_end() -> None:
    stop = asyncio.Event()
    changes = Roster(frozenset({("a", "v1")})).follow(stop)
    assert await anext(changes) == {("a", "v1")}
    stop.set()
    assert [names async for names in changes] == []


def _replace(file: Path, text: str) -> None:
    draft = file.with_suffix(".new")
    draft.write_text(text)
    draft.replace(file)
