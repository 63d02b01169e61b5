"""A stack whose store holds versions that cannot be served: it starts, serves the rest and names each."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fakes.stores import write_tiny_store
from tests.support.fakes.zoo import add_version, save_external, spoil
from tests.support.folder_stack import FolderStack

BAD = ("corrupt", "nan", "missing-weights")


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[FolderStack]:
    models = tmp_path / "models"
    about = write_tiny_store(models).with_name("version.toml")
    about.write_text(about.read_text() + "trained = 2026-11-26\nloss = nan\n")
    add_version(models, "external", save_external)
    for name in BAD:
        spoil(models, name)
    (models / "tiny" / "unread").mkdir()
    (models / "tiny" / "unread" / "version.toml").write_text("digest =")
    running = FolderStack(tmp_path)
    try:
        yield running
    finally:
        running.run("down")


@pytest.mark.timeout(900)
def test_the_rest_is_served_and_each_bad_version_is_named_everywhere(stack: FolderStack) -> None:
    started = stack.run("up", "--detach")
    assert started.returncode == 0, started.stdout + started.stderr
    assert "ready with 2 of 6 versions" in started.stdout
    status, doctor = stack.run("status"), stack.run("doctor")
    code, listed = stack.call("/v1/models")
    assert code == 200
    assert {entry["version"] for entry in listed["unusable"]} == {*BAD, "unread"}
    for name in (*BAD, "unread"):
        assert f"not served tiny {name}: " in started.stdout
        assert f"not served tiny {name}: " in status.stdout
        assert f"tiny {name}: " in doctor.stdout
    assert (status.returncode, doctor.returncode) == (1, 1)
    assert "✓ predict tiny external" in doctor.stdout
    assert stack.call("/v1/models/predict", {"instances": [[1, 2, 3]]})[0] == 200
    code, refused = stack.call("/v1/models/predict", {"instances": [[1, 2, 3]], "version": "unread"})
    assert (code, refused["code"]) == (503, "unusable_version")
    code, refused = stack.call("/v1/traffic-split", {"model": "tiny", "weights": {"v1": 1, "nan": 1}})
    assert code == 422
    assert "finite" in refused["detail"]
