"""What runs inside vLLM's own process: a resolver that pulls adapters by hash, and a guard over its paths."""
