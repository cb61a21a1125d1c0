// Package packtrace guards the border between Rumi's traces and those that packs tell of.
//
// A pack is hostile: it can send any trace context it likes, also one that it has read elsewhere. So a context that Rumi hands to a pack has a
// member in its tracestate that is proof of it: rumi=, the sampling decision, and a MAC over that decision, the trace id and the pack's id.
// A context that comes back with the proof for this very pack continues the trace. The trace id of any other is replaced by
// HMAC(key, pack id, trace id): what a pack traces by itself stays together, and can't be in a trace of Rumi or of another pack.
//
// The pack decides nothing about sampling: it can have less recorded than Rumi decided, never more.
//
//	handed := key.Mint("weather", span.SpanContext())            // to the pack
//	parent, joined := key.Accept("weather", traceparent, tracestate) // from the pack
package packtrace

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"hash"
	"strings"
	"sync"

	"go.opentelemetry.io/otel/trace"
)

// member is the key of Rumi's member in a tracestate.
const member = "rumi"

const (
	macSize  = 16
	maxState = 4096 // bytes of a tracestate that are read; W3C asks for 512 at least
)

var encoding = base64.RawURLEncoding.Strict()

// proofSize is the length of the member's value: 1 or 0 for the sampling decision, then the MAC.
var proofSize = 1 + encoding.EncodedLen(macSize)

// Context is a trace context as the two fields of W3C Trace Context. Both are empty where there is none.
type Context struct{ TraceParent, TraceState string }

// Key mints and checks contexts. Its methods may be called concurrently.
type Key struct {
	secret [32]byte
	states sync.Pool // of *state: setting up the key costs more than a short message
}

// state is the memory of one computation.
type state struct {
	hash hash.Hash
	text []byte
	sum  [sha256.Size]byte
}

// Random returns a key that nobody else has: what was minted with another one is not joined.
func Random() *Key {
	var k Key
	_, _ = rand.Read(k.secret[:]) // never fails (crypto/rand)
	return &k
}

// Mint returns the context that a pack gets for its part in the trace of span, below it. It is empty if span is not valid. The
// tracestate that span may have itself isn't the pack's business, and not in it.
func (k *Key) Mint(packID string, span trace.SpanContext) Context {
	if !span.IsValid() {
		return Context{}
	}
	return Context{Parent(span), member + "=" + k.proof(packID, span.TraceID(), span.IsSampled())}
}

// Parent is the traceparent of a span.
func Parent(span trace.SpanContext) string {
	id, parent := span.TraceID(), span.SpanID()
	b := append(make([]byte, 0, parentSize), "00-"...)
	b = append(hex.AppendEncode(b, id[:]), '-')
	b = append(hex.AppendEncode(b, parent[:]), "-00"...)
	if span.IsSampled() {
		b[len(b)-1] = '1'
	}
	return string(b)
}

// Accept reads the context that a pack sent. joined says that it continues a trace that Rumi had handed to this pack; the sampling decision is
// the handed one then, unless the pack wants less recorded. Otherwise the trace id is the mapped one, and the sampling decision is not
// made: whoever starts a span below it decides as for a new trace. The result is invalid for a traceparent that is malformed, and has no tracestate.
func (k *Key) Accept(packID, traceparent, tracestate string) (parent trace.SpanContext, joined bool) {
	cfg, ok := parse(traceparent)
	if !ok {
		return trace.SpanContext{}, false
	}
	sampled, joined := k.Check(packID, cfg.TraceID, tracestate)
	switch {
	case !joined:
		cfg.TraceID, cfg.TraceFlags = k.Map(packID, cfg.TraceID), 0
	case !sampled:
		cfg.TraceFlags = 0
	}
	return trace.NewSpanContext(cfg), joined
}

// Check says whether a tracestate proves that Rumi handed the trace to the pack, and whether it was sampled then.
func (k *Key) Check(packID string, id trace.TraceID, tracestate string) (sampled, joined bool) {
	proof := find(tracestate)
	if len(proof) != proofSize {
		return false, false
	}
	sampled = proof[0] == '1'
	joined = hmac.Equal([]byte(proof), []byte(k.proof(packID, id, sampled)))
	return sampled && joined, joined
}

// Map returns the id that a pack's own trace has in Rumi. The same pack and id always give the same one. It is never the invalid id of zeros.
func (k *Key) Map(packID string, id trace.TraceID) (mapped trace.TraceID) {
	sum := k.mac("map", packID, id, 0)
	copy(mapped[:], sum[:])
	if !mapped.IsValid() {
		mapped[0] = 1
	}
	return mapped
}

func (k *Key) proof(packID string, id trace.TraceID, sampled bool) string {
	decision := byte('0')
	if sampled {
		decision = '1'
	}
	b := append(make([]byte, 0, proofSize), decision)
	sum := k.mac("own", packID, id, decision)
	return string(encoding.AppendEncode(b, sum[:macSize]))
}

// mac is the MAC of a message without ambiguity: purpose has three bytes, the trace id sixteen.
func (k *Key) mac(purpose, packID string, id trace.TraceID, decision byte) [sha256.Size]byte {
	st, ok := k.states.Get().(*state)
	if !ok {
		st = &state{hash: hmac.New(sha256.New, k.secret[:])}
	}
	defer k.states.Put(st)
	st.hash.Reset()
	st.text = append(append(append(append(st.text[:0], purpose...), decision), id[:]...), packID...)
	st.hash.Write(st.text)
	st.hash.Sum(st.sum[:0])
	return st.sum
}

// Strip removes Rumi's member from a tracestate, for what leaves Rumi: the proof is nobody else's business. Other members stay as they came. What
// is too long to be read is dropped whole.
func Strip(tracestate string) string {
	if len(tracestate) > maxState {
		return ""
	}
	if !strings.Contains(tracestate, member) {
		return tracestate
	}
	var kept []string
	for m := range strings.SplitSeq(tracestate, ",") {
		if !isOurs(m) {
			kept = append(kept, m)
		}
	}
	return strings.Join(kept, ",")
}

// find returns the value of the first of Rumi's members, "" for none.
func find(tracestate string) string {
	if len(tracestate) > maxState {
		return ""
	}
	for m := range strings.SplitSeq(tracestate, ",") {
		if isOurs(m) {
			_, value, _ := strings.Cut(m, "=")
			return strings.Trim(value, " \t")
		}
	}
	return ""
}

func isOurs(m string) bool {
	key, _, _ := strings.Cut(m, "=")
	return strings.Trim(key, " \t") == member
}
