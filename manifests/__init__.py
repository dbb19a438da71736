"""The bundled data sets: one CSV each, sources and counts in README.md."""
