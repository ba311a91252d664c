"""Small things that every other room uses, and that use none of them."""
