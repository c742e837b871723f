"""From a raw folder to checked, preprocessed and augmented batches."""
