"""Models that are trained on the features and served with them: what the lake is for. Each shows the whole way, from labels to an answer."""
