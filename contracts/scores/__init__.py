"""Scores: what models say about a release. A scoring is added whole, in one commit, and is never changed."""
