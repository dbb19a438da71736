"""The words that all rooms share: records, errors, specs and presets, clips and crops, files.

Every module here may be imported by every room, for example ``vadprep.core.clips``.
"""
