"""What `bench/generate.py` is made of: the models, the sides in processes of their own, and what is told of them."""
