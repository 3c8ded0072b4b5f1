"""Privacy: find what belongs to people or gives access to something, and take it out before anything learns it.

E-mail addresses, telephone numbers, internet addresses, payment cards, bank accounts, national ids, keys and passwords.
Names and postal addresses are not looked for: telling them from other words needs a model.
"""

from underlay.data.curate.privacy.change import Pseudonyms, Substitute, change, placeholder, read_key
from underlay.data.curate.privacy.find import Finder, PrivacyConfig, find
from underlay.data.curate.privacy.spans import Group, Span, group_of

__all__ = [
    "Finder",
    "Group",
    "PrivacyConfig",
    "Pseudonyms",
    "Span",
    "Substitute",
    "change",
    "find",
    "group_of",
    "placeholder",
    "read_key",
]
