"""A run from yaml to model: the Brain, schedules, checkpoints, export."""
