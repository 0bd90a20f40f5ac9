"""Networks: plain torch modules, (B, 3, H, W) normalized images in, (B, K) logits out.

This package imports only torch and torchvision (and timm on request), so a network can be used outside the project.
"""
