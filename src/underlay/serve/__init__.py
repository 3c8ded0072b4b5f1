"""A model over HTTP: OpenAI's completions and chat, traces of what is said to the training data, and a page.

`create_app(engine, name, trace)` makes the app, `serve(app)` runs it.
"""

from underlay.serve.app import create_app
from underlay.serve.server import serve

__all__ = ["create_app", "serve"]
