"""A trained model as a thing: find, load, predict a folder, export, install."""
