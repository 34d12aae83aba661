"""Logs as TFDS data sets in ArrayRecord files: written, read back, and read by Grain; needs the extra `tfds`.

`builder` registers the data set `raserec_log`, one example per user; `folder` is a whole log in it; `histories` reads
single users by their number; `interactions` reads any other TFDS data set of interactions.
"""
