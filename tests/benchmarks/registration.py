"""How good labels arrive through registration: Dice of a link, and of the vote of four scans.

Labeled scans of a draw are registered to some of the other training scans, whose label maps score
them and nothing else. The last column blends the vote half and half with a trained network, the
teacher of the row ``BCPTrainer`` of ``hippocampus.sh``; what it makes of a scan can also be the
image that is registered.

Run: python tests/benchmarks/registration.py OUT [--draw 1] [--scans 8] [--rows NAME ...]

OUT is that of ``hippocampus.sh``. Links are kept in OUT/links, so the same command goes on. The
table goes to docs/results/registration.csv.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from pseudo_labels import load_trainer

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = ("row", "link", "vote", "blended", "scans")
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

IMAGES = {
    "registered: probability of the foreground": (0.0, 1.0, 0.0),
    "registered: intensities + probability of the foreground": (1.0, 1.0, 0.0),
    "registered: first component of the decoder's features": (0.0, 0.0, 1.0),
    "registered: intensities + half of that component": (1.0, 0.0, 0.5),
}
"""Row to the parts of intensities, foreground and features in the image that is registered."""


@dataclass
class Network:
    """A trained network, which has seen the label maps of the labeled scans alone."""

    trainer: Any

    def __post_init__(self) -> None:
        self.module = self.trainer.teacher.network.eval()
        self._known: dict[str, np.ndarray] = {}

    def probabilities(self, scan: Any) -> np.ndarray:
        """Of the classes at each voxel, ``(k, z, y, x)``."""
        from graphnn_unet.networks.hook import one_output

        if scan.case_id not in self._known:
            image = torch.from_numpy(np.asarray(scan.image()[:], dtype=np.float32))
            with one_output(self.module), torch.no_grad():
                logits = self.trainer.predictor_of(self.module, mirroring=False).logits(image)
            self._known[scan.case_id] = logits.float().softmax(0).numpy()
        return self._known[scan.case_id]

    def features(self, scan: Any) -> np.ndarray:
        """Of the decoder before its head, ``(c, z, y, x)``."""
        from graphnn_unet.networks.features import Tap, collect_features

        image = torch.from_numpy(np.asarray(scan.image()[:], dtype=np.float32))[None]
        shape = image.shape[2:]
        missing = [part for length in reversed(shape) for part in (0, -length % 16)]
        tap = Tap("decoder", 0)
        with torch.no_grad(), collect_features(self.module, [tap]) as features:
            self.module(torch.nn.functional.pad(image, missing))
        return features[tap][0][(slice(None), *map(slice, shape))].float().numpy()

    @cached_property
    def axis(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and first component of the features of the labeled scans."""
        features = [self.features(scan) for scan in self.labeled]
        rows = np.concatenate([each.reshape(len(each), -1).T for each in features])
        mean = rows.mean(0)
        values, vectors = np.linalg.eigh(np.cov((rows - mean).T))
        return mean, vectors[:, values.argmax()]

    @property
    def labeled(self) -> Any:
        """The scans that it learned from."""
        return self.trainer.cases.labeled

    def image(self, scan: Any, parts: tuple[float, float, float]) -> np.ndarray:
        """A mixture of intensities, foreground and features, each between 0 and 1."""
        from graphnn_unet.scan_graph.scan import clipped, intensities

        mixed = parts[0] * intensities(scan) + parts[1] * (1 - self.probabilities(scan)[0])
        if parts[2]:
            mean, direction = self.axis
            projected = np.tensordot(direction, self.features(scan) - mean.reshape(-1, 1, 1, 1), 1)
            mixed = mixed + parts[2] * clipped(projected.astype(np.float32))
        return mixed.astype(np.float32)


@dataclass(frozen=True)
class Seen:
    """A scan as registration sees it."""

    case_id: str
    volume: np.ndarray

    def image(self) -> np.ndarray:
        """``(1, z, y, x)``."""
        return self.volume[None]

    def label(self) -> np.ndarray:
        """There is none."""
        raise PermissionError("registration sees no label map")


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
    rows = [*ROWS, *IMAGES]
    parser.add_argument("--rows", nargs="+", default=rows, choices=rows)
    arguments = parser.parse_args()
    home = arguments.out.absolute() / "home"
    for folder in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{folder}"] = str(home / folder)
    from graphnn_unet.scan_graph.fields import Fields, Link
    from graphnn_unet.scan_graph.registration import RegistrationSettings
    from graphnn_unet.scan_graph.votes import ScanGraphSettings, links_of, vote_through
    from graphnn_unet.storage.atomic import write_csv
    from graphnn_unet.storage.csv_cells import read_csv

    network = Network(load_trainer(arguments.out, arguments.draw, "", []))
    cases = network.trainer.cases
    others = cases.unlabeled[:: max(1, len(cases.unlabeled) // arguments.scans)]
    others = [replace(case, use_label=True) for case in others[: arguments.scans]]
    table = arguments.results / "registration.csv"
    done = read_csv(table) if table.is_file() else []
    for name in arguments.rows:
        if any(row["row"] == name for row in done):
            continue
        registration, vote = ROWS.get(name, ({}, {}))
        settings = ScanGraphSettings(**vote)
        fields = Fields(
            arguments.out / "links", (1.0, 1.0, 1.0), RegistrationSettings(**registration)
        )
        seen = {scan.case_id: scan for scan in (*cases.labeled, *others)}
        if name in IMAGES:
            for scan in list(seen.values()):
                seen[scan.case_id] = Seen(scan.case_id, network.image(scan, IMAGES[name]))

        def as_seen(link: Link, seen: dict[str, Any] = seen) -> Link:
            return Link(seen[link.fixed.case_id], seen[link.moving.case_id])

        def field_of(link: Link, fields: Fields = fields, as_seen: Callable = as_seen) -> Any:
            return fields.load(as_seen(link))

        fields.ensure([
            as_seen(link) for scan in others
            for link in links_of(scan, cases.labeled, with_return=settings.return_tolerance > 0)
        ])  # fmt: skip
        scores: list[list[float]] = [[], [], []]
        for scan in others:
            label = np.asarray(scan.label()[0])
            together = vote_through(scan, cases.labeled, field_of, 3, settings)
            scores[1].append(dice(together.share, label))
            scores[2].append(dice(together.share + network.probabilities(scan), label))
            for voter in cases.labeled:
                alone = vote_through(scan, [voter], field_of, 3, settings)
                scores[0].append(dice(alone.share, label))
        cells = [f"{100 * np.mean(values):.1f}" for values in scores]
        done.append(dict(zip(COLUMNS, [name, *cells, str(len(others))], strict=True)))
        write_csv(table, done, COLUMNS)
        print(name, *cells, flush=True)


if __name__ == "__main__":
    main()
