"""Losses and estimators: pure functions on tensors."""
