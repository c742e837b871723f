"""Words of the code: American spelling, and names that say a quantity."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
SOURCES = sorted(
    path
    for folder in ("graphnn_unet", "dataset_conversion", "plans")
    for ending in ("*.py", "*.toml")
    for path in (REPOSITORY / folder).rglob(ending)
)

VAGUE_NAMES = {"found", "one", "own", "made"}
"""They cannot be searched for and say nothing of the value."""

_VERBS = (
    "binar|capital|categor|character|custom|discret|emphas|equal|factor|final|general|initial|"
    "linear|local|maxim|minim|normal|optim|organ|parallel|penal|polar|prior|quant|random|real|"
    "recogn|regular|serial|special|standard|summar|symmetr|synchron|token|util|vector|visual"
)
OTHER_WORDS = re.compile(
    rf"(?:{_VERBS})is(?:e|ed|es|er|ers|ing|ation|ations)(?![a-z])|analys(?:e|ed|ing)(?![a-z])"
    r"|(?:label|model|cancel)l(?:ed|ing)|centr(?:e|ed|es|ing)(?![a-z])"
    r"|neighbour|colour|behaviour|favour|tumour|grey|licence|catalogue|artefact"
    r"|(?<![a-z])mend(?:s|ed|ing)?(?![a-z])|defect of ours",
    re.IGNORECASE,
)
"""British spellings, and words that have a plainer one (fix, bug)."""

VALUES = (
    '"braintumour"',  # a task of the Decathlon
    '"centred"', "``centred``",  # graph.features and the argument rows
    '"licence"',  # JSON key of the Decathlon and of gnnunet.json
    '"neighbours"',  # column of predictions.csv
    '"tumour"',  # name of a class, which has a code of SNOMED CT
    '"normalised CT"',  # channel name, which chooses nnU-Net's normalization
)  # fmt: skip
"""Spellings that stay: values in files of users and of other programs."""


def other_words(text: str) -> list[str]:
    for value in VALUES:
        text = text.replace(value, "")
    return [match[0] for match in OTHER_WORDS.finditer(text)]


def names_given(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of all variables, arguments, attributes, functions and classes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.ExceptHandler | ast.alias):
            name = node.name if isinstance(node, ast.ExceptHandler) else node.asname
            if name:
                yield node.lineno, name


def vague_names(source: str) -> list[str]:
    return [
        f"{line}: {name}"
        for line, name in names_given(ast.parse(source))
        if name.strip("_") in VAGUE_NAMES
    ]


def test_all_rooms_are_read():
    assert {path.suffix for path in SOURCES} == {".py", ".toml"}
    assert len(SOURCES) > 100


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_words_are_american_and_names_say_a_quantity(path: Path):
    text = path.read_text(encoding="utf-8")
    assert other_words(text) == []
    if path.suffix == ".py":
        assert vague_names(text) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("the optimiser of unlabelled cases", ["optimiser", "labelled"]),
        ("normalise_rows(grey)", ["normalise", "grey"]),
        ("centre, centred", ["centre", "centred"]),
        ('rows="centred", row["neighbours"]', []),
        ("realistic precise organism; recommends central", []),
        ("Mend the header: a defect of ours", ["Mend", "defect of ours"]),
    ],
)
def test_spellings_are_seen(text: str, words: list[str]):
    assert other_words(text) == words


@pytest.mark.parametrize(
    "source",
    [
        "found = 1", "for one in x: pass", "def f(own): pass", "x.made = 1", "[one for one in x]",
        "with a() as made: pass", "(found := 1)", "import a as own", "def _made(): pass",
        "lambda *found: 0",
    ],
)  # fmt: skip
def test_vague_names_are_seen(source: str):
    assert len(vague_names(source)) == 1
    assert vague_names("founders, once = x.found, y[one]") == []
