"""Reference pages are made from the code and up to date; every fault code is registered."""

import ast
import re
import runpy

import pytest
from tiny_study import REPOSITORY

from graphnn_unet.fault_codes import FAULT_CODES

TOOLS = runpy.run_path(str(REPOSITORY / "docs" / "make_reference.py"))
CODE = re.compile(r"[ICST]\d\d[a-z]?")


@pytest.mark.parametrize("name", TOOLS["PAGES"])
def test_reference_pages_are_up_to_date(name: str):
    text = (TOOLS["FOLDER"] / name).read_text(encoding="utf-8")
    assert text == TOOLS["NOTE"] + TOOLS["PAGES"][name](), "run: python docs/make_reference.py"


def test_every_command_and_code_is_on_its_page():
    page = (TOOLS["FOLDER"] / "commands.md").read_text(encoding="utf-8")
    for name in ("cluster", "convert", "evaluate", "predict", "train"):
        assert f"\n## gnnunet_{name}\n" in page
    assert "| `--labels, --masks DIR` |" in page
    assert page.count("`--quiet`") == 1
    page = (TOOLS["FOLDER"] / "fault_codes.md").read_text(encoding="utf-8")
    assert all(f"| `{code}` | {meaning} |" in page for code, meaning in FAULT_CODES.items())


def test_every_fault_code_is_registered_and_every_registered_one_is_used():
    used = set()
    for root in ("graphnn_unet", "dataset_conversion", "plans"):
        for path in (REPOSITORY / root).rglob("*.py"):
            if path.name != "fault_codes.py":
                for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                    if isinstance(node, ast.Constant) and CODE.fullmatch(str(node.value)):
                        used.add(node.value)
                    if isinstance(node, ast.Call) and ast.unparse(node.func) == "Fault":
                        used |= {constant(k.value) for k in node.keywords if k.arg == "code"}
    assert used - {""} == set(FAULT_CODES)


def constant(node: ast.expr) -> str:
    """A literal text; empty for a variable, whose value is a literal elsewhere."""
    return node.value if isinstance(node, ast.Constant) else ""


def test_codes_are_sorted_by_kind_and_number():
    kinds = "ISTC"
    assert list(FAULT_CODES) == sorted(FAULT_CODES, key=lambda code: (kinds.index(code[0]), code))
