"""Sliding window on a network, export of its logits, one case written; knows no trainer."""
