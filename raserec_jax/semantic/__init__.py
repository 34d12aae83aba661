"""The offline text pipeline of SRA-CL: item text -> descriptions -> vectors -> neighbour tables.

`tables` is what training reads and needs NumPy only; `pipeline.embed_text` makes it. Nothing is imported here.
"""
