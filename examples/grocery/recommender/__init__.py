"""What will a customer buy in the next seven days? Trained on `recommendation_v1`, judged on a week that it has not
seen, served online.

`candidates` says which products are considered, `model` fits, `evaluation` judges, `serving` answers for one customer.
"""
