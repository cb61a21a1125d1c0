package packspans

import (
	"slices"
	"strings"
	"unicode/utf8"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"

	"github.com/rumi-ai/rumi/libs/text"
)

// Bounds of attributes.
const (
	maxKey      = 128
	maxString   = 4 << 10 // bytes of a string or of bytes
	maxElements = 64      // of an array or a map
	maxNesting  = 3       // arrays and maps within each other
	valueBytes  = 16      // what a value counts, beside its text
	partBytes   = 64      // what an event or a link counts, beside its name and attributes
)

// reserved begins the keys that say, or seem to say, whose a span is. Of a pack's they are put below "pack.".
var reserved = []string{"rumi.", "service.", "peer.service", "telemetry.", "otel.", "pack."}

// bounds is how many bytes may still be sent on of a span.
type bounds struct{ bytes int }

// take takes n bytes, or none if fewer are left.
func (b *bounds) take(n int) bool {
	if b.bytes < n {
		return false
	}
	b.bytes -= n
	return true
}

// line is a text of one line of at most so many bytes, and of no more than are left.
func (b *bounds) line(s string, most int) string {
	s = line(s, min(most, b.bytes))
	b.bytes -= min(len(s), b.bytes)
	return s
}

// line is a text of one line without hidden characters, of at most so many bytes and an ellipsis.
func line(s string, most int) string {
	return text.Clip(text.Escape(text.Prefix(s, most+utf8.UTFMax)), most)
}

// attributes returns attributes as they are sent on, with prefix before their keys: of those with the same key the first one, and as many as fit.
func (b *bounds) attributes(all []*commonpb.KeyValue, most int, prefix string) (out []*commonpb.KeyValue, dropped uint32) {
	for _, in := range all {
		key := attributeKey(in.GetKey(), prefix)
		if key == "" || len(out) == most || !b.take(len(key)) || slices.ContainsFunc(out, func(o *commonpb.KeyValue) bool { return o.Key == key }) {
			dropped++
			continue
		}
		value, ok := b.value(in.GetValue(), maxNesting)
		if !ok {
			dropped++
			continue
		}
		out = append(out, &commonpb.KeyValue{Key: key, Value: value})
	}
	return out, dropped
}

// attributeKey is the key that an attribute has in Rumi; "" if it has none.
func attributeKey(key, prefix string) string {
	key = line(key, maxKey)
	if key == "" {
		return ""
	}
	if prefix == "" && slices.ContainsFunc(reserved, func(r string) bool { return len(key) >= len(r) && strings.EqualFold(key[:len(r)], r) }) {
		prefix = "pack."
	}
	return prefix + key
}

// value returns a value as it is sent on; ok is false if there is no room for it.
func (b *bounds) value(in *commonpb.AnyValue, nesting int) (out *commonpb.AnyValue, ok bool) {
	if !b.take(valueBytes) {
		return nil, false
	}
	switch v := in.GetValue().(type) {
	case *commonpb.AnyValue_StringValue:
		s := lines(v.StringValue, maxString)
		return stringValue(s), b.take(len(s))
	case *commonpb.AnyValue_BytesValue:
		bytes := v.BytesValue[:min(len(v.BytesValue), maxString)]
		return &commonpb.AnyValue{Value: &commonpb.AnyValue_BytesValue{BytesValue: bytes}}, b.take(len(bytes))
	case *commonpb.AnyValue_BoolValue, *commonpb.AnyValue_IntValue, *commonpb.AnyValue_DoubleValue:
		return &commonpb.AnyValue{Value: v}, true
	case *commonpb.AnyValue_ArrayValue:
		return b.array(v.ArrayValue, nesting)
	case *commonpb.AnyValue_KvlistValue:
		if nesting == 0 {
			return stringValue("…"), true
		}
		return b.list(v.KvlistValue, nesting)
	}
	return &commonpb.AnyValue{}, true
}

func (b *bounds) array(in *commonpb.ArrayValue, nesting int) (*commonpb.AnyValue, bool) {
	if nesting == 0 {
		return stringValue("…"), true
	}
	out := &commonpb.ArrayValue{}
	for _, element := range in.GetValues() {
		value, ok := b.value(element, nesting-1)
		if !ok || len(out.Values) == maxElements {
			break
		}
		out.Values = append(out.Values, value)
	}
	return &commonpb.AnyValue{Value: &commonpb.AnyValue_ArrayValue{ArrayValue: out}}, true
}

func (b *bounds) list(in *commonpb.KeyValueList, nesting int) (*commonpb.AnyValue, bool) {
	out := &commonpb.KeyValueList{}
	for _, element := range in.GetValues() {
		key := line(element.GetKey(), maxKey)
		value, ok := b.value(element.GetValue(), nesting-1)
		if !ok || !b.take(len(key)) || len(out.Values) == maxElements {
			break
		}
		out.Values = append(out.Values, &commonpb.KeyValue{Key: key, Value: value})
	}
	return &commonpb.AnyValue{Value: &commonpb.AnyValue_KvlistValue{KvlistValue: out}}, true
}

func stringValue(s string) *commonpb.AnyValue {
	return &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: s}}
}

// lines is a text of at most so many bytes and an ellipsis, whose only hidden characters are line breaks and tabs, as in a stack trace.
func lines(s string, most int) string {
	s = text.Clip(s, most)
	if _, hidden := text.FirstHidden(s, "\n\r\t"); !hidden && utf8.ValidString(s) {
		return s
	}
	var out strings.Builder
	for i, one := range strings.Split(s, "\n") {
		if i > 0 {
			out.WriteByte('\n')
		}
		out.WriteString(text.Escape(one))
	}
	return text.Clip(out.String(), most)
}
