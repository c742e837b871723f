"""What is deprecated warns at its caller's line, raises from its end on, and is gone in time."""

import ast
import importlib
from linecache import getline

import pytest
from test_floors import TREES, imported

from graphnn_unet import _version
from graphnn_unet.deprecation import (
    DEPRECATIONS,
    ExpiredError,
    deprecated,
    deprecated_name,
    release,
)


@pytest.fixture(autouse=True)
def registry():
    """All that the program declares; what a test declares is forgotten after it."""
    for name, tree in TREES.items():
        if "graphnn_unet.deprecation" in set(imported(tree)):
            importlib.import_module(name)
    declared = list(DEPRECATIONS)
    yield
    DEPRECATIONS[:] = declared


def overdue() -> set[str]:
    """Deprecated names of the whole program that have come to their end."""
    return {old.name for old in DEPRECATIONS if old.is_over}


def test_no_deprecation_is_overdue():
    """Remove the old name, or give it a later end if it has a reason to stay."""
    assert overdue() == set()


def test_names_of_all_modules_are_seen_once_they_are_overdue(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_version, "__version__", "0.3")
    assert "column hd95_mm" in overdue()


def test_deprecations_are_declared_where_modules_are_imported():
    """One that is declared inside a function would not be seen by the test above."""
    for name, tree in TREES.items():
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef) and name != "graphnn_unet.deprecation":
                names = {getattr(node, "id", "") for node in ast.walk(function)}
                assert "deprecated_name" not in names, f"{name}, {function.name}"


def test_function_warns_at_the_line_of_its_caller():
    @deprecated(since="0.1", removed="99.0", use="new()")
    def old(value: int, *, factor: int = 1) -> int:
        """Multiply."""
        return value * factor

    message = r"old\(\) is deprecated since 0\.1 and ends with 99\.0\. Use new\(\)\."
    with pytest.warns(FutureWarning, match=message) as caught:
        assert old(2, factor=3) == 6
    assert old.__doc__ == "Multiply."
    assert caught[0].filename == __file__
    assert "old(2, factor=3)" in getline(__file__, caught[0].lineno)


def test_name_warns_at_the_line_of_the_function_that_meets_it():
    old = deprecated_name("column a_mm", since="0.1", removed="99.0", use="a")

    def read() -> None:
        old.warn("x.csv")

    with pytest.warns(FutureWarning, match=r"column a_mm in x\.csv is deprecated") as caught:
        read()
    assert caught[0].filename == __file__
    assert getline(__file__, caught[0].lineno).strip() == "read()"


@pytest.mark.parametrize("version", ["0.3", "0.3.0", "0.3.0rc1", "0.3.1", "0.10", "1"])
def test_what_has_ended_raises(monkeypatch: pytest.MonkeyPatch, version: str):
    called = []

    @deprecated(since="0.1", removed="0.3", use="new()")
    def old() -> None:
        called.append(1)

    monkeypatch.setattr(_version, "__version__", version)
    with pytest.raises(ExpiredError, match=r"old\(\) ended with version 0\.3\. Use new\(\)\."):
        old()
    assert not called
    assert DEPRECATIONS[-1].is_over


@pytest.mark.parametrize("version", ["0.1.0", "0.2.9", "0.2.10.dev3", "0.0.30"])
def test_what_has_not_ended_only_warns(monkeypatch: pytest.MonkeyPatch, version: str):
    monkeypatch.setattr(_version, "__version__", version)
    old = deprecated_name("flag --x", since="0.1", removed="0.3", use="--y")
    assert not old.is_over
    with pytest.warns(FutureWarning):
        old.warn()


def test_versions_are_compared_by_number():
    assert release("0.9") < release("0.10")
    assert release("1.0.0") == release("1")
    assert release("2.0+local.7") == (2,)
