"""The faults of our tables on stock nnU-Net and on this product, in one run, as a table.

Every row spoils a copy of a small data set, plan or model and calls both programs; what is written
down is what the commands did: exit status, form of the message, whether the case is named, what is
left. Rows that are done are kept: the same command goes on where it was stopped.

Run: python tests/faults/compare_with_nnunet.py --work DIR [--rows I01 C04 ...] [--table]

The table goes to docs/reference/faults_compared.md; ``--table`` writes it from what is there.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import traceback
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
import _warm
from _data_rows import data_rows, prediction_rows
from _operation_rows import operation_rows
from _security_rows import security_rows
from _trial import OURS, STOCK, Trial

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reference" / "faults_compared.md"
PARTS = {
    "Data sets": data_rows(),
    "Images to predict": prediction_rows(),
    "Crashes and operation": operation_rows(),
    "Hostile files": security_rows(),
}
HEAD = """# Faults: nnU-Net and GraphNN-UNet side by side

Each row is one fault in a small data set, plan or model; what the commands did was written down by
`python tests/faults/compare_with_nnunet.py --work DIR`, with nnunetv2 {version}, on a CPU.
"Verified" is `nnUNetv2_plan_and_preprocess --verify_dataset_integrity`, which is off by default.
"Named" is whether the case, the file or the word that the reader needs is in the output;
Where ours ends with status 0 and says nothing (C02, C15, C16, C21), what was lost or broken is made
again, and the result is whole.
"""
NOT_RUN = "not run"
HARMLESS = {"I32", "I34", "I43", "I52"}
"""Nothing is wrong: a data set that is as it should be."""
RECOVERED = {"C02", "C15", "C16", "C21"}
"""What was lost or broken is made again; the other program loses it without a word, or hangs."""
KINDS = {
    "stops with status 2 or 3, a line for each fault, and names it": (
        r"exit [23], \d+ lines?, (?!.* not named)"
    ),
    "shows a traceback": "traceback",
    "ends with status 0 and says nothing": "exit 0, nothing said",
    "hangs": "hangs",
    "runs code of a file": r"\*\*code ran",
}
"""What a row is counted as, and the words of its cell; a row of several commands as several."""


def summary(seen: dict[str, dict[str, str]]) -> list[str]:
    """How many rows went which way, as a table."""
    names = [STOCK.name, OURS.name]
    rows = [row for code, row in seen.items() if code not in HARMLESS and set(names) <= set(row)]
    lines = [f"| of {len(rows)} faults tried on both | {' | '.join(names)} |", "|---|---|---|"]
    for kind, words in KINDS.items():
        counts = [sum(bool(re.search(words, row[name])) for row in rows) for name in names]
        lines.append(f"| {kind} | {counts[0]} | {counts[1]} |")
    return [*lines, ""]


def table(seen: dict[str, dict[str, str]]) -> str:
    """The page."""
    lines = [HEAD.format(version=version("nnunetv2")), *summary(seen)]
    for part, rows in PARTS.items():
        lines += [
            f"## {part}\n",
            f"| row | fault | {STOCK.name} | {OURS.name} |",
            "|---|---|---|---|",
        ]
        for code, (title, _run) in rows.items():
            cells = [seen.get(code, {}).get(side.name, NOT_RUN) for side in (STOCK, OURS)]
            lines.append(f"| {' | '.join((code, title, *cells))} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Run the rows that are missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rows", nargs="+", default=[])
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":  # libraries read it when they are loaded
        os.execve(sys.executable, sys.orig_argv, {**os.environ, "OMP_NUM_THREADS": "1"})
    work = arguments.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    record = work / "seen.json"
    seen = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    rows = {code: row for part in PARTS.values() for code, row in part.items()}
    if not arguments.table:
        _warm.load()
    for code in [] if arguments.table else (arguments.rows or rows):
        for program in (STOCK, OURS):
            if program.name in seen.get(code, {}) and not arguments.rows:
                continue
            folder = work / "trial"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            try:
                text = rows[code][1](Trial(program, folder, work / "bases"))
            except Exception:  # noqa: BLE001  # the row stays "not run"; the others are run
                print(f"{code} {program.name}: the trial broke\n{traceback.format_exc()}")
                continue
            seen.setdefault(code, {})[program.name] = text
            print(f"{code} {program.name}: {text}", flush=True)
            record.write_text(json.dumps(seen, indent=1))
    PAGE.write_text(table(seen), encoding="utf-8")


if __name__ == "__main__":
    main()
