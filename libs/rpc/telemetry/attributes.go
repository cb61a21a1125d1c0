package telemetry

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strconv"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/text"
)

// maxUserAgent bounds the user agent in a span, in bytes: clients choose it.
const maxUserAgent = 256

// requestID is the attribute by which a span leads to log lines and audit entries, and back.
const requestID = attribute.Key("rumi.request_id")

// describeServed gives a server's span what OpenTelemetry's conventions for HTTP have. The path comes without its query, which may have
// credentials in it.
func describeServed(ctx context.Context, span trace.Span, r *http.Request, route string, code int) {
	from := origin.Of(ctx)
	all := append(make([]attribute.KeyValue, 0, 12),
		semconv.HTTPRequestMethodKey.String(knownMethod(r.Method)), semconv.HTTPResponseStatusCode(code), semconv.URLScheme(schemeOf(r)),
		semconv.URLPath(pathAsked(r.URL)), semconv.NetworkProtocolVersion(protocolVersion(r.ProtoMajor, r.ProtoMinor)), requestID.String(from.RequestID))
	if route != "" {
		span.SetName(route)
		all = append(all, semconv.HTTPRoute(pathOf(route)))
	}
	if from.Caller == "" { // a client's of the suite. Of a request between services the span above says the rest
		if from.Address != "" {
			all = append(all, semconv.ClientAddress(from.Address))
		}
		if agent := r.Header.Get("User-Agent"); agent != "" {
			all = append(all, semconv.UserAgentOriginal(text.Clip(agent, maxUserAgent)))
		}
	}
	if code >= http.StatusInternalServerError {
		all = append(all, semconv.ErrorTypeKey.String(strconv.Itoa(code)))
		span.SetStatus(codes.Error, "")
	}
	span.SetAttributes(all...)
}

// describeCalled gives a client's span whom it asks and what came of it; the server's span below has the rest. r is as it was sent; response is nil
// if err isn't. Each attribute costs a tenth of a span, most of it when it is encoded.
func describeCalled(span trace.Span, r *http.Request, response *http.Response, err error) {
	all := append(make([]attribute.KeyValue, 0, 5), semconv.HTTPRequestMethodKey.String(r.Method))
	host, port, splitErr := net.SplitHostPort(r.URL.Host)
	if number, err := strconv.Atoi(port); splitErr == nil && err == nil {
		all = append(all, semconv.ServerAddress(host), semconv.ServerPort(number))
	} else {
		all = append(all, semconv.ServerAddress(r.URL.Host))
	}
	if err != nil {
		span.SetAttributes(append(all, semconv.ErrorTypeKey.String(errorType(err)))...)
		span.SetStatus(codes.Error, err.Error())
		return
	}
	all = append(all, semconv.HTTPResponseStatusCode(response.StatusCode))
	if response.StatusCode >= http.StatusBadRequest {
		all = append(all, semconv.ErrorTypeKey.String(strconv.Itoa(response.StatusCode)))
		span.SetStatus(codes.Error, "")
	}
	span.SetAttributes(all...)
}

// errorType is why a request has no answer, of a fixed set.
func errorType(err error) string {
	switch {
	case errors.Is(err, context.Canceled):
		return "cancelled"
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	}
	return "unavailable"
}

func pathAsked(u *url.URL) string { return text.Clip(u.EscapedPath(), maxPath) }

func schemeOf(r *http.Request) string {
	if r.TLS != nil {
		return "https"
	}
	return "http"
}

// protocolVersion is that of HTTP, as OpenTelemetry writes it.
func protocolVersion(major, minor int) string {
	switch {
	case major >= 2:
		return strconv.Itoa(major)
	case minor == 0:
		return "1.0"
	}
	return "1.1"
}
