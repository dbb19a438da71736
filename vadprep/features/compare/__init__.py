"""Two sets of features of the same videos: how far they agree, and a guess at what differs.

``sets`` opens our folders and foreign trees, ``lengths`` looks at the numbers of clips,
``pairing`` brings clips and crops together, ``measures`` gives the figures, ``words`` says what
they look like, and ``comparing`` goes through the videos. Needs numpy and h5py only.
"""
