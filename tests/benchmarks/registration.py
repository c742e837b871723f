"""How good labels arrive through registration: Dice of a link, and of the vote of four scans.

Labeled scans of a draw are registered to some of the other training scans, whose label maps score
them and nothing else.

Run: python tests/benchmarks/registration.py OUT [--draw 1] [--scans 8] [--rows NAME ...]

OUT is that of ``hippocampus.sh``. Links are kept in OUT/links, so the same command goes on. The
table goes to docs/results/registration.csv.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from _grid import ROOT

COLUMNS = ("row", "link", "vote", "scans")
ROWS: dict[str, tuple[dict[str, float], dict[str, float]]] = {
    "default": ({}, {}),
    "field smoothed by 1.5 voxels": ({"field_sigma": 1.5}, {}),
    "field smoothed by 2 voxels": ({"field_sigma": 2.0}, {}),
    "twice the demons steps": ({"smooth_iterations": 80, "fine_iterations": 60}, {}),
    "affine alone": ({"smooth_iterations": 0, "fine_iterations": 0}, {}),
    "ends of links alone": ({}, {"search": 0}),
    "ends alone, majority (weights of 1)": ({}, {"search": 0, "power": 0.0}),
    "ends alone, local correlation to the power of 8": ({}, {"search": 0, "power": 8.0}),
    "ends alone, local correlation over 7³ voxels": ({}, {"search": 0, "radius": 3}),
    "ends within 2 voxels": ({}, {"search": 2}),
    "patches of 5³ voxels": ({}, {"patch": 2}),
    "bandwidth 1": ({}, {"bandwidth": 1.0}),
    "bandwidth 4": ({}, {"bandwidth": 4.0}),
    "links that return within 1.5 voxels": ({}, {"return_tolerance": 1.5}),
}
"""Row to what differs: in the registration, in the vote."""


def dice(share: np.ndarray, label: np.ndarray) -> float:
    """Mean over the foreground classes of a label map."""
    predicted = share.argmax(0)
    values = []
    for number in range(1, len(share)):
        ours, true = predicted == number, label == number
        values.append(2 * (ours & true).sum() / (ours.sum() + true.sum()))
    return float(np.mean(values))


def main() -> None:
    """Score the rows that are missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "results")
    parser.add_argument("--draw", type=int, default=1)
    parser.add_argument("--scans", type=int, default=8)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    arguments = parser.parse_args()
    home = arguments.out.absolute() / "home"
    for folder in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{folder}"] = str(home / folder)
    from graphnn_unet.data.run_cases import select_cases
    from graphnn_unet.scan_graph.fields import Fields
    from graphnn_unet.scan_graph.registration import RegistrationSettings
    from graphnn_unet.scan_graph.votes import ScanGraphSettings, Voters, vote_through
    from graphnn_unet.storage.atomic import write_csv
    from graphnn_unet.storage.csv_cells import read_csv

    (folder,) = (home / "preprocessed").glob("Dataset*_Hippocampus")
    cases = select_cases(folder, "gnnunetPlans_3d_fullres", n_labeled=4, draw=arguments.draw,
                         fold="all", development=60)  # fmt: skip
    others = cases.unlabeled[:: max(1, len(cases.unlabeled) // arguments.scans)]
    others = [replace(case, use_label=True) for case in others[: arguments.scans]]
    table = arguments.results / "registration.csv"
    done = read_csv(table) if table.is_file() else []
    for name in arguments.rows:
        if any(row["row"] == name for row in done):
            continue
        registration, vote = ROWS[name]
        settings = ScanGraphSettings(**vote)
        fields = Fields(
            arguments.out / "links", (1.0, 1.0, 1.0), RegistrationSettings(**registration)
        )
        voters = Voters(fields, cases.labeled, 3, settings)
        fields.ensure(voters.links(others))
        single: list[float] = []
        together: list[float] = []
        for scan in others:
            label = np.asarray(scan.label()[0])
            together.append(dice(voters.vote_on(scan).share, label))
            for voter in cases.labeled:
                alone = vote_through(scan, [voter], voters._field, 3, settings)
                single.append(dice(alone.share, label))
        cells = [f"{100 * np.mean(values):.1f}" for values in (single, together)]
        done.append(dict(zip(COLUMNS, [name, *cells, str(len(others))], strict=True)))
        write_csv(table, done, COLUMNS)
        print(name, *cells, flush=True)


if __name__ == "__main__":
    main()
