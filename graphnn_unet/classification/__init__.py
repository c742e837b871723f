"""GraphNet Zoo: semi-supervised classification by label diffusion on a graph of embeddings."""
