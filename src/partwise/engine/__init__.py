"""Devices, the shared training loop, checkpoints, tracking and studies."""
