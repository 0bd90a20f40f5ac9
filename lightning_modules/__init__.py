"""The LightningModule, its networks, cost and weights."""
