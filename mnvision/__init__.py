"""MobileNet for every vision task of its paper: train, evaluate and ship small fast models."""

__version__ = "0.1.0"
