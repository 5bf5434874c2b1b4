"""Slack, by Dagster's own integration: notices as messages to one channel. And every way to people of an installation.

Not here: the other channels (resources/alerting/channels), what is told.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from resources.alerting.channel_settings import ChannelSettingsError, channels_of
from resources.alerting.channels import not_taken
from resources.alerting.notice import Channel, Notice

SLACK_TOKEN = "BILLING_SLACK_TOKEN"
SLACK_CHANNEL = "BILLING_ALERT_SLACK_CHANNEL"


@dataclass(frozen=True, slots=True, kw_only=True)
class SlackChannel:
    """Notices as messages in a channel of Slack. `open_client` makes Slack's client, with the token."""

    open_client: Callable[[], Any] = field(repr=False)
    channel: str
    name: str = "slack"

    def send(self, notice: Notice) -> None:
        """Post the notice."""
        from slack_sdk.errors import SlackClientError

        try:
            self.open_client().chat_postMessage(channel=self.channel, text=notice.text, mrkdwn=False)
        except SlackClientError as error:
            # Only Slack's own word for it, such as channel_not_found.
            problem = str(getattr(error, "response", {}).get("error") or type(error).__name__)
            raise not_taken(self.name, problem, fix="see that the app may post in the channel") from None
        except OSError as error:
            raise not_taken(self.name, type(error).__name__, fix="see that Slack answers") from None


def all_channels(environ: Mapping[str, str]) -> tuple[Channel, ...]:
    """Return every way to people that the environment names, the log among them.

    Raises:
        ChannelSettingsError: one of them is set by halves.
    """
    token, channel = environ.get(SLACK_TOKEN, ""), environ.get(SLACK_CHANNEL, "")
    if bool(token) != bool(channel):
        raise ChannelSettingsError(
            f"{SLACK_TOKEN if token else SLACK_CHANNEL} is set and {SLACK_CHANNEL if token else SLACK_TOKEN} is not",
            bill="none; nobody is told of anything in Slack",
            fix=f"set both {SLACK_TOKEN} and {SLACK_CHANNEL}, or neither",
        )
    others = channels_of(environ)
    return (*others, SlackChannel(open_client=lambda: _slack_client(token), channel=channel)) if token else others


def _slack_client(token: str) -> Any:
    # Long to import, and for those alone who use it.
    from dagster_slack import SlackResource

    return SlackResource(token=token).get_client()
