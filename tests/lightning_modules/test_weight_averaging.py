import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from lightning_modules.weight_averaging import WarmedUpEMA


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9])
def test_the_average_is_that_of_the_formula_from_the_first_step_on(decay):
    """By torch's AveragedModel, which Lightning's callback holds: decays 2/11, 3/12, 4/13, ..., up to this one."""
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(3, 2)
    averaged, expected = AveragedModel(layer, avg_fn=WarmedUpEMA(decay=decay)), None
    for n in range(120):
        weights = torch.randn(2, 3, generator=generator)
        with torch.no_grad():
            layer.weight.copy_(weights)
        averaged.update_parameters(layer)
        share = min(decay, (1 + n) / (10 + n))
        expected = weights.double() if n == 0 else share * expected + (1 - share) * weights.double()
        torch.testing.assert_close(averaged.module.weight.double(), expected, rtol=0, atol=1e-5)
