"""One training step and one `fit` of a `WakeModel`."""
