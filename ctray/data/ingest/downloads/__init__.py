"""Well-known downloads, read as they come: one module each, and the reading of what they say."""
