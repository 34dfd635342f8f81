"""Data sets, transforms and the Lightning data module."""
