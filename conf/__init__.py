"""Hydra configs, shipped as the package ``mnvision.conf``."""
