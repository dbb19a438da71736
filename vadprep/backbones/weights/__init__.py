"""Weight files: the catalogue, the formats, tensor names and checks."""
