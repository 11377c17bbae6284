"""The feature path: messages of a topic count in online features before a release has them.

A tail (`tails`) holds a view's events since the release that is served. Workers turn messages into events (`events`)
and append them to a `TailStore`; a request merges them with the release's state (`features.instants.tail`). `handover`
decides which events a new release takes over.
"""
