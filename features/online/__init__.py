"""What is served: generations of rows, loaded from a release into a folder of sqlite files, a Redis or a PostgreSQL,
and compared with training before they count.

All three keep `features.online.generation`'s promises; `MILLRACE_ONLINE` says which one is used.
"""
