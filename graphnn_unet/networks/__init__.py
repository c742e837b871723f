"""The alignment block in any network of nnU-Net, and folding it out again."""
