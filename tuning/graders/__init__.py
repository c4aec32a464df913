"""What scores a model's answer: one file a kind, the same rules for the graders API and for rewards in training."""
