"""Chaos: operations of a small shop are killed at random, and the home that suffered it is compared with a control that did not. See docs/chaos.md.

`schedule` draws what happens from a seed, `operations` runs and kills commands, `points` counts what a command writes, `state` looks into a home, `online` asks what is served,
`truth` counts features from the landed rows, `episode` puts them together, `sabotage` breaks a guard to show that the harness notices.
"""
