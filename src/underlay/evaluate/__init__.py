"""Evaluation: how well a model predicts text it never read, whether its code is code, and the report of it all."""
