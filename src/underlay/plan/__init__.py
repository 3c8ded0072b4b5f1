"""Plan: what a model costs in arithmetic, and what the machine at hand can do."""
