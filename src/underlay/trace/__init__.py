"""From an answer back to the documents a model has read: an index over its training tokens, and verbatim spans."""
