"""Where bytes lie: paths, object stores, locks, Delta tables and commits, releases, manifests. It knows contracts, and
no engine.
"""
