"""GraphNet Zoo: semi-supervised classification by label diffusion on a graph of embeddings.

A network turns images into rows of features, their nearest neighbors make a graph, and a few
labels spread over it; in the dynamic pass the spread labels train the network further.
"""
