"""What is read: annotations, audio, and how batches are drawn."""
