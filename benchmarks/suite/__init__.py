"""The suite: LoRA against aLoRA and the base model, against every peer, with the machine's limit beside it."""
