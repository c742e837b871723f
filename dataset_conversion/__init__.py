"""One file for each form in which data arrive; all return the records of ``records.py``."""
