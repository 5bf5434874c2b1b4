"""Ask a node for one of Xray's own outputs over HTTPS: (source, now) -> one snapshot, or an error of that source.

Such an output has no history: what it said a minute ago nobody can ask for. Offers what the exporter's client offers. Not here:
what an output says (billing_pipeline/sources/xray_outputs), HTTP and credentials (exporter_transport).
"""

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime

from billing_pipeline.errors import BillingError
from billing_pipeline.sources.prometheus_text import PrometheusTextError
from billing_pipeline.sources.traffic_snapshots import BodyUnreadableError, Pseudonymise, TrafficSnapshot
from billing_pipeline.sources.xray_outputs import XrayNodeError, XrayOutputError, XraySilentError, read_output
from resources.exporter_client import ExporterIdentityError, WindowPage
from resources.exporter_transport import ExporterAnswerError, ExporterConnection, ExporterErrorKind
from resources.traffic_config import TrafficSource


class XrayOutputClient:
    """The present counters of one source whose format is an output of Xray. Close it after use."""

    def __init__(
        self,
        source: TrafficSource,
        environ: Mapping[str, str],
        *,
        allow_http: bool = False,
        pseudonymise: Pseudonymise | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """`base_url` is the whole address of the output; the rest is as for `ExporterClient`."""
        self._source = source
        self._pseudonymise = pseudonymise
        self._clock = clock
        self._connection = ExporterConnection(source, environ, allow_http=allow_http, pause=pause)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def latest(self) -> TrafficSnapshot | None:
        """Return the counters as they are now; None while the exporter cannot ask Xray.

        Raises:
            ExporterIdentityError: the output names another node or environment.
            ExporterAnswerError: the answer is no such output.
            ExporterError: it cannot be reached, or refuses (see exporter_transport).
        """
        source = self._source
        assert source.format != "snapshots"
        body = self._connection.get("", {})
        try:
            return read_output(
                body,
                output_format=source.format,
                env=source.env,
                node=source.node,
                collected_at=self._clock(),
                pseudonymise=self._pseudonymise,
            )
        except XraySilentError:
            return None
        except XrayNodeError as error:
            raise ExporterIdentityError(source.name, ExporterErrorKind.IDENTITY, error.what, fix=error.fix) from error
        except (BodyUnreadableError, PrometheusTextError, XrayOutputError) as error:
            # What was read may hold an address or an e-mail: only our own words go on.
            raise _malformed(source, error) from None

    def window(self, since: datetime, until: datetime) -> Iterator[WindowPage]:
        """Yield one empty page: Xray keeps no history."""
        yield WindowPage(snapshots=(), rejected=(), has_more=False)


def _malformed(source: TrafficSource, error: BillingError) -> ExporterAnswerError:
    return ExporterAnswerError(source.name, ExporterErrorKind.MALFORMED, error.what, fix=error.fix)
