"""The words all rooms share: records, errors, specs and presets, clips and crops, files."""
