"""Fit a graph network to one graph: losses, steps, what to do when all nodes end in one cluster."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum

import torch
from torch import Tensor

from graphnn_unet.clustering.losses import LOSSES
from graphnn_unet.clustering.settings import ClusterSettings
from graphnn_unet.errors import InputError
from graphnn_unet.graph import unit_rows
from graphnn_unet.graph.affinity import GramAffinity
from graphnn_unet.graph.clusterer import GraphClusterer
from graphnn_unet.graph.clusterer_settings import PRESETS
from graphnn_unet.seeds import Stream, index_of, torch_seed, weights_seed

COLLAPSED = 0.995
"""From this share of nodes in one cluster on, the fit counts as collapsed."""

N_RETRIES = 2
KMEANS_STARTS = 10
_EXPLICIT_LIMIT = 20_000
"""Nodes beyond which a matrix of all pairs does not fit into memory (1.6 GB in float32)."""

State = dict[str, Tensor]


class Draw(IntEnum):
    """What a clustering draws random numbers for; the first index of its stream."""

    DROPOUT = 0
    IMAGE_ORDER = 1
    SHARED_DROPOUT = 2


def seed_of(settings: ClusterSettings, draw: Draw, *index: int) -> int:
    """Seed of one draw, from the run's seed and the place of the draw."""
    return torch_seed(settings.seed, Stream.CLUSTERING_FIT, draw, *index)


@dataclass(frozen=True)
class Graph:
    """A graph as network and loss see it.

    Attributes:
        feature: ``(node, channel)`` float32.
        messages: Affinity whose positive part carries messages.
        loss: Value of an assignment ``(node, cluster)``.
    """

    feature: Tensor
    messages: Tensor | GramAffinity
    loss: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Fit:
    """What a fit found.

    Attributes:
        assignment: ``(node, cluster)`` float32, rows on the simplex.
        loss: Last value.
        flags: What the user should know: ``retried``, ``fallback``, ``no_structure``,
            ``not_finite``.
    """

    assignment: Tensor
    loss: float
    flags: tuple[str, ...] = ()

    @property
    def labels(self) -> Tensor:
        """Cluster of each node, ``(node,)``."""
        return self.assignment.argmax(dim=1)


def make_graph(feature: Tensor, settings: ClusterSettings) -> Graph:
    """The graph of a method on the features of one image.

    ``linear``: messages and losses on the shifted cosine of all pairs (``cc`` keeps its signed
    affinity in the loss). ``published``: the graph that papers use with the loss.

    Raises:
        InputError: Too many nodes for a matrix of all pairs, or fewer nodes than clusters.
    """
    n_nodes = len(feature)
    if n_nodes < settings.n_clusters:
        raise InputError(
            f"{n_nodes} nodes cannot form {settings.n_clusters} clusters",
            remedy="Give fewer --clusters or a smaller --cell",
        )
    loss = LOSSES[settings.loss]
    if settings.graph == "linear":
        messages = GramAffinity.of(feature.unsqueeze(0), "gram" if settings.signed else "shifted")
        return Graph(feature, messages, loss.linear(feature, settings))
    if n_nodes > _EXPLICIT_LIMIT:
        raise InputError(
            f"{n_nodes} nodes are too many for the graph of the method {settings.method}",
            f"it links all pairs; up to {_EXPLICIT_LIMIT} fit",
            "Use --graph linear, or a larger --cell",
        )
    links, affinity = loss.graph(feature, settings)
    return Graph(feature, links, loss.explicit(affinity, settings))


def make_network(
    in_channels: int, settings: ClusterSettings, state: State | None = None, retry: int = 0
) -> GraphClusterer:
    """The network of a method with given weights, or with those that the run's seed draws."""
    network_settings = PRESETS[settings.network]
    if settings.signed:
        network_settings = replace(network_settings, signed=True)
    if settings.graph == "linear":  # dropout of single pairs has no linear form
        network_settings = replace(network_settings, attention_dropout=0.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(weights_seed(settings.seed, retry))
        network = GraphClusterer(in_channels, settings.n_clusters, network_settings)
    if state is not None:
        network.load_state_dict(state)
    return network


def fit_graph(graph: Graph, settings: ClusterSettings, key: str, state: State | None = None) -> Fit:
    """Fit a network to one graph; collapse is retried with other seeds, then k-means steps in.

    Dropout follows from the seed and ``key``, the name of the image, so the result does not depend
    on the order of images. ``state`` are initial weights; they are drawn from the seed without it.
    """
    if bool((graph.feature == graph.feature[:1]).all()):
        same = torch.zeros(len(graph.feature), settings.n_clusters)
        same[:, 0] = 1
        return Fit(same, 0.0, ("no_structure",))
    flags: list[str] = []
    for retry in range(N_RETRIES + 1):
        network = make_network(graph.feature.shape[1], settings, None if retry else state, retry)
        fit = _fit_once(graph, settings, f"{key}/{retry}" if retry else key, network)
        flags += fit.flags
        if not is_collapsed(fit.labels, settings.n_clusters):
            break
        flags.append("retried")
    else:
        flags.append("fallback")
        labels = kmeans(unit_rows(graph.feature), settings.n_clusters)
        member = torch.nn.functional.one_hot(labels, settings.n_clusters).float()
        fit = Fit(member, float(graph.loss(member)))
    return replace(fit, flags=tuple(dict.fromkeys(flags)))


def is_collapsed(labels: Tensor, n_clusters: int) -> bool:
    """Whether nearly all nodes are in one cluster."""
    counts = torch.bincount(labels, minlength=n_clusters)
    return bool(counts.max() > COLLAPSED * len(labels))


def run_steps(
    network: GraphClusterer, optimizer: torch.optim.Optimizer, graph: Graph, n_steps: int
) -> tuple[Tensor, float, bool]:
    """Take optimizer steps on one graph.

    Returns:
        Assignment of the last training pass, last loss, and whether all losses were finite. After
        the first loss that is not, the last finite weights are back and no step follows.
    """
    network.train()
    member, value = torch.empty(0), math.nan
    for _ in range(n_steps):
        optimizer.zero_grad(set_to_none=True)
        output = network(graph.feature, graph.messages)
        loss = graph.loss(output)
        if not torch.isfinite(loss):
            return member, value, False
        kept = [parameter.detach().clone() for parameter in network.parameters()]
        loss.backward()
        optimizer.step()
        if not all(bool(torch.isfinite(p).all()) for p in network.parameters()):
            with torch.no_grad():
                for parameter, old in zip(network.parameters(), kept, strict=True):
                    parameter.copy_(old)
            return output.detach(), float(loss.detach()), False
        member, value = output.detach(), float(loss.detach())
    return member, value, True


def make_optimizer(network: GraphClusterer, settings: ClusterSettings) -> torch.optim.Optimizer:
    """The optimizer of a method, one call for all of its small tensors."""
    return torch.optim.AdamW(
        network.parameters(), lr=settings.lr, weight_decay=settings.decay, foreach=True
    )


def _fit_once(graph: Graph, settings: ClusterSettings, key: str, network: GraphClusterer) -> Fit:
    optimizer = make_optimizer(network, settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(settings, Draw.DROPOUT, index_of(key)))
        member, value, finite = run_steps(network, optimizer, graph, settings.steps)
    if settings.assign == "eval" or not len(member):
        network.eval()
        with torch.no_grad():
            member = network(graph.feature, graph.messages)
            value = float(graph.loss(member))
    member = torch.nan_to_num(member, nan=1 / settings.n_clusters)
    return Fit(member, value, () if finite else ("not_finite",))


def kmeans(rows: Tensor, n_clusters: int) -> Tensor:
    """Cluster of each row ``(node, channel)``, the best of ten starts from a fixed seed."""
    from sklearn.cluster import KMeans  # takes a second to import
    from threadpoolctl import threadpool_limits

    # on several threads the order of sums, and with it the last digits, would vary
    with threadpool_limits(1):
        model = KMeans(n_clusters, n_init=KMEANS_STARTS, random_state=0)  # pyright: ignore[reportArgumentType]  # annotated as a word, an int is documented
        return torch.from_numpy(model.fit_predict(rows.numpy())).long()
