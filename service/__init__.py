"""The control plane: OpenAI's files, fine-tuning and models API, the dispatcher, and the gateway to vLLM."""

VERSION = "0.1.0"
