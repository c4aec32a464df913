"""The fine-tuning resource: jobs, their events and checkpoints."""
