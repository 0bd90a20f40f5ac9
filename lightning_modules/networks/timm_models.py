"""Any network of timm, by its name there. Needs the extra `timm`."""

import importlib

from torch import nn

from lightning_modules.networks.errors import NetworkError


def timm_model(*, name: str, num_classes: int) -> nn.Module:
    """Build the named network with random weights and a last layer for `num_classes`.

    Raises:
        NetworkError: timm is not installed, or has no network of this name. Names with a scheme (hf-hub:, local-dir:) have
            timm fetch what a checkpoint names, and are refused.
    """
    try:
        timm = importlib.import_module("timm")
    except ImportError as error:
        raise NetworkError("model=timm: timm is not installed; install it with pip install -e '.[timm]'") from error
    if name not in timm.list_models():
        near = timm.list_models(f"*{name.split('_')[0].split(':')[-1]}*")[:8]
        hint = f"near it: {', '.join(near)}" if near else "timm.list_models() lists them"
        raise NetworkError(f"model.name={name}: timm has no network of this name; {hint}")
    return timm.create_model(name, pretrained=False, num_classes=num_classes)
