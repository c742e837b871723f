"""Pages are short, linked without gaps, of one version and in American English."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_study import REPOSITORY

from graphnn_unet._version import __version__

DOCS = REPOSITORY / "docs"
PAGES = [*sorted(REPOSITORY.glob("*.md")), *sorted(DOCS.rglob("*.md"))]
README_WORDS = 750
LINK = re.compile(r"!?\[[^\]]*\]\(([^()\s]+)\)")
CODE = re.compile(r"```.*?```|^(?: {4}|\t).*$|`[^`\n]*`", re.DOTALL | re.MULTILINE)
BRITISH = re.compile(
    r"\b\w*(?:labell|neighbour|behaviour|colour|favour|tumour|modell(?:ed|ing)|learnt|"
    r"(?:normal|optim|initial|minim|maxim|regular|recogn|util|general)is(?:e|ing|ation|er)|"
    r"cent(?:re|red)\b|analyse|grey|catalogue|licence|programme\b|metre)\w*",
    re.IGNORECASE,
)
OWN_WORDS = re.compile(r"\bmend(?:s|ed|ing)?\b|defects? of ours", re.IGNORECASE)


def name_of(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


def prose(page: Path) -> str:
    """Text without code, links' addresses included."""
    return CODE.sub(" ", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """Anchors of the headings, as GitHub and mkdocs make them for plain words."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    plain = (re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings)
    return {re.sub(r"[\s]+", "-", heading) for heading in plain}


def relative_links(page: Path) -> Iterator[tuple[Path, str]]:
    """Target file and anchor of each link that is no address on the web."""
    for target in LINK.findall(prose(page)):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            yield (page.parent / path if path else page), anchor


def pages_of_site(text: str) -> list[str]:
    return re.findall(r"^[ \t]*- (?:[^:]+: )?(\S+\.md)$", text, flags=re.MULTILINE)


def test_readme_is_one_page():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= README_WORDS


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_lead_somewhere(page: Path):
    for target, anchor in relative_links(page):
        assert target.exists(), f"{name_of(page)}: no {target}"
        assert not anchor or anchor in anchors(target), f"{name_of(page)}: no #{anchor} in {target}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_spelling_is_american(page: Path):
    assert not BRITISH.findall(prose(page))
    assert not OWN_WORDS.findall(prose(page))


def test_site_shows_every_page_of_docs_once():
    shown = pages_of_site((REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(shown) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))


def test_changelog_begins_with_this_version():
    text = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[?(\d+\.\d+\.\d+)\]? - (\d{4}-\d{2}-\d{2})$", text, re.MULTILINE)
    assert newest
    assert newest[1] == __version__


def test_citation_names_this_version_its_date_and_papers():
    citation = (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
    values = dict(re.findall(r"^([a-z-]+): (.+)$", citation, flags=re.MULTILINE))
    assert values["cff-version"] == "1.2.0"
    assert values["version"] == __version__
    text = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## {__version__} - {values['date-released']}" in text
    references = citation.split("\n  - type: ")[1:]
    assert len(references) == 9
    for reference in references:
        assert "\n    authors:\n" in reference
        assert re.search(r"^    (doi: 10\.|url: https://arxiv\.org/abs/)", reference, re.MULTILINE)


@pytest.mark.parametrize(
    ("text", "is_british"),
    [
        ("labelled", True), ("unlabelled", True), ("normalised", True), ("optimiser", True),
        ("the centre", True), ("labeled", False), ("precise", False), ("exercise", False),
        ("percentile", False),
    ],
)  # fmt: skip
def test_british_words_are_known(text: str, is_british: bool):
    assert bool(BRITISH.search(text)) == is_british
