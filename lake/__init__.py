"""Storage: paths, object stores, locks, Delta tables and commits, releases, manifests. It depends on contracts only."""
