"""How the known Prometheus exporters of Xray name users' counters: format of a source -> names. Data, no code.

Read from the exporters' own sources. Not here: reading a page (prometheus_text), what a counter is worth (xray_outputs).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class PrometheusNames:
    """How an exporter names things. `only`: labels a user's series must have. `healthy`: a gauge that must not be 0."""

    uplink: str
    downlink: str
    identity: str
    only: Mapping[str, str] = field(default_factory=dict)
    inbound: str | None = None
    node: str | None = None
    env: str | None = None
    uptime: str | None = None
    healthy: str | None = None
    collected_at: str | None = None


PROMETHEUS: Mapping[str, PrometheusNames] = {
    "prometheus_compassvpn": PrometheusNames(
        uplink="xray_traffic_uplink_bytes_total",
        downlink="xray_traffic_downlink_bytes_total",
        identity="target",
        only={"dimension": "user"},
        uptime="xray_uptime_seconds",
        healthy="xray_up",
    ),
    "prometheus_wi1dcard": PrometheusNames(
        uplink="v2ray_traffic_uplink_bytes_total",
        downlink="v2ray_traffic_downlink_bytes_total",
        identity="target",
        only={"dimension": "user"},
        uptime="v2ray_uptime_seconds",
        healthy="v2ray_up",
    ),
    "prometheus_x_evor": PrometheusNames(
        uplink="xray_user_uplink_bytes",
        downlink="xray_user_downlink_bytes",
        identity="uuid",
        inbound="inbound_tag",
        node="node_id",
        env="env",
        healthy="xray_exporter_collect_success",
        collected_at="xray_exporter_collect_timestamp_seconds",
    ),
}
