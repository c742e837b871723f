"""Speed and memory of the graph core: each exact form against the one that builds the matrix.

    python tests/benchmarks/graph.py [--quick] [--json FILE]
    python tests/benchmarks/graph.py --only diffusion --threads 2
    python tests/benchmarks/graph.py --records FILE.json --page PAGE.md --plot FILE.svg

The last line measures nothing: it writes the table of earlier records into a page and draws them.

Topics: ``forms`` (dense against linear at 10^3 and 10^4 nodes, linear alone up to 10^6), ``head``
(the cluster head and the loss at the sizes of training), ``step`` (share of the graph code in a
network's training step), ``diffusion`` (nearest neighbors and diffusion, beside scikit-learn).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from _bench import (
    REPEATS,
    Bench,
    Record,
    arguments,
    in_turn,
    peak_memory_mb,
    read_records,
    replace_measured,
)

from graphnn_unet import graph
from graphnn_unet.graph.affinity import GramAffinity

CHANNELS, CLUSTERS = 32, 10
TOPICS = ("forms", "head", "step", "diffusion")


@dataclass
class Inputs:
    """Tensors of one graph: features ``(n, 32)``, logits and assignment ``(n, 10)``."""

    feature: Tensor
    logits: Tensor
    member: Tensor


def make_inputs(n_nodes: int, device: str) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    feature = torch.randn(n_nodes, CHANNELS, generator=generator).to(device)
    logits = torch.randn(n_nodes, CLUSTERS, generator=generator).to(device)
    return Inputs(feature.requires_grad_(), logits, logits.softmax(-1).requires_grad_())


def with_gradient(value: Tensor, inputs: Inputs) -> tuple[Tensor | None, ...]:
    """Gradients with respect to features and assignment, handed back instead of kept."""
    return torch.autograd.grad(value.sum(), (inputs.feature, inputs.member), allow_unused=True)


def correlation(inputs: Inputs, method: str) -> Any:
    if method == "linear":
        value = graph.correlation_clustering_loss(inputs.feature, inputs.member)
    else:
        unit = graph.unit_rows(inputs.feature)
        value = graph.correlation_clustering_loss_from(unit @ unit.T - 0.5, inputs.member)
    return with_gradient(value, inputs)


def shifted_weight(inputs: Inputs) -> Tensor:
    """The matrix of shifted cosines."""
    rows = GramAffinity.of(inputs.feature[None], "shifted").rows()[0]
    return rows @ rows.T


def cut(inputs: Inputs, method: str) -> Any:
    if method == "linear":
        value = graph.normalized_cut_loss(inputs.feature, inputs.member)
    else:
        value = graph.normalized_cut_loss_from(shifted_weight(inputs), inputs.member)
    return with_gradient(value, inputs)


def modularity(inputs: Inputs, method: str) -> Any:
    if method == "linear":
        value = graph.modularity_loss(inputs.feature, inputs.member)
    else:
        value = graph.modularity_loss_from(shifted_weight(inputs), inputs.member)
    return with_gradient(value, inputs)


def convolution(inputs: Inputs, method: str) -> Any:
    if method == "linear":
        return with_gradient(graph.gram_convolution(inputs.feature, inputs.member), inputs)
    weight = shifted_weight(inputs)
    root = weight.sum(1, keepdim=True).rsqrt()
    return with_gradient(root * (weight @ (root * inputs.member)), inputs)


def class_graph(inputs: Inputs, method: str) -> Any:
    share, signal = inputs.member.detach()[:, :4].softmax(-1), inputs.feature.detach()
    if method == "linear":
        return graph.class_graph_propagate(share, signal)
    label = share.argmax(1)
    weight = torch.where(label[:, None] == label[None, :], share @ share.T, 0.0)
    weight.fill_diagonal_(1.0)
    root = weight.sum(1, keepdim=True).rsqrt()
    return root * (weight @ (root * signal))


def pairs(inputs: Inputs, method: str) -> Any:
    label = inputs.logits[:, :4].argmax(1)
    embedding = graph.unit_rows(inputs.feature)
    if method == "linear":
        return with_gradient(graph.pair_loss(embedding, label), inputs)
    same = (label[:, None] == label[None, :]).to(embedding.dtype)
    return with_gradient((embedding @ embedding.T - same).square().mean(), inputs)


def woodbury(inputs: Inputs, method: str) -> Any:
    label, feature = inputs.member.detach(), inputs.feature.detach()
    if method == "linear":
        return graph.diffuse_labels(label, node_feature=feature, alpha=0.99)
    phi = GramAffinity.of(feature[None], "shifted").rows()[0]
    weight = phi @ phi.T
    root = weight.sum(1).rsqrt()
    system = torch.eye(len(weight), device=weight.device)
    system -= 0.99 * root[:, None] * weight * root[None, :]
    return torch.linalg.solve(system, label)


# name, function, largest n of the dense form, goals at n = 10^4 (times faster, times less memory)
FORMS: list[tuple[str, Callable[[Inputs, str], Any], int, tuple[float, float] | None]] = [
    ("correlation clustering, value and gradients", correlation, 10_000, (50, 20)),
    ("normalized cut, value and gradients", cut, 10_000, None),
    ("modularity, value and gradients", modularity, 10_000, None),
    ("Gram convolution, value and gradients", convolution, 10_000, None),
    ("class-level graph product", class_graph, 10_000, None),
    ("pair loss, value and gradients", pairs, 10_000, None),
    ("diffusion on the complete graph", woodbury, 3_000, None),
]


def linear_call(inputs_and_index: tuple[Inputs, int]) -> Any:
    inputs, index = inputs_and_index
    return FORMS[index][1](inputs, "linear")


def dense_call(inputs_and_index: tuple[Inputs, int]) -> Any:
    inputs, index = inputs_and_index
    return FORMS[index][1](inputs, "dense")


def make_case(n_nodes: int, device: str, index: int) -> tuple[Inputs, int]:
    """Inputs, and a small call so that libraries are loaded before memory is measured."""
    small = make_inputs(64, device)
    for method in ("linear", "dense"):
        FORMS[index][1](small, method)
    return make_inputs(n_nodes, device), index


def forms(bench: Bench) -> None:
    """Dense against linear, and linear alone where the matrix would not fit."""
    options = bench.options
    device, threads = options.device, options.threads
    sizes = [1_000, 3_000] if options.quick else [1_000, 3_000, 10_000]
    alone = [100_000] if options.quick else [100_000, 1_000_000]
    for index, (name, form, dense_up_to, goals) in enumerate(FORMS):
        for n_nodes in sizes + alone:
            inputs = make_inputs(n_nodes, device)
            shown = f"{name}, n = {n_nodes:,}"
            memory = {"device": device, "threads": threads}
            linear_mb = peak_memory_mb(make_case, linear_call, n_nodes, device, index, **memory)
            if n_nodes > dense_up_to or n_nodes in alone:
                (linear,) = in_turn([lambda: form(inputs, "linear")], device=device)  # noqa: B023
                bench.add(
                    f"{shown}: linear, time", linear.median_s, "s", form=name, n_nodes=n_nodes,
                    linear_s=linear.median_s, spread_s=linear.spread_s, samples=linear.n_samples,
                )  # fmt: skip
                goal = 1000 if index == 0 and n_nodes == 1_000_000 else None
                bench.add(f"{shown}: linear, peak memory", linear_mb, "MB", at_most=goal)
            else:
                linear, dense = in_turn(
                    [lambda: form(inputs, "linear"), lambda: form(inputs, "dense")],  # noqa: B023
                    device=device,
                )
                dense_mb = peak_memory_mb(make_case, dense_call, n_nodes, device, index, **memory)
                # resident memory is counted in pages: below 0.1 MB the ratio would be noise
                ratio_mb = dense_mb / max(linear_mb, 0.1)
                aims = goals if n_nodes == 10_000 and goals else (None, None)
                bench.add(
                    f"{shown}: linear against dense, time", dense.median_s / linear.median_s, "x",
                    at_least=aims[0], form=name, n_nodes=n_nodes,
                    linear_s=linear.median_s, linear_spread_s=linear.spread_s,
                    dense_s=dense.median_s, dense_spread_s=dense.spread_s, samples=dense.n_samples,
                )  # fmt: skip
                bench.add(
                    f"{shown}: linear against dense, peak memory", ratio_mb, "x",
                    at_least=aims[1], linear_mb=linear_mb, dense_mb=dense_mb,
                )  # fmt: skip


def train_graph(
    head: graph.CorrelationClusterHead, block: graph.StructureAlignment, feature: Tensor
) -> Callable[[], object]:
    """What GraphCL adds to a step, forward and backward: alignment, head and loss."""
    parameters = [*head.parameters(), *block.parameters(), feature]

    def call() -> object:
        aligned = block(feature)
        nodes = aligned.flatten(2).transpose(1, 2)
        value = graph.correlation_clustering_loss(nodes, head(nodes)).mean()
        return torch.autograd.grad(value, parameters, allow_unused=True)

    return call


def head(bench: Bench) -> None:
    """The cluster head and the loss at the sizes of training, in both graphs."""
    device = bench.options.device
    largest = (16, 8, 8) if bench.options.quick else (16, 16, 16)
    for grid, channels in (((5, 7, 7), 256), ((1, 16, 16), 320), (largest, 320)):
        n_nodes = grid[0] * grid[1] * grid[2]
        feature = torch.randn(4, channels, *grid, device=device).requires_grad_()
        block = graph.StructureAlignment(channels, 3).to(device)
        heads = [
            graph.CorrelationClusterHead(channels, graph=kind).to(device)
            for kind in ("positive", "shifted")
        ]
        positive, shifted = in_turn(
            [train_graph(cluster_head, block, feature) for cluster_head in heads], device=device
        )
        for kind, timing in (("positive", positive), ("shifted", shifted)):
            bench.add(
                f"alignment, {kind} head, loss, gradients: 4 graphs, n = {n_nodes}, c = {channels}",
                1000 * timing.median_s, "ms", spread_s=timing.spread_s, samples=timing.n_samples,
            )  # fmt: skip


def step(bench: Bench) -> None:
    """Share of the graph code in a training step of a 3D U-Net, forward and backward."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    device = bench.options.device
    full = device == "cuda"
    patch = (80, 112, 112) if full else (48, 64, 64)
    n_images = 8 if full else 2
    network = PlainConvUNet(
        1, 5, (32, 64, 128, 256, 320), torch.nn.Conv3d, 3, (1, 2, 2, 2, 2), 2, 2, 2,
        conv_bias=True, norm_op=torch.nn.InstanceNorm3d, norm_op_kwargs={"affine": True},
        nonlin=torch.nn.LeakyReLU, deep_supervision=True,
    ).to(device)  # fmt: skip
    image = torch.randn(n_images, 1, *patch, device=device)
    # cluster stage: deepest with at least 64 positions, of stride 16 or, for the small patch, 8
    deep, channels = ((5, 7, 7), 320) if full else ((6, 8, 8), 256)
    feature = torch.randn(n_images, channels, *deep, device=device).requires_grad_()
    extra = train_graph(
        graph.CorrelationClusterHead(channels).to(device),
        graph.StructureAlignment(channels, 3).to(device),
        feature,
    )
    scaled = torch.autocast(device, dtype=torch.float16, enabled=full)

    def plain() -> object:
        with scaled:
            total = sum(level.float().square().mean() for level in network(image))
        return torch.autograd.grad(total, list(network.parameters()), allow_unused=True)

    def added() -> object:
        with scaled:
            return extra()

    network_s, graph_s = in_turn(
        [plain, added], repeats=3 if bench.options.quick else REPEATS, device=device
    )
    share = 100 * graph_s.median_s / (network_s.median_s + graph_s.median_s)
    bench.add(
        f"graph code in a training step, {n_images} patches of {patch}", share, "%", at_most=3,
        network_s=network_s.median_s, graph_s=graph_s.median_s, samples=graph_s.n_samples,
    )  # fmt: skip


def blobs(n_nodes: int) -> tuple[Tensor, Tensor]:
    """Features of 20 overlapping groups in 64 dimensions, and labels of a fifth of the nodes."""
    generator = torch.Generator().manual_seed(0)
    group = torch.randint(0, 20, (n_nodes,), generator=generator)
    center = torch.randn(20, 64, generator=generator)
    feature = center[group] + 1.5 * torch.randn(n_nodes, 64, generator=generator)
    label = torch.nn.functional.one_hot(group % 10, 10).float()
    label[n_nodes // 5 :] = 0
    return feature, label


def our_diffusion(inputs: tuple[Tensor, Tensor]) -> Tensor:
    feature, label = inputs
    affinity = graph.knn_affinity(feature, n_neighbors=50, gamma=3.0)
    return graph.diffuse_labels(label, affinity=affinity, alpha=0.99)


def label_spreading(inputs: tuple[Tensor, Tensor], kernel: str = "knn") -> Any:
    from sklearn.semi_supervised import LabelSpreading

    feature, label = inputs
    given = torch.where(label.sum(1) > 0, label.argmax(1), -1)
    model = LabelSpreading(
        kernel=kernel, n_neighbors=50, gamma=0.02, alpha=0.99, max_iter=200, n_jobs=1
    )
    unit = graph.unit_rows(feature)
    return model.fit(unit.numpy(), given.numpy()).label_distributions_


def label_spreading_rbf(inputs: tuple[Tensor, Tensor]) -> Any:
    return label_spreading(inputs, "rbf")


def accuracy(scores: Any, n_nodes: int) -> float:
    """Share of unlabeled nodes of :func:`blobs` that get their class."""
    generator = torch.Generator().manual_seed(0)
    group = torch.randint(0, 20, (n_nodes,), generator=generator)
    predicted = torch.as_tensor(scores).argmax(1)
    return float((predicted == group % 10)[n_nodes // 5 :].float().mean())


def diffusion(bench: Bench) -> None:
    """10 classes on a nearest-neighbor graph from given features, beside LabelSpreading."""
    options = bench.options
    both = 2_000 if options.quick else 10_000
    inputs = blobs(both)
    ours, knn, rbf = in_turn(
        [
            lambda: our_diffusion(inputs),
            lambda: label_spreading(inputs),
            lambda: label_spreading_rbf(inputs),
        ],
        repeats=REPEATS,
    )
    mine = peak_memory_mb(blobs, our_diffusion, both, threads=options.threads)
    for name, timing, call in (
        ("knn", knn, label_spreading),
        ("rbf", rbf, label_spreading_rbf),
    ):
        theirs = peak_memory_mb(blobs, call, both, threads=options.threads)
        bench.add(
            f"neighbors and diffusion, n = {both:,}: against LabelSpreading ({name}), time",
            timing.median_s / ours.median_s, "x", ours_s=ours.median_s, theirs_s=timing.median_s,
            samples=timing.n_samples,
        )  # fmt: skip
        bench.add(
            f"neighbors and diffusion, n = {both:,}: against LabelSpreading ({name}), memory",
            theirs / mine, "x", ours_mb=mine, theirs_mb=theirs,
        )  # fmt: skip
    if not options.quick:
        _large_diffusion(bench, 112_000)


def _large_diffusion(bench: Bench, n_nodes: int) -> None:
    """One run at the size of ChestX-ray14: too long to repeat, so a single sample."""
    feature, label = blobs(n_nodes)
    start = time.perf_counter()
    affinity = graph.knn_affinity(feature, n_neighbors=50, gamma=3.0)
    built = time.perf_counter()
    system = graph.DiffusionSystem(affinity, 0.99)
    solution = system.solve(label)
    solved = time.perf_counter()
    right = accuracy(solution.value, n_nodes)
    shown = f"n = {n_nodes:,}, 50 neighbors, 10 classes"
    bench.add(f"{shown}: exact neighbor graph", built - start, "s", samples=1,
              entries=affinity.values().numel())  # fmt: skip
    bench.add(f"{shown}: diffusion to 1e-6", solved - built, "s", samples=1,
              iterations=solution.n_iterations, residual=solution.residual,
              accuracy=right)  # fmt: skip
    memory = peak_memory_mb(blobs, our_diffusion, n_nodes, threads=bench.options.threads)
    bench.add(f"{shown}: peak memory of both", memory, "MB", samples=1)
    start = time.perf_counter()
    theirs = label_spreading((feature, label))
    spent = time.perf_counter() - start
    bench.add(f"{shown}: LabelSpreading (knn), time", spent, "s", samples=1,
              accuracy=accuracy(theirs, n_nodes))  # fmt: skip


def plot(records: list[Record], file: Path) -> None:
    """Time against the number of nodes, both axes logarithmic."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    mpl.rcParams.update({"svg.hashsalt": "graph", "svg.fonttype": "none"})
    curves: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for record in records:
        details = record.details
        for side in ("linear", "dense"):
            if f"{side}_s" in details and "form" in details:
                curve = curves.setdefault(details["form"], {"linear": [], "dense": []})
                curve[side].append((details["n_nodes"], details[f"{side}_s"]))
    figure, axes = plt.subplots(figsize=(9, 4))
    for index, (name, curve) in enumerate(curves.items()):
        color = f"C{index}"
        axes.plot(*zip(*curve["linear"], strict=True), "o-", color=color, ms=4, label=name)
        axes.plot(*zip(*curve["dense"], strict=True), "s--", color=color, ms=4, alpha=0.6)
    axes.set(xscale="log", yscale="log", xlabel="nodes", ylabel="seconds a call")
    axes.grid(alpha=0.3)
    title = "solid: this package\ndashed: with the matrix"
    axes.legend(fontsize=8, title=title, loc="upper left", bbox_to_anchor=(1.01, 1))
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


def table(records: list[Record]) -> str:
    """The records as a Markdown table, with where they were measured."""
    where = records[0].details
    lines = [
        f"Measured with `{records[0].command}` and its like on {where['device']}, "
        f"{where['threads']} thread, PyTorch {where['torch']}; medians of at least five unless the "
        "line says one sample; other work ran on the machine.",
        "",
        "| what | value | goal |",
        "|---|---|---|",
    ]
    for record in records:
        held = {True: ", holds", False: ", **missed**", None: ""}[record.holds]
        once = ", one sample" if record.details.get("samples") == 1 else ""
        shown = f"{record.value:,.0f}" if record.value >= 100 else f"{record.value:.3g}"
        lines.append(f"| {record.what}{once} | {shown} {record.unit} | {record.goal}{held} |")
    return "\n".join(lines)


def more_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of this script alone."""
    parser.add_argument("--only", choices=TOPICS, nargs="+", default=TOPICS)
    parser.add_argument("--records", type=Path, metavar="FILE", help="measure nothing, read these")
    parser.add_argument("--page", type=Path, metavar="PAGE.md", help="put the table there")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="growth with n (forms)")


def main() -> int:
    """Measure the chosen topics, or read records, and write what was asked for."""
    options = arguments(__doc__.splitlines()[0], more_flags)
    status = 0
    if options.records:
        records = read_records(options.records)
    else:
        bench = Bench(options)
        for topic in (forms, head, step, diffusion):
            if topic.__name__ in options.only:
                topic(bench)
        records, status = bench.records, bench.finish()
    if options.plot:
        plot(records, options.plot)
    if options.page:
        replace_measured(options.page, table(records))
    return status


if __name__ == "__main__":
    sys.exit(main())
