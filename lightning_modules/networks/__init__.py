"""Networks: plain torch modules, (B, 3, H, W) normalized images in, (B, K) logits out.

This package imports only torch and torchvision (and timm on request), so that a network can be lifted out of the project.
"""
