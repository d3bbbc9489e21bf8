"""From a trial list and embeddings to scores, decisions, error rates and reports."""
