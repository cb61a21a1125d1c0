package packtrace

import "go.opentelemetry.io/otel/trace"

// parentSize is the length of a traceparent of version 00: version, trace id, parent id and flags, with three hyphens.
const parentSize = 2 + 1 + 32 + 1 + 16 + 1 + 2

// parse reads a traceparent (https://www.w3.org/TR/trace-context/#traceparent-header). Later versions may have more after a hyphen, which is
// ignored, as the specification asks. It doesn't allocate: packs can send tens of thousands a second.
func parse(s string) (cfg trace.SpanContextConfig, ok bool) {
	if len(s) < parentSize || s[2] != '-' || s[35] != '-' || s[52] != '-' {
		return cfg, false
	}
	var version, flags [1]byte
	if !unhex(version[:], s[:2]) || !unhex(cfg.TraceID[:], s[3:35]) || !unhex(cfg.SpanID[:], s[36:52]) || !unhex(flags[:], s[53:55]) {
		return cfg, false
	}
	switch {
	case version[0] == 0xff, version[0] == 0 && len(s) != parentSize, len(s) > parentSize && s[parentSize] != '-':
		return cfg, false
	}
	cfg.TraceFlags, cfg.Remote = trace.TraceFlags(flags[0])&trace.FlagsSampled, true
	return cfg, cfg.TraceID.IsValid() && cfg.SpanID.IsValid()
}

// unhex decodes lower-case hexadecimal digits, the only ones that a traceparent may have.
func unhex(to []byte, s string) bool {
	for i := range to {
		high, low := digit(s[2*i]), digit(s[2*i+1])
		if high > 15 || low > 15 {
			return false
		}
		to[i] = high<<4 | low
	}
	return true
}

func digit(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	}
	return 255
}
