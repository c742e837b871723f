"""A fit in linear time against the same fit on the matrix of all pairs, and a whole volume."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from _bench import Bench, arguments, in_turn, peak_memory_mb

from graphnn_unet.clustering.fit import Graph, fit_graph, make_graph
from graphnn_unet.clustering.settings import make_settings
from graphnn_unet.graph import correlation_clustering_loss_from, unit_rows
from graphnn_unet.graph.affinity import GramAffinity

N_NODES, N_CHANNELS, N_STEPS = 3025, 60, 10
"""Nodes of an image at stride 4, columns of hand-made features, optimizer steps."""


def features_of(n_nodes: int) -> torch.Tensor:
    """Two groups of nodes, 28 % in one of them."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(2, N_CHANNELS, generator=generator)
    inside = (torch.arange(n_nodes) < 0.28 * n_nodes).long()
    return means[inside] + 0.7 * torch.randn(n_nodes, N_CHANNELS, generator=generator)


def fit_linear(feature: torch.Tensor, layer: str = "gcn") -> torch.Tensor:
    """The product's own fit."""
    settings = make_settings(layer=layer, loss="cc", steps=N_STEPS, lr=1e-2)
    return fit_graph(make_graph(feature, settings), settings, "a").assignment


def fit_dense(feature: torch.Tensor, layer: str = "gcn") -> torch.Tensor:
    """The same on explicit matrices, each made once."""
    settings = make_settings(layer=layer, loss="cc", steps=N_STEPS, lr=1e-2)
    rows = GramAffinity.of(feature.unsqueeze(0), "shifted").rows()[0]
    messages = rows @ rows.T
    unit = unit_rows(feature)
    signed = unit @ unit.T - 1 / settings.alpha

    def loss(member: torch.Tensor) -> torch.Tensor:
        return correlation_clustering_loss_from(signed, member)

    return fit_graph(Graph(feature, messages, loss), settings, "a").assignment


def volume(path: Path) -> tuple[int, float, float]:
    """Nodes, seconds and peak memory in MiB of a fit on all voxels of a volume."""
    from graphnn_unet.clustering.features import BorderFeatures
    from graphnn_unet.clustering.images import Source, read_image
    from graphnn_unet.clustering.segment import segment_image
    from graphnn_unet.clustering.settings import PostProcessing

    image = read_image(Source(path.name[:-7], (path,), ".nii.gz"))
    settings = make_settings(layer="gcn", loss="cc", steps=N_STEPS, lr=1e-2)
    began = time.perf_counter()
    nodes = BorderFeatures(side=512, cell=1)(image)
    segment_image(image, nodes, settings, PostProcessing())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return nodes.grid.n_nodes, time.perf_counter() - began, peak


def measure() -> int:
    """Measure and print."""

    def add(parser: Any) -> None:
        parser.add_argument("what", nargs="?", default="speed")
        parser.add_argument("--volume", type=Path, help="also a whole volume, NIfTI")

    options = arguments("Speed of unsupervised segmentation.", add)
    torch.set_num_threads(options.threads or 1)
    bench = Bench(options)
    feature = features_of(N_NODES)
    for layer in ("gcn", "arma", "gat")[: 1 if options.quick else 3]:
        ours, dense = (lambda f=f, layer=layer: f(feature, layer) for f in (fit_linear, fit_dense))
        linear_time, dense_time = in_turn([ours, dense], repeats=3 if options.quick else 5)
        ratio = dense_time.median_s / linear_time.median_s
        bench.add(
            f"{layer}, cc, {N_NODES} nodes: time of the dense fit / of ours", ratio, "x",
            at_least=3, ours_s=linear_time.median_s, dense_s=dense_time.median_s,
        )  # fmt: skip
        same = (ours().argmax(dim=1) == dense().argmax(dim=1)).float().mean()
        bench.add(f"{layer}, cc: nodes with the same cluster in both", float(same), "", at_least=1)
    peaks = [peak_memory_mb(features_of, f, N_NODES, threads=1) for f in (fit_linear, fit_dense)]
    bench.add("gcn: peak memory of ours", peaks[0], "MB")
    bench.add("gcn: peak memory of the dense fit / of ours", peaks[1] / peaks[0], "x", at_least=1)
    if options.volume:
        n_nodes, seconds, peak = volume(options.volume)
        bench.add("nodes of a whole volume in one graph", n_nodes, "", at_least=64**3)
        bench.add(f"its features and {N_STEPS} steps", seconds, "s", peak_mib=round(peak))
        bench.add("peak memory of the process", peak, "MiB")
    return bench.finish()


if __name__ == "__main__":
    sys.exit(measure())
