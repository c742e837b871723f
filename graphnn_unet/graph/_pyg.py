"""PyG's layers, which come without types: imported here alone, in one place."""

from torch_geometric.nn import ARMAConv, GATConv, GCNConv  # pyright: ignore[reportMissingTypeStubs]

__all__ = ["ARMAConv", "GATConv", "GCNConv"]
