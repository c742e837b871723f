"""What is decided before training: plans from the data, recipes from the method."""
