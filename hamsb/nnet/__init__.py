"""What a yaml puts into a network: balls, heads, similarities and losses."""
