"""Noise, reverberation and speed, from local folders or simulated."""
