package packspans

import (
	"math"
	"time"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	"go.opentelemetry.io/otel/trace"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/rumi-ai/rumi/libs/packtrace"
)

// Bounds of what is sent on. Spans beyond maxSpans are dropped; of the rest, what is beyond is cut off, and counted as OpenTelemetry has it.
const (
	maxSpans              = 1024 // of one request; libraries send 512 at most
	maxSpanBytes          = 16 << 10
	maxAttributes         = 128
	maxEvents             = 32
	maxLinks              = 16
	maxPartAttributes     = 16 // of an event, a link or a scope
	maxResourceAttributes = 32
	maxName               = 256 // bytes of the name of a span, an event or a scope, and of a status message
	maxVersion            = 64
	maxTraceState         = 512

	maxAge   = 24 * time.Hour // times before are set to that
	maxAhead = time.Minute    // times later are, too: clocks differ
)

const (
	// serviceNamespace and servicePrefix keep packs' names apart from those of Rumi's services, whose namespace is rumi.
	serviceNamespace = "rumi-packs"
	servicePrefix    = "pack:"
	resourcePrefix   = "pack.resource."
)

// rewriter makes of a request's spans those that are sent on. It builds every message anew: what it doesn't know stays behind.
type rewriter struct {
	packID  string
	key     *packtrace.Key
	samples func(trace.TraceID) bool // whether a new trace of that id is recorded
	now     time.Time
	allowed int // spans, by the pack's rate

	kept     int
	rejected rejections
}

func (r *rewriter) rewrite(all []*tracepb.ResourceSpans) []*tracepb.ResourceSpans {
	var out []*tracepb.ResourceSpans
	for _, in := range all {
		one := &tracepb.ResourceSpans{}
		for _, scope := range in.GetScopeSpans() {
			if spans := r.spans(scope.GetSpans()); len(spans) > 0 {
				one.ScopeSpans = append(one.ScopeSpans, &tracepb.ScopeSpans{Scope: scopeOf(scope.GetScope()), Spans: spans})
			}
		}
		if len(one.ScopeSpans) > 0 {
			one.Resource = r.resource(in.GetResource())
			out = append(out, one)
		}
	}
	return out
}

// resource is whose spans they are. All of it is Rumi's; what the pack says about itself stands below pack.resource.
func (r *rewriter) resource(in *resourcepb.Resource) *resourcepb.Resource {
	b := bounds{bytes: maxSpanBytes}
	own, dropped := b.attributes(in.GetAttributes(), maxResourceAttributes, resourcePrefix)
	return &resourcepb.Resource{
		Attributes: append([]*commonpb.KeyValue{
			stringAttribute(semconv.ServiceNameKey, servicePrefix+r.packID),
			stringAttribute(semconv.ServiceNamespaceKey, serviceNamespace),
			stringAttribute("rumi.pack_id", r.packID),
			{Key: "rumi.untrusted", Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_BoolValue{BoolValue: true}}},
		}, own...),
		DroppedAttributesCount: add(in.GetDroppedAttributesCount(), dropped),
	}
}

func stringAttribute(key attribute.Key, value string) *commonpb.KeyValue {
	return &commonpb.KeyValue{Key: string(key), Value: stringValue(value)}
}

// scopeOf is the library that made spans, as the pack says. Its name is marked, since some programs show it without the resource.
func scopeOf(in *commonpb.InstrumentationScope) *commonpb.InstrumentationScope {
	b := bounds{bytes: maxSpanBytes}
	attributes, dropped := b.attributes(in.GetAttributes(), maxPartAttributes, "")
	return &commonpb.InstrumentationScope{
		Name: servicePrefix + line(in.GetName(), maxName), Version: line(in.GetVersion(), maxVersion),
		Attributes: attributes, DroppedAttributesCount: add(in.GetDroppedAttributesCount(), dropped),
	}
}

func (r *rewriter) spans(all []*tracepb.Span) []*tracepb.Span {
	var out []*tracepb.Span
	for _, in := range all {
		switch {
		case r.kept >= maxSpans:
			r.rejected[overLimit]++
		case r.kept >= r.allowed:
			r.rejected[rateLimited]++
		default:
			span, why := r.span(in)
			if span == nil {
				r.rejected[why]++
				continue
			}
			r.kept++
			out = append(out, span)
		}
	}
	return out
}

// span returns a span as it is sent on, or why it isn't.
func (r *rewriter) span(in *tracepb.Span) (*tracepb.Span, reason) {
	id, ok := spanID(in.GetSpanId())
	traceID, sampled, known := r.trace(in.GetTraceId(), in.GetTraceState())
	switch {
	case !ok || !known:
		return nil, invalid
	case !sampled:
		return nil, unsampled
	}
	parent, _ := spanID(in.GetParentSpanId())
	if parent != nil && string(parent) == string(id) {
		return nil, invalid // a loop
	}
	begin, end := r.times(in)
	b := bounds{bytes: maxSpanBytes}
	attributes, dropped := b.attributes(in.GetAttributes(), maxAttributes, "")
	out := &tracepb.Span{
		TraceId: traceID, SpanId: id, ParentSpanId: parent, TraceState: traceState(in.GetTraceState()), Flags: flags(in.GetFlags()),
		Name: line(in.GetName(), maxName), Kind: kind(in.GetKind()), StartTimeUnixNano: begin, EndTimeUnixNano: end,
		Attributes: attributes, DroppedAttributesCount: add(in.GetDroppedAttributesCount(), dropped), Status: statusOf(in.GetStatus()),
	}
	out.Events, dropped = r.events(&b, in.GetEvents())
	out.DroppedEventsCount = add(in.GetDroppedEventsCount(), dropped)
	out.Links, dropped = r.links(&b, in.GetLinks())
	out.DroppedLinksCount = add(in.GetDroppedLinksCount(), dropped)
	return out, exported
}

// trace is the trace that a pack's trace is in Rumi: the same if Rumi handed it to this pack, else one that no other pack and no service can have.
// Whether it is recorded was decided when it was handed out; of its own ones the pack doesn't decide it either. known is false for what is no id.
func (r *rewriter) trace(raw []byte, state string) (mapped []byte, sampled, known bool) {
	var id trace.TraceID
	if copy(id[:], raw) != len(id) || len(raw) != len(id) || !id.IsValid() {
		return nil, false, false
	}
	sampled, joined := r.key.Check(r.packID, id, state)
	if !joined {
		id = r.key.Map(r.packID, id)
		sampled = r.samples(id)
	}
	return id[:], sampled, true
}

// spanID returns an id of a span, and whether it is one; nil if not.
func spanID(raw []byte) ([]byte, bool) {
	var id trace.SpanID
	if copy(id[:], raw) != len(id) || len(raw) != len(id) || !id.IsValid() {
		return nil, false
	}
	return id[:], true
}

// traceState is what a pack's libraries keep in a trace, without Rumi's proof.
func traceState(s string) string {
	parsed, err := trace.ParseTraceState(packtrace.Strip(s))
	if err != nil || parsed.Len() == 0 || len(parsed.String()) > maxTraceState {
		return ""
	}
	return parsed.String()
}

// flags has the bits that OpenTelemetry defines: those of W3C Trace Context, and whether the parent is remote.
func flags(f uint32) uint32 {
	const defined = uint32(tracepb.SpanFlags_SPAN_FLAGS_TRACE_FLAGS_MASK | tracepb.SpanFlags_SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK | tracepb.SpanFlags_SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK)
	return f&defined | uint32(trace.FlagsSampled)
}

func kind(k tracepb.Span_SpanKind) tracepb.Span_SpanKind {
	if k < tracepb.Span_SPAN_KIND_INTERNAL || k > tracepb.Span_SPAN_KIND_CONSUMER {
		return tracepb.Span_SPAN_KIND_INTERNAL // as the protocol says of what isn't specified
	}
	return k
}

func statusOf(in *tracepb.Status) *tracepb.Status {
	if in == nil || in.Code < tracepb.Status_STATUS_CODE_UNSET || in.Code > tracepb.Status_STATUS_CODE_ERROR {
		return nil
	}
	return &tracepb.Status{Code: in.Code, Message: line(in.Message, maxName)}
}

// times are a span's begin and end: within a day, in order.
func (r *rewriter) times(in *tracepb.Span) (begin, end uint64) {
	begin = r.clamp(in.GetStartTimeUnixNano())
	return begin, max(begin, r.clamp(in.GetEndTimeUnixNano()))
}

func (r *rewriter) clamp(t uint64) uint64 {
	return min(max(t, uint64(r.now.Add(-maxAge).UnixNano())), uint64(r.now.Add(maxAhead).UnixNano()))
}

func (r *rewriter) events(b *bounds, all []*tracepb.Span_Event) (out []*tracepb.Span_Event, dropped uint32) {
	for _, in := range all {
		if len(out) == maxEvents || !b.take(partBytes) {
			dropped++
			continue
		}
		attributes, n := b.attributes(in.GetAttributes(), maxPartAttributes, "")
		out = append(out, &tracepb.Span_Event{
			TimeUnixNano: r.clamp(in.GetTimeUnixNano()), Name: b.line(in.GetName(), maxName),
			Attributes: attributes, DroppedAttributesCount: add(in.GetDroppedAttributesCount(), n),
		})
	}
	return out, dropped
}

// links returns the links to other traces, whose ids are mapped as a span's own.
func (r *rewriter) links(b *bounds, all []*tracepb.Span_Link) (out []*tracepb.Span_Link, dropped uint32) {
	for _, in := range all {
		id, ok := spanID(in.GetSpanId())
		traceID, _, known := r.trace(in.GetTraceId(), in.GetTraceState())
		if !ok || !known || len(out) == maxLinks || !b.take(partBytes) {
			dropped++
			continue
		}
		attributes, n := b.attributes(in.GetAttributes(), maxPartAttributes, "")
		out = append(out, &tracepb.Span_Link{
			TraceId: traceID, SpanId: id, TraceState: traceState(in.GetTraceState()), Flags: flags(in.GetFlags()),
			Attributes: attributes, DroppedAttributesCount: add(in.GetDroppedAttributesCount(), n),
		})
	}
	return out, dropped
}

// add adds what was dropped here to what was dropped before, as far as that goes.
func add(before, dropped uint32) uint32 {
	return uint32(min(uint64(before)+uint64(dropped), math.MaxUint32))
}
