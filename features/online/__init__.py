"""The online store: generations of rows, loaded from a release into sqlite files, Redis or PostgreSQL, and compared
with training before they are served.

All three backends implement `features.online.generation`; `MILLRACE_ONLINE` selects one.
"""
