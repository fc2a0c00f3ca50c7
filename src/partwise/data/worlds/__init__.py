"""Generated pictures with exact ground truth."""
