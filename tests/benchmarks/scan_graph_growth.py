"""How the graph of scans grows: links, similarities and votes of many small scans.

Run: python tests/benchmarks/scan_graph_growth.py [--scans 125 250 500 1000] [--neighbors 3]

Every tenth scan is labeled. Prints CPU seconds, files on disk and the largest memory of the process
after each size; registrations are short, as only growth is asked for.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "scan_graph"))
from scans import SHAPE, bent, body

from graphnn_unet.progress import set_quiet
from graphnn_unet.scan_graph.fields import Fields
from graphnn_unet.scan_graph.registration import RegistrationSettings
from graphnn_unet.scan_graph.votes import ScanGraphSettings, StoredVotes, Voters

SHORT = RegistrationSettings(affine_iterations=5, smooth_iterations=5, fine_iterations=5)


def measure(n_scans: int, n_neighbors: int, folder: Path) -> list[str]:
    """Cells of a row."""
    rng = np.random.default_rng(0)
    scans = [
        body(n, place=bent(amount=1.0, phase=rng.uniform(0, 2 * np.pi)), with_label=n % 10 == 0)
        for n in range(n_scans)
    ]
    labeled, unlabeled = scans[::10], [scan for n, scan in enumerate(scans) if n % 10]
    settings = ScanGraphSettings(neighbors=n_neighbors)
    voters = Voters(Fields(folder, (1.0, 1.0, 1.0), SHORT), labeled, 3, settings)
    seconds = [time.process_time()]
    voters = voters.chosen_for(unlabeled)
    seconds.append(time.process_time())
    links = voters.links(unlabeled)
    voters.fields.ensure(links)
    seconds.append(time.process_time())
    StoredVotes(voters).ensure(unlabeled)
    seconds.append(time.process_time())
    megabytes = sum(path.stat().st_size for path in folder.rglob("*.b2nd")) / 2**20
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    parts = [f"{value:.1f}" for value in np.diff(seconds)]
    return [str(n_scans), str(len(links)), *parts, f"{megabytes:.0f}", f"{memory:.0f}"]


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scans", nargs="+", type=int, default=[125, 250, 500, 1000])
    parser.add_argument("--neighbors", type=int, default=3)
    arguments = parser.parse_args()
    set_quiet(True)
    print(f"scans of {'x'.join(map(str, SHAPE))} voxels, {arguments.neighbors} neighbors each\n")
    print("| scans | links | similarities s | links s | votes s | disk MB | memory MB |")
    print("|---|---|---|---|---|---|---|")
    for n_scans in sorted(arguments.scans):
        with tempfile.TemporaryDirectory() as folder:
            print(
                f"| {' | '.join(measure(n_scans, arguments.neighbors, Path(folder)))} |", flush=True
            )


if __name__ == "__main__":
    main()
