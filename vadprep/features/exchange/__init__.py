"""The feature trees of other code bases, in and out: .npy files by name, list files, ground truth.

``layouts`` knows the names, ``arrays`` the files of one video, ``fitting`` turns counts of clips
into spans, ``importing`` and ``exporting`` go through whole sets, one video in memory at a time.
Needs numpy and h5py only; nothing that is read runs code.
"""
