"""Atomic files, locks, safe loading and worker processes: the bottom floor."""
