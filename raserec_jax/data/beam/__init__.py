"""Preparation as Beam pipelines, for logs that outgrow one machine; needs the extra `beam`.

`steps` is what workers do, in plain Python; `pipelines` makes Beam's graphs of it; `prepare` runs them one after the
other, as what the k-core still drops decides whether there is another pass. What lies between two pipelines are lines
of JSON in a folder that all workers see.
"""
