"""The stages of a run: pre-training, fine-tuning, reinforcement."""
