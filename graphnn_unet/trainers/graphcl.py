"""GraphCL: alignment of the batch in the encoder and a clustering loss, on top of BCP."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from graphnn_unet.graph import (
    CorrelationClusterHead,
    StructureAlignment,
    correlation_clustering_loss,
)
from graphnn_unet.graph.average_pool import average_to
from graphnn_unet.networks.features import Tap
from graphnn_unet.networks.hook import AlignedUNet, planned_unet, resolve_stage, stage_shapes
from graphnn_unet.prediction.planned_networks import aligned_network
from graphnn_unet.settings import Section
from graphnn_unet.trainers.batch import Phase, StepLoss
from graphnn_unet.trainers.bcp import BCPTrainer

MIN_NODES, MAX_NODES = 64, 4096
N_CLUSTERS = 10
_COLLAPSED_COSINE = 0.98


class GraphSettings(Section):
    """Structure-aware alignment and clustering loss (GraphCL)."""

    stage: int = Field(-1, description="encoder stage of the alignment block; -1 = bottleneck")
    cluster_stage: int | None = Field(
        None,
        description="encoder stage of the clustering loss; empty: the deepest with at least 64 "
        "positions",
    )
    cluster_graph: Literal["positive", "shifted"] = Field(
        "positive",
        description="graph of the cluster head: positive affinities (paper) or shifted cosine "
        "(linear, any number of nodes)",
    )
    kappa: Annotated[float, Field(ge=0)] = Field(
        0.01, description="weight of the clustering loss (GraphCL eq. 19)"
    )
    tau: Annotated[float, Field(gt=0)] = Field(
        2.0, description="similarity threshold = largest affinity / tau (GraphCL eq. 15)"
    )
    features: Literal["unit", "raw", "centred"] = Field(
        "unit", description="rows of the feature matrix in the clustering loss"
    )


class GraphCLTrainer(BCPTrainer):
    """BCP with structure-aware alignment and correlation clustering.

    Self-training begins with label maps of all unlabeled scans, which then count as drawn; with
    ``scan_labels.rounds=0`` a teacher labels patches step by step, as published.

    The alignment block sits behind ``graph.stage`` of the encoder in both phases. In self-training
    the positions of ``graph.cluster_stage`` of every mixed image form a graph, a small graph
    network assigns them to clusters, and

        L = l + kappa * mean over images of L_CC / n^2

    where l is the loss of scans with labels, drawn or the network's, mixed with each other; with
    the teacher it is BCP's L_in + L_out.

    Source: GraphCL (ICML 2025), eqs. 12-19. Deviations: the aligned features are added behind a
    gate that starts at 0 (the paper does not say how they are merged); unit rows and a mean over
    pairs instead of the plain sum, which an encoder lowers by growing its features; whole scans
    labeled once (docs/explanation/unlabeled_scans.md has the measurements; recipes ``*_paper`` and
    ``scan_labels.rounds=0`` have the teacher).
    """

    sections: ClassVar = {"graph": GraphSettings}
    default_label_rounds: ClassVar[int] = 1

    build_network_architecture = staticmethod(aligned_network)

    def heads(self, network: nn.Module) -> dict[str, nn.Module]:
        """The cluster head, which is trained but neither averaged nor deployed."""
        graph = self.recipe.of(GraphSettings)
        self.cluster_stage, n_nodes = cluster_stage(
            graph.cluster_stage,
            self.configuration_manager.patch_size,
            self.configuration_manager.network_arch_init_kwargs["strides"],
        )
        self._pool = graph.cluster_graph == "positive" and n_nodes > MAX_NODES
        head = CorrelationClusterHead(
            int(planned_unet(network).encoder.output_channels[self.cluster_stage]),
            N_CLUSTERS,
            tau=graph.tau,
            rows=graph.features,
            graph=graph.cluster_graph,
        )
        return {"cluster_head": head}

    def _do_i_compile(self) -> bool:
        """Off: the graph of the batch is rebuilt in every step and gains nothing from it."""
        return False

    def predict_mixed(self, images: Tensor) -> tuple[Any, StepLoss]:
        """Output and kappa-weighted clustering loss of the mixed images."""
        graph = self.recipe.of(GraphSettings)
        if graph.kappa == 0:
            return super().predict_mixed(images)
        tap = Tap("encoder", self.cluster_stage)
        output, features = self.student.predict(images, [tap])
        nodes = feature_nodes(features[tap], MAX_NODES if self._pool else None)
        if nodes.shape[1] < 2:  # a graph of one node says nothing
            return output, StepLoss(images.new_zeros(()))
        assignment = self.student.heads["cluster_head"](nodes)
        loss = correlation_clustering_loss(
            nodes, assignment, tau=graph.tau, rows=graph.features
        ).mean()
        return output, StepLoss(graph.kappa * loss, self._cluster_terms(loss, nodes, assignment))

    @torch.no_grad()
    def _cluster_terms(
        self, loss: Tensor, nodes: Tensor, assignment: Tensor
    ) -> dict[str, Tensor | float]:
        """What shows a collapse: cosine between nodes near 1, or one cluster in use."""
        from graphnn_unet.graph import cluster_perplexity, mean_cosine

        return {
            "cluster_loss": loss.detach(),
            "node_cosine": mean_cosine(nodes).mean(),
            "clusters_used": cluster_perplexity(assignment).mean(),
        }

    def end_epoch(self, phase: Phase, waited_s: float) -> None:
        """Warn when the nodes have become one."""
        cosine = self._epoch_terms.last("node_cosine")
        if cosine > _COLLAPSED_COSINE and self.local_rank == 0:
            self.log.line(
                f"warning: the nodes of the clustering loss are nearly equal (mean cosine "
                f"{cosine:.3f}); lower graph.kappa or choose a finer "
                "graph.cluster_stage"
            )
        super().end_epoch(phase, waited_s)

    def epoch_facts(self, phase: Phase) -> dict[str, float]:
        """The gate: how much the network uses the alignment (above 1 is suspicious)."""
        del phase
        network = cast(AlignedUNet, self.student.network)
        return {"gate": float(cast(StructureAlignment, network.align).gate.detach())}


def cluster_stage(wanted: int | None, patch_size: Any, strides: Any) -> tuple[int, int]:
    """Encoder stage of the clustering loss and its number of positions.

    By rule the deepest stage with at least 64 positions: the bottleneck of a small patch is too
    coarse for a graph.

    Args:
        wanted: Stage from the recipe, negative from the bottleneck; ``None`` for the rule.
        patch_size: Spatial size of the patch.
        strides: Strides of the encoder stages.

    Raises:
        InputError: The network has no such stage.
    """
    sizes = [math.prod(shape) for shape in stage_shapes(patch_size, strides)]
    if wanted is not None:
        stage = resolve_stage(wanted, len(sizes))
    else:
        stage = max((i for i, n in enumerate(sizes) if n >= MIN_NODES), default=0)
    return stage, sizes[stage]


def feature_nodes(feature: Tensor, max_nodes: int | None) -> Tensor:
    """Positions of a feature map as nodes.

    Args:
        feature: ``(b, c, *s)``.
        max_nodes: Average neighboring positions until there are at most this many.

    Returns:
        ``(b, n, c)``.
    """
    size = list(feature.shape[2:])
    while max_nodes is not None and math.prod(size) > max_nodes:
        axis = size.index(max(size))
        size[axis] = -(-size[axis] // 2)
    return average_to(feature, size).flatten(2).transpose(1, 2)
