"""Recipes: named stages in order, each an artifact, each reused where its result is already there.

`recipe` reads the YAML, `stages` says what can be set in each stage, `verbs` does each stage's work, `run` goes through
them.
"""

from underlay.recipe.recipe import Recipe, read_recipe
from underlay.recipe.run import Listener, run_recipe

__all__ = ["Listener", "Recipe", "read_recipe", "run_recipe"]
