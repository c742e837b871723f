"""Exact graph algebra on tensors: knows PyTorch and PyG, nothing of voxels, files or nnU-Net.

Node features are ``(b, n, c)`` or ``(n, c)``, assignments ``(..., n, k)``; functions return a value
per graph, work in float32 even inside autocast, and never mix the graphs of a batch. PyG is
imported with :class:`GraphClusterer`, when that is first asked for.

Papers that sources name:
    ARMAConv: https://arxiv.org/abs/1901.01343
    Chambolle and Pock 2011: https://doi.org/10.1007/s10851-010-0251-1
    DeepCut: https://arxiv.org/abs/2212.05853
    DMoN: https://arxiv.org/abs/2006.16904
    GATConv: https://arxiv.org/abs/1710.10903
    GCNConv: https://arxiv.org/abs/1609.02907
    GraphCL: https://arxiv.org/abs/2411.13147
    GraphNet Zoo: https://arxiv.org/abs/2003.06451
    MLLC: https://arxiv.org/abs/2404.02065
    Pock and Chambolle 2011: https://doi.org/10.1109/ICCV.2011.6126441
    UnSeGArmaNet: https://arxiv.org/abs/2410.06114
    UnSegGNet: https://arxiv.org/abs/2405.06057
    UnSegMedGAT: https://arxiv.org/abs/2411.01966
    Zhou et al. 2004: https://papers.nips.cc/paper/2506-learning-with-local-and-global-consistency
"""

from typing import TYPE_CHECKING

from graphnn_unet.graph.affinity import unit_rows
from graphnn_unet.graph.affinity_loss import (
    correlation_clustering_loss_from,
    modularity_loss_from,
    normalized_cut_loss_from,
)
from graphnn_unet.graph.alignment import StructureAlignment, normalized_sample_graph
from graphnn_unet.graph.class_masses import keep_class_masses
from graphnn_unet.graph.class_thresholds import class_thresholds, is_confident
from graphnn_unet.graph.cluster_head import CorrelationClusterHead
from graphnn_unet.graph.clusterer_settings import ClustererSettings
from graphnn_unet.graph.clustering_loss import (
    cluster_perplexity,
    correlation_clustering_loss,
    mean_cosine,
    modularity_loss,
    normalized_cut_loss,
)
from graphnn_unet.graph.diffusion import DiffusionSystem, diffuse_labels, similar_labels
from graphnn_unet.graph.embedding_loss import pair_loss
from graphnn_unet.graph.explicit import affinity_product, normalized_affinity
from graphnn_unet.graph.knn import Neighbors, knn_affinity, nearest_neighbors
from graphnn_unet.graph.label_correction import (
    CorrectedNodes,
    CorrectionSettings,
    CorrectionStep,
    LearnedStep,
    VoteStep,
    correct_labels,
    semantic_propagate,
)
from graphnn_unet.graph.lattice import lattice_affinity, link_affinity
from graphnn_unet.graph.minimum_cut import BalancedCut, Cut, balanced_cut, minimum_cut
from graphnn_unet.graph.propagation import class_graph_propagate, gram_convolution
from graphnn_unet.graph.prototypes import (
    ClassPrototypes,
    prototype_loss,
    self_weighted_entropy,
)
from graphnn_unet.graph.random_walker import Walk, random_walker, random_walker_by_blocks

if TYPE_CHECKING:
    from graphnn_unet.graph.clusterer import GraphClusterer

__all__ = [
    "BalancedCut",
    "ClassPrototypes",
    "ClustererSettings",
    "CorrectedNodes",
    "CorrectionSettings",
    "CorrectionStep",
    "CorrelationClusterHead",
    "Cut",
    "DiffusionSystem",
    "GraphClusterer",
    "LearnedStep",
    "Neighbors",
    "StructureAlignment",
    "VoteStep",
    "Walk",
    "affinity_product",
    "balanced_cut",
    "class_graph_propagate",
    "class_thresholds",
    "cluster_perplexity",
    "correct_labels",
    "correlation_clustering_loss",
    "correlation_clustering_loss_from",
    "diffuse_labels",
    "gram_convolution",
    "is_confident",
    "keep_class_masses",
    "knn_affinity",
    "lattice_affinity",
    "link_affinity",
    "mean_cosine",
    "minimum_cut",
    "modularity_loss",
    "modularity_loss_from",
    "nearest_neighbors",
    "normalized_affinity",
    "normalized_cut_loss",
    "normalized_cut_loss_from",
    "normalized_sample_graph",
    "pair_loss",
    "prototype_loss",
    "random_walker",
    "random_walker_by_blocks",
    "self_weighted_entropy",
    "semantic_propagate",
    "similar_labels",
    "unit_rows",
]


def __getattr__(name: str) -> object:
    """``GraphClusterer``, the only class that needs PyG, when it is first used."""
    if name == "GraphClusterer":
        from graphnn_unet.graph.clusterer import GraphClusterer

        return GraphClusterer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
