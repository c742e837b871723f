"""Unsupervised segmentation: one image, its patches as nodes, clusters as segments."""
