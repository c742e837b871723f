"""Images and label maps of any common kind: found, read, and compared by their grids."""
