"""Exact graph algebra on tensors: knows PyTorch and PyG, nothing of voxels, files or nnU-Net.

Node features are ``(b, n, c)`` or ``(n, c)``, assignments ``(..., n, k)``; functions return a value
per graph, work in float32 even inside autocast, and never mix the graphs of a batch.
"""

from graphnn_unet.graph.alignment import StructureAlignment, normalized_sample_graph
from graphnn_unet.graph.clusterer import CorrelationClusterHead
from graphnn_unet.graph.clustering_loss import (
    cluster_perplexity,
    correlation_clustering_loss,
    mean_cosine,
)

__all__ = [
    "CorrelationClusterHead",
    "StructureAlignment",
    "cluster_perplexity",
    "correlation_clustering_loss",
    "mean_cosine",
    "normalized_sample_graph",
]
