"""What other libraries bring, behind extras: `hamsb.integrations.huggingface`."""
