"""Preparation of logs that are larger than memory: the log that `preparation` makes, by passes over files.

`gather` reads the source into pieces, `divide` deals them out into parts by ranges of user ids, `order` sorts and
filters each part by itself, `core` drops rare users and items in passes over the parts, and `write` makes the folder of
a log of what is left. In memory are one part, and a few numbers and the label of every item.
"""
