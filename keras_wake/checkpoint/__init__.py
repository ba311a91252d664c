"""Files that are written whole, and the state of a run in one of them."""
