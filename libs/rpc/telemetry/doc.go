// Package telemetry records calls between services: Recorder (recorder.go) those that a service answers, as a span, a duration and
// a log line; RoundTrip (roundtrip.go) those that it makes, as a span. Both carry the trace context of W3C in the header traceparent.
package telemetry
