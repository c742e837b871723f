"""Folder for ``nnUNet_extTrainer``: stock nnU-Net finds our trainers in it by name."""
