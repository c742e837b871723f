"""Figures in README and docs come from docs/results, not from fingers."""

import runpy

from tiny_study import REPOSITORY

SCRIPT = REPOSITORY / "docs" / "make_tables.py"


def test_tables_are_those_of_the_result_files():
    tools = runpy.run_path(str(SCRIPT))
    marked = 0
    for page in tools["PAGES"]:
        text = page.read_text(encoding="utf-8")
        for match in tools["MARK"].finditer(text):
            marked += 1
            assert match[0] == match[1] + tools["table"](match[2]) + match[3], page
    assert marked >= 1


def test_commands_in_the_readme_exist():
    import re
    from importlib.metadata import entry_points

    known = {p.name for p in entry_points(group="console_scripts")}
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\bgnnunet_[a-z_]+", text)) - {"gnnunet_demo/"}
    assert named
    assert named <= known
