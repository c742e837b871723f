"""Classification from few labels: the passes against supervised training and LabelSpreading.

    python tests/benchmarks/classification.py --measure --state DIR   (hours; goes on where it was)
    python tests/benchmarks/classification.py --state DIR [--json FILE] [--csv FILE]
    python tests/benchmarks/classification.py --only diffusion [--quick]

The first measures, the second makes the records and the table of results, the third times the
diffusion beside scikit-learn's at equal predictions and at 112 000 nodes.

Protocol of ``--measure``. Sets: WBC (classes 1 to 4; every image whose place in a shuffled list is
in the last 30 % is test) and ChestXray (its published parts). Test images never train; they are
nodes without label in the last graph alone. A draw takes a share of the training images of each
class, two at least, as labeled; the others are unlabeled. One network, one budget: ``supervised``
goes on for as many steps on labels as the dynamic pass makes, in the same way, with weight 0 for
what is not labeled. LabelSpreading works on the embeddings of the one-pass network with
scikit-learn's own kNN graph and the same number of neighbors and alpha. All settings are fixed
before any test image is looked at; they were chosen on unlabeled images of the training parts.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from _bench import REPEATS, Bench, arguments, peak_memory_mb

from graphnn_unet import graph
from graphnn_unet.classification.descriptors import DescriptorExtractor, joined
from graphnn_unet.classification.encoders import EmbeddingNetwork, SmallEncoder
from graphnn_unet.classification.fitting import Dataset, embed
from graphnn_unet.classification.images import ImageSet, Normalization, find_images, load_images
from graphnn_unet.classification.label_propagation import (
    build_graph,
    normalized,
    one_hot,
    propagate_labels,
)
from graphnn_unet.classification.learner import (
    DYNAMIC,
    GivenLabels,
    Learner,
    TrainingState,
)
from graphnn_unet.classification.settings import ClassifySettings
from graphnn_unet.classification.table import UNLABELED
from graphnn_unet.metrics.classification import score_classification
from graphnn_unet.progress import set_quiet
from graphnn_unet.storage.atomic import write_csv, write_json

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("GNNUNET_TEST_DATA", ROOT.parent / "shared" / "data"))
SHARES, DRAWS, MOST = (0.05, 0.10, 0.20), 20, 0.70
SETS = ("WBC", "ChestXray")
COLUMNS = (
    "set", "labeled_share", "n_labeled", "draw", "method", "n_test", "accuracy",
    "balanced_accuracy", "macro_f1", "auc", "calibration_error", "seconds",
)  # fmt: skip
BASE = ClassifySettings(image_size=64, max_epochs=40, rounds=10, validation_share=0.0)
PASSES: dict[str, dict[str, Any]] = {
    "p=2": {"p": 2}, "p=1": {"p": 1}, "p=2 without descriptors": {"p": 2, "descriptor_share": 0.0},
}  # fmt: skip
LINEAR_C = 30.0
TWICE = {"089", "090", "139", "171"}
"""Training images of WBC that show the cell of a test image (026, 060, 112, 166) once more, cut
out or scanned again; found by ``clustering.py agreement``."""
OF_SET = {"WBC": {"augmentation": "any-orientation"}, "ChestXray": {}}


@dataclass(frozen=True)
class Part:
    """One set, read once.

    Attributes:
        images: Training images first, then test images.
        n_training: How many of them are training images.
        truth: ``(n,)`` classes.
        names: Of the classes.
    """

    images: ImageSet
    n_training: int
    truth: Tensor
    names: tuple[str, ...]


def read_set(name: str) -> Part:
    folder = DATA / name
    with (folder / "classes.csv").open(newline="", encoding="utf-8") as file:
        classes = {row["case"]: row["class"] for row in csv.DictReader(file)}
    classes = {
        case: class_name for case, class_name in classes.items() if class_name != "basophil"
    }  # one image
    if name == "ChestXray":
        training = sorted((folder / "train.list").read_text(encoding="utf-8").split())
        test = sorted((folder / "test.list").read_text(encoding="utf-8").split())
    else:
        order = sorted(classes)
        random.Random(42).shuffle(order)
        cut = int(0.7 * len(order))
        training, test = sorted(set(order[:cut]) - TWICE), sorted(order[cut:])
    files = find_images(folder / "images")
    loaded = load_images({case: files[case] for case in (*training, *test)}, BASE.image_size)
    place = {case: row for row, case in enumerate(loaded.cases)}
    order = torch.tensor([place[case] for case in (*training, *test)])
    names = tuple(sorted(set(classes.values())))
    images = ImageSet((*training, *test), loaded.pixels[order])
    truth = torch.tensor([names.index(classes[case]) for case in images.cases])
    return Part(images, len(training), truth, names)


def draw_labels(part: Part, share: float, draw: int) -> Tensor:
    """``(n_training, 1)``: the classes of a share of each class, at least two."""
    generator = torch.Generator().manual_seed(draw)
    truth = part.truth[: part.n_training]
    code = torch.full((part.n_training, 1), UNLABELED)
    for number in range(len(part.names)):
        rows = (truth == number).nonzero().flatten()
        count = max(2, round(share * len(rows)))
        labeled_rows = rows[torch.randperm(len(rows), generator=generator)[:count]]
        code[labeled_rows] = number
    return code


class Draw:
    """All methods on one draw of labels."""

    def __init__(self, name: str, part: Part, share: float, draw: int):
        self.name, self.part, self.share, self.number = name, part, share, draw
        self.code = draw_labels(part, share, draw)
        self.settings = BASE.model_copy(update={"seed": draw, **OF_SET[name]})
        sizes, cpu = (len(part.names),), torch.device("cpu")
        training = ImageSet(
            part.images.cases[: part.n_training], part.images.pixels[: part.n_training]
        )
        scale = Normalization.of(training)
        extractor, description = DescriptorExtractor.learn(training, self.settings.augmentation)
        self.training = Dataset(training, scale, sizes, cpu, description)
        self.everything = Dataset(part.images, scale, sizes, cpu, extractor(part.images))
        self.split = GivenLabels(self.code, torch.full_like(self.code, UNLABELED))

    def rows(self) -> Iterator[dict[str, object]]:
        """One record a method."""
        start = time.monotonic()
        first = self._learner(self._new_network(), mode="one-pass")
        first.fit()
        trained = time.monotonic() - start
        begin = {key: value.clone() for key, value in first.mean.state_dict().items()}
        # as many steps as the dynamic pass makes, which goes once through the unlabeled images
        n_unlabeled = int((self.code < 0).sum())
        steps = max(self.settings.min_steps, -(-n_unlabeled // self.settings.batch_size))
        supervised = self._rounds(begin, a_max=0.0, min_steps=steps)
        yield self._network_row("supervised", supervised, trained)
        if self.share == MOST:
            return
        yield self._linear_row(supervised, trained)
        yield self._spreading_row(first.mean, trained)
        for shown, changes in PASSES.items():
            yield self._graph_row(f"one-pass {shown}", first.mean, changes, trained)
        for shown, changes in PASSES.items():
            dynamic = self._rounds(begin, **changes)
            yield self._graph_row(f"dynamic {shown}", dynamic, changes, trained)

    def _new_network(self) -> EmbeddingNetwork:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.number)
            encoder = SmallEncoder(self.part.images.pixels.shape[1], 2)
            width, classes = encoder.n_features, len(self.part.names)
            return EmbeddingNetwork(encoder, width, classes, self.settings.dropout)

    def _learner(self, network: EmbeddingNetwork, **changes: object) -> Learner:
        settings = self.settings.model_copy(update=changes)
        return Learner(network, self.training, self.split, settings)

    def _rounds(self, begin: dict[str, Tensor], **changes: object) -> EmbeddingNetwork:
        """The dynamic pass from given weights; ``a_max = 0`` is supervised training as long."""
        network = self._new_network()
        network.load_state_dict(begin)
        learner = self._learner(network, mode="dynamic", **changes)
        learner.training_state = TrainingState(phase=DYNAMIC)
        learner.fit()
        return learner.mean

    def _all_labels(self) -> Tensor:
        code = torch.full((len(self.part.truth), 1), UNLABELED)
        code[: self.part.n_training] = self.code
        return code

    def _graph_row(
        self, method: str, network: EmbeddingNetwork, changes: dict[str, Any], trained: float
    ) -> dict[str, object]:
        start = time.monotonic()
        settings = self.settings.model_copy(update=changes)
        feature, logits = self._rows_of_graph(network, settings)
        affinity = build_graph(feature, settings, self.part.images.cases)
        propagated = propagate_labels(affinity, self._all_labels(), self.everything.sizes, settings)
        reached = propagated.predicted >= 0  # the network decides elsewhere, as in the command
        probability = torch.where(reached, propagated.score, logits.double().softmax(dim=1))
        predicted = torch.where(reached[:, 0], propagated.predicted[:, 0], logits.argmax(dim=1))
        return self._row(method, predicted, probability, trained + time.monotonic() - start)

    def _rows_of_graph(
        self, network: EmbeddingNetwork, settings: ClassifySettings
    ) -> tuple[Tensor, Tensor]:
        feature, logits = embed(network, self.everything, settings)
        return joined(feature, self.everything.description, settings.descriptor_share), logits

    def _linear_row(self, network: EmbeddingNetwork, trained: float) -> dict[str, object]:
        """What the same features and descriptors give without unlabeled images."""
        from sklearn.linear_model import LogisticRegression

        feature, _ = self._rows_of_graph(network, self.settings)
        start = time.monotonic()
        known = (self.code[:, 0] >= 0).nonzero().flatten()
        theirs = LogisticRegression(C=LINEAR_C, class_weight="balanced", max_iter=1000)
        theirs.fit(feature[known].numpy(), self.code[known, 0].numpy())
        probability = torch.from_numpy(theirs.predict_proba(feature.numpy()))
        seconds = trained + time.monotonic() - start
        return self._row("logistic regression", probability.argmax(dim=1), probability, seconds)

    def _network_row(
        self, method: str, network: EmbeddingNetwork, trained: float
    ) -> dict[str, object]:
        _, logits = embed(network, self.everything, self.settings)
        probability = logits.double().softmax(dim=1)
        return self._row(method, probability.argmax(dim=1), probability, trained)

    def _spreading_row(self, network: EmbeddingNetwork, trained: float) -> dict[str, object]:
        from sklearn.semi_supervised import LabelSpreading

        feature, _ = self._rows_of_graph(network, self.settings)
        start = time.monotonic()
        theirs = LabelSpreading(
            kernel="knn", n_neighbors=self.settings.neighbors(len(feature)),
            alpha=self.settings.alpha, max_iter=2000,
        ).fit(feature.numpy(), self._all_labels()[:, 0].numpy())  # fmt: skip
        probability = torch.from_numpy(np.nan_to_num(theirs.label_distributions_))
        probability = normalized(probability, self.everything.sizes)
        seconds = trained + time.monotonic() - start
        return self._row("LabelSpreading", probability.argmax(dim=1), probability, seconds)

    def _row(
        self, method: str, predicted: Tensor, probability: Tensor, seconds: float
    ) -> dict[str, object]:
        test = slice(self.part.n_training, None)
        score = score_classification(
            self.part.truth[test].numpy(), predicted[test].numpy(), probability[test].numpy(),
            self.part.names,
        )  # fmt: skip
        return {
            "set": self.name, "labeled_share": self.share,
            "n_labeled": int((self.code >= 0).sum()), "draw": self.number, "method": method,
            "n_test": score.n, "accuracy": f"{score.accuracy:.6f}",
            "balanced_accuracy": f"{score.balanced_accuracy:.6f}",
            "macro_f1": f"{score.macro_f1:.6f}", "auc": f"{score.auc:.6f}",
            "calibration_error": f"{score.calibration_error:.6f}", "seconds": f"{seconds:.1f}",
        }  # fmt: skip


def jobs() -> Iterator[tuple[str, float, int]]:
    """Draws in the order in which they are worth having."""
    for draw in range(DRAWS):
        for share in (0.20, 0.10, 0.05, MOST):
            for name in SETS:
                yield name, share, draw


def measure(state: Path, part: int, n_parts: int) -> None:
    """Do what is not done yet, one file a draw, each ``n_parts``-th of them."""
    set_quiet(True)
    torch.set_num_threads(1)
    parts = {name: read_set(name) for name in SETS}
    for name, share, draw in islice(jobs(), part, None, n_parts):
        file = state / f"{name}_{round(100 * share)}_{draw}.json"
        if not file.is_file():
            rows = list(Draw(name, parts[name], share, draw).rows())
            write_json(file, rows)
            shown = ", ".join(f"{row['method']} {float(str(row['accuracy'])):.3f}" for row in rows)
            print(f"{file.stem}: {shown}", flush=True)


def collected(state: Path) -> list[dict[str, object]]:
    """All rows that are there, in a fixed order."""
    rows = [
        row
        for file in sorted(state.glob("*.json"))
        for row in json.loads(file.read_text(encoding="utf-8"))
    ]
    return sorted(rows, key=lambda r: (SETS.index(r["set"]), r["labeled_share"], r["draw"]))


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of a mean of paired differences of draws, by Student's t.

    It says what other draws would give on the same test images, which are fixed.
    """
    from scipy import stats

    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


RECORDS = ("what", "value", "unit", "goal", "holds")
PAIRED = ("set", "labels", "method", "against", "pairs", "difference", "low", "high")


def compare(bench: Bench, rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Records from measured rows: paired differences, few labels against many.

    Returns:
        The paired differences as rows of a table.
    """
    table: list[dict[str, object]] = []
    for name in SETS:
        accuracies = {
            (row["method"], row["labeled_share"], row["draw"]): float(str(row["accuracy"]))
            for row in rows
            if row["set"] == name
        }
        for kind in ("dynamic", "one-pass"):
            for shown in PASSES:
                goal = kind == "dynamic" and "without" not in shown
                table += _paired(
                    bench, name, accuracies, f"{kind} {shown}", "supervised", goal=goal
                )
        for method, other in (
            ("dynamic p=2", "dynamic p=2 without descriptors"),
            ("dynamic p=2", "one-pass p=2"),
            ("dynamic p=2", "logistic regression"),
            ("one-pass p=2", "LabelSpreading"),
        ):
            table += _paired(bench, name, accuracies, method, other, goal=False)
        many = [value for (method, share, _), value in accuracies.items() if share == MOST]
        few = [
            value for (method, share, _), value in accuracies.items()
            if method == "dynamic p=2" and share == 0.20
        ]  # fmt: skip
        if many and few:
            bench.add(
                f"{name}: accuracy of dynamic p=2 on 20 % labels less supervised on 70 %",
                float(np.mean(few) - np.mean(many)), "", at_least=0.0,
                n_few=len(few), n_many=len(many), few=float(np.mean(few)),
                many=float(np.mean(many)),
            )  # fmt: skip
    return table


def _paired(
    bench: Bench, name: str, accuracies: dict[tuple, float], method: str, other: str, *, goal: bool
) -> list[dict[str, object]]:
    pairs = [
        (share, draw, value - accuracies[other, share, draw])
        for (row_method, share, draw), value in accuracies.items()
        if row_method == method and (other, share, draw) in accuracies
    ]
    rows: list[dict[str, object]] = []
    for shares in (*((share,) for share in SHARES), SHARES):
        of_draw: dict[object, list[float]] = {}
        for share, draw, value in pairs:
            if share in shares:
                of_draw.setdefault(draw, []).append(value)
        # shares of a draw are no further evidence
        values = np.array([np.mean(differences) for differences in of_draw.values()])
        if len(values) < 2:
            continue
        shown = "all" if shares == SHARES else f"{shares[0]:.0%}"
        low, high = interval(values)
        what = f"{name}, {shown} labels: accuracy of {method} less {other}"
        details = {"low": low, "high": high, "pairs": len(values)}
        bench.add(f"{what}, mean", float(values.mean()), "", **details)
        if goal and shares == SHARES:
            bench.add(f"{what}, low end of the 95 % interval", low, "", at_least=0.0, **details)
        rows.append({
            "set": name, "labels": shown, "method": method, "against": other,
            "pairs": len(values), "difference": f"{values.mean():.6f}", "low": f"{low:.6f}",
            "high": f"{high:.6f}",
        })  # fmt: skip
    return rows


def blobs(n_nodes: int) -> tuple[Tensor, Tensor]:
    """Features in 14 overlapping groups, and labels of a fifth of them."""
    generator = torch.Generator().manual_seed(0)
    group = torch.randint(14, (n_nodes,), generator=generator)
    center = torch.randn(14, 64, generator=generator)
    feature = center[group] + 1.5 * torch.randn(n_nodes, 64, generator=generator)
    code = torch.where(torch.rand(n_nodes, generator=generator) < 0.2, group, UNLABELED)
    return torch.nn.functional.normalize(feature, dim=1), code.unsqueeze(1)


def diffusion(bench: Bench) -> None:
    """Our solver and scikit-learn's on the same graph, both to the same answer."""
    from scipy.sparse import csr_matrix
    from sklearn.semi_supervised import LabelSpreading

    n_nodes = 2_000 if bench.options.quick else 10_000
    feature, code = blobs(n_nodes)
    settings = ClassifySettings(alpha=0.99, prior=False)
    affinity = build_graph(feature.double(), settings, [])
    ready = csr_matrix(
        (affinity.values().double().numpy(), affinity.col_indices().numpy(),
         affinity.crow_indices().numpy()), shape=(n_nodes, n_nodes),
    )  # fmt: skip

    class Given(LabelSpreading):
        def _get_kernel(self, X, y=None):
            return ready

    sizes = (14,)
    label = one_hot(code, sizes)
    exact = graph.DiffusionSystem(affinity, settings.alpha).solve(label, tolerance=1e-13).value
    exact = normalized(exact.clamp(min=0), sizes)
    predictions: dict[str, Tensor] = {}

    def error(name: str) -> float:
        return float((predictions[name] - exact).abs().max())

    def ours() -> None:
        predictions["ours"] = propagate_labels(affinity, code, sizes, settings).score

    def theirs() -> None:
        model = Given(kernel="knn", alpha=settings.alpha, max_iter=10_000, tol=tolerance)
        model.fit(feature.numpy(), code[:, 0].numpy())
        predictions["theirs"] = torch.from_numpy(model.label_distributions_)

    ours()
    tolerance = 1e-6
    theirs()
    while error("theirs") > error("ours"):  # equal predictions: as near to the exact ones as ours
        tolerance /= 2
        theirs()
    ours_s, theirs_s, walls = cpu_in_turn(ours, theirs)
    shown = f"diffusion, n = {n_nodes:,}, same graph"
    bench.add(f"{shown}: largest error of our scores", error("ours"), "", at_most=1e-6)
    bench.add(f"{shown}: largest error of LabelSpreading's", error("theirs"), "", tol=tolerance)
    bench.add(
        f"{shown}, equal predictions: against LabelSpreading, CPU time", theirs_s / ours_s, "x",
        at_least=20.0, ours_s=ours_s, theirs_s=theirs_s, samples=REPEATS, wall_ratio=walls,
    )  # fmt: skip
    grown = (5_000, 10_000) if bench.options.quick else (14_000, 28_000, 56_000, 112_000)
    for n in grown:
        if n <= bench.options.largest:
            growth(bench, n)


def cpu_in_turn(*sides: Callable[[], None]) -> tuple[float, float, float]:
    """Median CPU seconds of two calls in turn, and the ratio of their wall times.

    CPU time, because a call of 0.2 s on a shared machine is either undisturbed or waits for its
    turn, which hits the short side harder than the long one. Both sides compute on one thread.
    """
    spent: list[list[float]] = [[] for _ in sides]
    wall: list[list[float]] = [[] for _ in sides]
    for _ in range(REPEATS):
        for side, cpu, clock in zip(sides, spent, wall, strict=True):
            start, begun = time.process_time(), time.perf_counter()
            side()
            cpu.append(time.process_time() - start)
            clock.append(time.perf_counter() - begun)
    first_s, second_s = (float(np.median(times)) for times in spent)
    return first_s, second_s, float(np.median(wall[1]) / np.median(wall[0]))


def growth(bench: Bench, n_nodes: int) -> None:
    """Time and memory of graph and diffusion at one size, once."""
    feature, code = blobs(n_nodes)
    settings = ClassifySettings(alpha=0.99, n_neighbors=50)
    start = time.perf_counter()
    affinity = build_graph(feature, settings, [])
    built = time.perf_counter()
    propagated = propagate_labels(affinity, code, (14,), settings)
    solved = time.perf_counter()
    shown = f"n = {n_nodes:,}, 50 neighbors, 14 classes"
    bench.add(f"{shown}: exact graph", built - start, "s", samples=1)
    bench.add(
        f"{shown}: diffusion to 1e-8", solved - built, "s", samples=1,
        iterations=propagated.figures["iterations"], residual=propagated.figures["residual"],
    )  # fmt: skip
    memory = peak_memory_mb(blobs, _graph_and_diffusion, n_nodes, threads=bench.options.threads)
    bench.add(f"{shown}: peak memory of both", memory, "MB", samples=1)


def _graph_and_diffusion(inputs: tuple[Tensor, Tensor]) -> Tensor:
    settings = ClassifySettings(alpha=0.99, n_neighbors=50)
    return propagate_labels(build_graph(inputs[0], settings, []), inputs[1], (14,), settings).score


def more_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of this script alone."""
    parser.add_argument("--state", type=Path, metavar="DIR", help="one file a measured draw")
    parser.add_argument("--measure", action="store_true", help="measure what is missing in DIR")
    parser.add_argument(
        "--part", type=int, nargs=2, default=(0, 1), metavar=("I", "N"),
        help="measure each N-th draw from the I-th on: for N processes side by side",
    )  # fmt: skip
    parser.add_argument(
        "--csv", type=Path, metavar="FILE", help="write the rows there, pairs beside"
    )
    parser.add_argument("--largest", type=int, default=112_000, help="nodes of the growth")
    parser.add_argument("--only", choices=("diffusion",), help="time the diffusion")


def main() -> int:
    """Measure, or make records from what was measured."""
    options = arguments(__doc__.splitlines()[0], more_flags)
    if options.measure:
        measure(options.state, *options.part)
        return 0
    bench = Bench(options)
    if options.only == "diffusion":
        diffusion(bench)
        if options.csv:
            records = [{key: getattr(record, key) for key in RECORDS} for record in bench.records]
            write_csv(options.csv, records, RECORDS)
    elif options.state:
        rows = collected(options.state)
        paired = compare(bench, rows)
        if options.csv:
            write_csv(options.csv, rows, COLUMNS)
            write_csv(options.csv.with_stem(options.csv.stem + "_paired"), paired, PAIRED)
    return bench.finish()


if __name__ == "__main__":
    sys.exit(main())
