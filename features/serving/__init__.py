"""The feature server: Feast's own, over HTTP on this machine, behind a gateway that decides what may be asked of it.

For callers that are not Python, or that should not open the files themselves. It reads the generation in use at each
request, like every reader, so a materialization needs no restart. How features are stored does not belong here.
"""
