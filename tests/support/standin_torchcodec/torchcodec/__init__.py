"""A stand-in for torchcodec, as far as the decoder nvdec uses it: PyAV decodes, on the CPU."""
