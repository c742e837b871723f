"""GraphNet Zoo: semi-supervised classification by label diffusion on a graph of embeddings.

A network turns images into rows of features, their nearest neighbors make a graph, and a few
labels are propagated over it; in the dynamic pass the propagated labels train the network further.

Source: de Vriendt et al., 2020, https://arxiv.org/abs/2003.06451.
"""
