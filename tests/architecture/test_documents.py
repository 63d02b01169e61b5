"""What the documents point at exists: files named in links and in code spans, and anchors of no other page."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
DOCUMENTS = sorted(
    [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md"), *REPOSITORY.glob("*/README.md")],
    key=str,
)
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
# A path of this repository in a code span: it begins with one of our folders and ends in a file's suffix.
FOLDERS = (
    "client|inferlane|control_plane|producer_api|router|workers|webhook_sender|models|tests|docs|k8s|dashboards|scripts"
    "|benchmarks"
)
NAMED = re.compile(rf"`((?:{FOLDERS})/[\w./-]+\.\w+)`")


@pytest.mark.parametrize("document", DOCUMENTS, ids=[str(path.relative_to(REPOSITORY)) for path in DOCUMENTS])
def test_every_file_that_a_document_names_exists(document: Path) -> None:
    text = document.read_text()
    linked = [document.parent / target for target in LINK.findall(text) if "://" not in target]
    named = [REPOSITORY / target for target in NAMED.findall(text)]
    missing = [str(path) for path in [*linked, *named] if not path.exists()]
    assert not missing


DECISIONS = sorted((REPOSITORY / "docs" / "adr").glob("[0-9]*.md"))


@pytest.mark.parametrize("record", DECISIONS, ids=[path.stem for path in DECISIONS])
def test_every_decision_has_its_number_its_date_and_a_line_in_the_index(record: Path) -> None:
    heading, empty, status = record.read_text().splitlines()[:3]
    number, title = record.name[:4], heading[8:]
    assert heading.startswith(f"# {number}: ")
    assert not empty
    assert re.match(r"Accepted on \d{4}-\d\d-\d\d\.", status)
    assert f"- [{number}]({record.name}): {title}" in (record.parent / "README.md").read_text().splitlines()


@pytest.mark.parametrize("record", DECISIONS, ids=[path.stem for path in DECISIONS])
def test_a_decision_that_extends_another_is_named_there(record: Path) -> None:
    status = record.read_text().splitlines()[2]
    for other in LINK.findall(status.partition("Extends")[2].partition(".md).")[0] + ".md)"):
        assert f"]({record.name})" in (record.parent / other).read_text().splitlines()[2]
