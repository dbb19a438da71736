"""A file becomes frames, and frames become resized, cropped views."""
