"""One path from a JSONL training file to token ids and a loss mask, for the service's checks and for the trainer."""
