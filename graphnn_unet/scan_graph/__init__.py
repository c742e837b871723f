"""Labels that travel between patients: a graph of scans whose links are registrations.

Registration sees no label, so what it says about an unlabeled scan is independent of the network.
``registration.py`` makes a link, ``fields.py`` keeps links on disk, ``neighbors.py`` chooses them,
``vote.py`` carries labels along them, ``solve.py`` solves the whole graph of voxels, and
``verdict.py`` asks the labeled scans whether any of it can be trusted on this data set.
"""
