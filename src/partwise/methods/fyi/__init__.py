"""FYI (Son et al., 2024): a handful of synthetic pictures in place of a data set, matched together with their mirror images."""
