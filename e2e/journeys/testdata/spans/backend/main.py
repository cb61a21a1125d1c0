"""Traces a request as OpenTelemetry's documents show it. It knows of Rumi only the trace that it was handed."""

import os
import time

import requests
from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

provider = TracerProvider(resource=Resource.create({"service.name": "gateway", "rumi.untrusted": False}))
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
tracer = provider.get_tracer("spans", "1.0")
handed = propagate.extract({name.lower(): os.environ[name] for name in ("TRACEPARENT", "TRACESTATE") if name in os.environ})

while True:
    with tracer.start_as_current_span("fetch the forecast", context=handed, kind=trace.SpanKind.CLIENT) as span:
        span.set_attribute("rumi.pack_id", "other")
        headers = {}
        propagate.inject(headers)
        status = requests.get("http://tools.rumi.test:8081/hello", headers=headers, timeout=10).status_code
        span.set_attribute("http.response.status_code", status)
    print("flushed" if provider.force_flush() else "not flushed", status, flush=True)
    time.sleep(5)
