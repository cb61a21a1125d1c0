"""Sends spans where the variables of OpenTelemetry say, as its libraries do."""

import os
import urllib.request

print(*(os.environ[f"OTEL_{name}"] for name in ("EXPORTER_OTLP_PROTOCOL", "METRICS_EXPORTER", "LOGS_EXPORTER")))
with urllib.request.urlopen(os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] + "/v1/traces", b"spans", timeout=10) as answer:
    print(answer.read().decode())
