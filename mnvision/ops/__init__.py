"""Pure functions: boxes, anchors, losses, post-processing, images."""
