"""Views of instants: features computed when they are read, for any instant, from the events before it.

`declaration` says what a view computes, `offline` computes it for labels with DuckDB, `state` packs what is known of an
entity for the online store, and `fold` computes its features from that.
"""
