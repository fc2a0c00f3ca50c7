"""Pictures and labels: sources, readers, worlds, loading, augmentation and checks."""
