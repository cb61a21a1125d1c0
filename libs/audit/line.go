package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"strings"

	"github.com/rumi-ai/rumi/libs/text"
)

// Bounds in bytes. maxString is such that a line holds six texts of control characters, each of which takes six bytes when
// escaped.
const (
	maxLine   = 64 << 10                                                 // newline included
	maxBody   = maxLine - len(`"ts":"2006-01-02T15:04:05.000000Z",`) - 2 // without ts and two newlines (see file.torn)
	maxString = 1 << 10                                                  // a top-level text, once a line is too long
)

// line is an entry as it is written, without ts. The tags are what append does by hand.
type line struct {
	Category        string         `json:"category"`
	Severity        string         `json:"severity"`
	Action          string         `json:"action"`
	Success         bool           `json:"success"`
	OwnerPack       string         `json:"owner_pack,omitempty"`
	Phase           string         `json:"phase,omitempty"`
	Details         map[string]any `json:"details"`
	Error           string         `json:"error,omitempty"`
	RejectionReason string         `json:"rejection_reason,omitempty"`
	RequestID       string         `json:"request_id,omitempty"`
	TraceID         string         `json:"trace_id,omitempty"`
	Actor           string         `json:"actor"`
	Service         string         `json:"service"`

	attrs []slog.Attr // of the details, after those in the map
}

var noDetails = map[string]any{}

// encode appends the JSON object, at most maxBody bytes. What is too long is cut and says so: texts first, then the
// details as a whole.
func (l line) encode(dst []byte) ([]byte, error) {
	if l.Details == nil {
		l.Details = noDetails
	}
	start := len(dst)
	fits := func(out []byte, err error) bool { return err != nil || len(out)-start <= maxBody }
	out, err := l.append(dst)
	if fits(out, err) {
		return out, err
	}
	size := len(out) - start
	for _, s := range []*string{&l.Action, &l.OwnerPack, &l.Error, &l.RejectionReason, &l.RequestID, &l.Actor} {
		*s = cutString(*s, maxString)
	}
	details := maps.Clone(l.Details)
	for _, a := range l.attrs {
		details[a.Key] = a.Value.Any()
	}
	l.attrs = nil
	plain, err := plainDetails(details)
	if err != nil {
		return nil, err
	}
	for _, limit := range []int{4 << 10, 512, 64} {
		l.Details = map[string]any{"truncated": true}
		for k, v := range plain {
			l.Details[cutString(k, limit)] = cut(v, limit)
		}
		if out, err = l.append(dst); fits(out, err) {
			return out, err
		}
	}
	l.Details = map[string]any{"truncated": true, "original_bytes": size}
	return l.append(dst)
}

// plainDetails turns whatever types the caller used into maps, slices and strings.
func plainDetails(details map[string]any) (map[string]any, error) {
	raw, err := json.Marshal(details)
	if err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var plain map[string]any
	err = dec.Decode(&plain)
	return plain, err
}

// cut bounds every text to limit bytes and every list to limit items.
func cut(v any, limit int) any {
	switch v := v.(type) {
	case string:
		return cutString(v, limit)
	case []any:
		rest := 0
		if len(v) > limit {
			rest, v = len(v)-limit, v[:limit]
		}
		out := make([]any, 0, len(v)+1)
		for _, item := range v {
			out = append(out, cut(item, limit))
		}
		if rest > 0 {
			out = append(out, fmt.Sprintf("… (%d more)", rest))
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, item := range v {
			out[cutString(k, limit)] = cut(item, limit)
		}
		return out
	default:
		return v
	}
}

// cutString keeps the first limit bytes of s, whole characters only, and says how many are missing.
func cutString(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	kept := text.Prefix(s, limit)
	return fmt.Sprintf("%s… (%d bytes more)", strings.ToValidUTF8(kept, "\uFFFD"), len(s)-len(kept))
}
