"""What the service and the trainer must agree on: the contract of a run, the catalogue, the data."""
