"""The ports: one folder each, everything that knows an architecture inside it."""
