package packspans

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"mime"
	"net/http"

	"github.com/go-json-experiment/json/jsontext"
	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Bounds of what is decoded. An empty message has two bytes and takes a hundred once it is decoded, so messages are counted first.
const (
	maxMessages  = 64 << 10 // spans, attributes, values, events, links: all in one request
	maxDepth     = 32       // of messages within each other
	maxJSONDepth = 64       // of objects and arrays within each other
)

// format is the encoding of a request and its answer.
type format int

const (
	unknown format = iota
	protobuf
	jsonText
)

func formatOf(h http.Header) format {
	kind, _, _ := mime.ParseMediaType(h.Get("Content-Type"))
	switch kind {
	case "application/x-protobuf":
		return protobuf
	case "application/json":
		return jsonText
	}
	return unknown
}

// decompress undoes a content encoding.
func decompress(encoding string, body []byte) ([]byte, *refusal) {
	switch encoding {
	case "", "identity":
		return body, nil
	case "gzip":
	default:
		return nil, &refusal{status: http.StatusUnsupportedMediaType, result: "malformed", text: "Content-Encoding must be gzip or none"}
	}
	z, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		return nil, errMalformed
	}
	plain, err := io.ReadAll(io.LimitReader(z, maxDecoded+1))
	switch {
	case len(plain) > maxDecoded:
		return plain, tooLarge(maxDecoded)
	case err != nil:
		return plain, errMalformed
	}
	return plain, nil
}

// decode decodes a request whose parts are few enough.
func (f format) decode(b []byte) (*collectorpb.ExportTraceServiceRequest, *refusal) {
	request := new(collectorpb.ExportTraceServiceRequest)
	if f == jsonText {
		return request, decodeJSON(b, request)
	}
	messages := 0
	if refused := countMessages(b, request.ProtoReflect().Descriptor(), maxDepth, &messages); refused != nil {
		return nil, refused
	}
	if (proto.UnmarshalOptions{DiscardUnknown: true, RecursionLimit: maxDepth + 1}).Unmarshal(b, request) != nil { // text that isn't UTF-8, too
		return nil, errMalformed
	}
	return request, nil
}

// countMessages counts the messages in one of the kind of about, and the elements of its lists.
func countMessages(b []byte, about protoreflect.MessageDescriptor, depth int, n *int) *refusal {
	for len(b) > 0 {
		number, kind, size := protowire.ConsumeTag(b)
		if size < 0 || kind == protowire.StartGroupType || kind == protowire.EndGroupType {
			return errMalformed
		}
		b = b[size:]
		if size = protowire.ConsumeFieldValue(number, kind, b); size < 0 {
			return errMalformed
		}
		field := about.Fields().ByNumber(number)
		if field != nil && (field.IsList() || field.Message() != nil) {
			if *n++; *n > maxMessages || depth == 0 {
				return errTooMany
			}
		}
		if field != nil && field.Message() != nil && kind == protowire.BytesType {
			inner, _ := protowire.ConsumeBytes(b)
			if refused := countMessages(inner, field.Message(), depth-1, n); refused != nil {
				return refused
			}
		}
		b = b[size:]
	}
	return nil
}

// decodeJSON decodes OTLP's JSON. It is protobuf's, but for ids, which are hexadecimal instead of base64
// (https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding).
func decodeJSON(b []byte, request *collectorpb.ExportTraceServiceRequest) *refusal {
	if refused := countJSON(b); refused != nil {
		return refused
	}
	if (protojson.UnmarshalOptions{DiscardUnknown: true, RecursionLimit: maxJSONDepth}).Unmarshal(b, request) != nil {
		return errMalformed
	}
	for _, resource := range request.ResourceSpans {
		for _, scope := range resource.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				hexIDs(span)
			}
		}
	}
	return nil
}

// countJSON checks how many objects and arrays there are, and how deep.
func countJSON(b []byte) *refusal {
	d := jsontext.NewDecoder(bytes.NewReader(b), jsontext.AllowDuplicateNames(true)) // protojson refuses those
	for n := 0; ; {
		token, err := d.ReadToken()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return errMalformed
		}
		if kind := token.Kind(); kind == '{' || kind == '[' {
			if n++; n > maxMessages || d.StackDepth() > maxJSONDepth {
				return errTooMany
			}
		}
	}
}

func hexIDs(span *tracepb.Span) {
	span.TraceId, span.SpanId, span.ParentSpanId = unbase64(span.TraceId), unbase64(span.SpanId), unbase64(span.ParentSpanId)
	for _, link := range span.Links {
		link.TraceId, link.SpanId = unbase64(link.TraceId), unbase64(link.SpanId)
	}
}

// unbase64 returns the bytes of a hexadecimal id that was decoded as if it were base64. Both digits and length of ids suit base64, so nothing was lost.
// It is nil for anything else.
func unbase64(decoded []byte) []byte {
	id, err := hex.DecodeString(base64.StdEncoding.EncodeToString(decoded))
	if err != nil {
		return nil
	}
	return id
}

// success is the answer to a request whose spans were taken, but for the rejected.
func (f format) success(rejected rejections) Answer {
	response := new(collectorpb.ExportTraceServiceResponse)
	if n := rejected.total(); n > 0 {
		response.PartialSuccess = &collectorpb.ExportTracePartialSuccess{RejectedSpans: int64(n), ErrorMessage: "dropped: " + rejected.String()}
	}
	return f.answer(http.StatusOK, response)
}

// failure is the answer to a request that was refused. Its body is a Status, as OTLP has it.
func (f format) failure(r *refusal) Answer {
	code := codes.InvalidArgument
	switch r.status {
	case http.StatusForbidden:
		code = codes.PermissionDenied
	case http.StatusNotFound:
		code = codes.Unimplemented
	case http.StatusTooManyRequests:
		code = codes.ResourceExhausted
	}
	a := f.answer(r.status, &status.Status{Code: int32(code), Message: r.text})
	a.RetryAfter = r.wait
	return a
}

func (f format) answer(code int, m proto.Message) Answer {
	if f == jsonText {
		body, _ := protojson.Marshal(m) // of texts of ours: it can't fail
		return Answer{Status: code, ContentType: "application/json", Body: body}
	}
	body, _ := proto.Marshal(m)
	return Answer{Status: code, ContentType: "application/x-protobuf", Body: body}
}
