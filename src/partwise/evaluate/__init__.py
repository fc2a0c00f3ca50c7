"""Measurements as plug-ins: each asks a model for a small protocol and knows no method."""
