"""Folder in, checked store, stream of augmented batches out."""
