"""Networks: plain torch modules, (B, 3, H, W) normalized images in, (B, K) logits out.

This package imports torch and torchvision alone (and timm on request), so that a network can be lifted out of the project.
"""
