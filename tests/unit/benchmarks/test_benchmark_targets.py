"""The table of targets says what the kept results say."""

from pathlib import Path

from benchmarks.targets import read_targets, targets_to_markdown

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


def test_the_first_page_shows_the_targets_as_the_kept_results_have_them() -> None:
    table = targets_to_markdown(read_targets(BENCHMARKS / "results"))
    assert table in (BENCHMARKS / "README.md").read_text(encoding="utf-8")


def test_what_was_not_measured_is_not_met(tmp_path: Path) -> None:
    targets = read_targets(tmp_path)
    assert targets
    assert not any(target.is_met for target in targets)
