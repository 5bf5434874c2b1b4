"""`billing pseudonym NAME`, and names that a person writes -> names as they are kept. Not here: the rule (personal_names)."""

from rich.markup import escape

from billing_pipeline.sources.personal_names import has_address, without_addresses
from console.screen import page
from resources.pseudonym_key import pseudonym_key
from resources.settings import Settings
from resources.traffic_receipts import e_mail_pseudonyms


def kept(settings: Settings, name: str) -> str:
    """Return the name under which an owner, a repository or a client is kept: pseudonyms in the place of e-mail addresses."""
    if not has_address(name):
        return name
    return without_addresses(name, e_mail_pseudonyms(pseudonym_key(settings.pseudonym_key_file)))


def show_pseudonym(settings: Settings, name: str) -> None:
    """Print how a name is kept."""
    page().print(escape(kept(settings, name)))
