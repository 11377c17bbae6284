"""Say of each line of a basket, while it is being paid, how likely it is fraud.

The sample has no fraud, so `injection` invents some. `model` learns from it, `evaluation` measures against two rules,
and `scoring` is the service: purchases from Kafka in, scores to Kafka out.
"""
