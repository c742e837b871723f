"""Prediction, and models on their way out and in."""
