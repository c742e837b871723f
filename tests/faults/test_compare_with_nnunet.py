"""The page that compares the faults has the rows of the script, and no answer that is none."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import compare_with_nnunet as comparison

ROW = re.compile(r"^\| ([A-Z]\d\d[a-z]?) \| (.+) \| (.+) \| (.+) \|$")
BAD = ("Traceback", "traceback", "hangs", "code ran**", "nothing said", "differ by")


def page_rows() -> dict[str, tuple[str, str, str]]:
    text = comparison.PAGE.read_text(encoding="utf-8")
    return {m[1]: (m[2], m[3], m[4]) for line in text.splitlines() if (m := ROW.match(line))}


def test_the_page_has_the_rows_of_the_script():
    wanted = {code: row[0] for part in comparison.PARTS.values() for code, row in part.items()}
    assert len(wanted) > 100
    assert {code: row[0] for code, row in page_rows().items()} == wanted


def test_the_table_of_what_was_seen_is_complete():
    seen = {"I01": {"nnU-Net": "exit 0, nothing said", "GraphNN-UNet": "exit 2, 1 line"}}
    lines = comparison.table(seen).splitlines()
    assert "| I01 | truncated `.nii.gz` | exit 0, nothing said | exit 2, 1 line |" in lines
    assert sum(line.endswith("| not run | not run |") for line in lines) == len(page_rows()) - 1


def test_rows_are_counted_by_what_was_done():
    refused = "exit 2, 1 line, case_001 named"
    seen = {
        "I01": {"nnU-Net": "exit 0, nothing said; verified: hangs", "GraphNN-UNet": refused},
        "I02": {"nnU-Net": "exit 1, traceback, case_001 not named", "GraphNN-UNet": refused},
        "S01": {
            "nnU-Net": "exit 0, nothing said; **code ran**",
            "GraphNN-UNet": "exit 2, 1 line, case_001 not named; no code ran",
        },
        "I03": {"GraphNN-UNet": refused},  # one of the two alone tells nothing
        "I32": {"nnU-Net": "exit 0, nothing said", "GraphNN-UNet": "exit 0, nothing said"},
    }
    head, _, *rows, _ = comparison.summary(seen)
    assert head.startswith("| of 3 faults")
    assert [row.split(" | ")[1:] for row in rows] == [
        ["0", "2 |"], ["1", "0 |"], ["2", "0 |"], ["1", "0 |"], ["1", "0 |"],
    ]  # fmt: skip


@pytest.mark.parametrize("code", sorted(page_rows()))
def test_no_fault_passes_unseen_in_this_program(code: str):
    seen = page_rows()[code][2]
    if code not in comparison.HARMLESS | comparison.RECOVERED:
        assert not [word for word in BAD if word in seen], seen
