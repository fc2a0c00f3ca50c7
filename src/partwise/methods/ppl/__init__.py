"""Progressive patch learning: pixel masks from labels of whole pictures, up to a segmentation network."""
