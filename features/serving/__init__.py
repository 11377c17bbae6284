"""The feature server: Feast's own HTTP server behind a gateway that admits requests.

For callers without Python or without access to the online store. It reads the generation in use at each request, so a
materialization needs no restart. Storage of features does not belong here.
"""
