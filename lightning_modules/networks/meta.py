"""Put networks on torch's meta device, where weights have names and shapes but no numbers and take no memory."""

import copy
import warnings
from collections.abc import Callable

import torch
from torch import nn


def on_meta(module: nn.Module) -> nn.Module:
    """Return a copy in eval mode on the meta device."""
    return copy.deepcopy(module).to("meta").eval()


def build_anywhere(build: Callable[[], nn.Module]) -> nn.Module:
    """Build a network on the default device, even on meta if it needs numbers to be built, as RegNet does for its widths."""
    device = torch.get_default_device()
    if device.type != "meta":
        return build()
    try:
        with warnings.catch_warnings():  # of weights that one of the user's own loads itself, which is nothing there
            warnings.filterwarnings("ignore", ".*meta parameter in the current model, which is a no-op")
            return build()
    except Exception:  # one of the user's own may raise anything there
        with torch.device("cpu"):
            return build().to(device)
