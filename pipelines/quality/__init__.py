"""Linear models of text quality and safety: features, fitting, the rows they are trained on, and the report."""
