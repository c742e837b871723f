"""A grid of trainings, compared honestly: what runs, how it is kept, and what it shows."""
