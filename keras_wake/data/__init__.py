"""Checks of images, labels and batches, for `fit` and every evaluation."""
