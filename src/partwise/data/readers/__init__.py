"""One module per real layout on disk."""
