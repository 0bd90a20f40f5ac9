"""Explain predictions: where the network looked, and which training images are similar."""
