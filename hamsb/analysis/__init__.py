"""What embeddings hold: clusters, hierarchy, radii."""
