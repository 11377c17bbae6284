"""Chaos tests: kill operations at random and compare the home with an undisturbed control. See docs/chaos.md.

`schedule` derives an episode from a seed, `operations` runs and kills commands, `kill_points` counts the writes of a
command, `state` reads a home, `online` requests features, `expected` computes them by brute force, `episode` combines
these, `sabotage` breaks a guard to show that the harness notices.
"""

from contracts import project

project.load(project.DEFAULT)  # the sample, whose oracle says what features must be
