package secrets

import (
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// redacted is what a Value shows of itself.
const redacted = "[redacted]"

// errUnmarshalable is why a Value has no JSON or text form.
var errUnmarshalable = errors.New("marshal secret value: a secret value is not to be written out; use Exposed where it must be")

// Value is the value of a secret. It prints and logs as "[redacted]" and can't be marshalled; Reveal is the only way to
// the text. The text is behind a function so that printers that walk unexported fields by reflection, where no method
// of ours is called, find nothing but a code address.
type Value struct{ reveal func() string }

// NewValue wraps text.
func NewValue(text string) Value { return Value{func() string { return text }} }

// Reveal gives the text; "" for the zero Value.
func (v Value) Reveal() string {
	if v.reveal == nil {
		return ""
	}
	return v.reveal()
}

// String implements fmt.Stringer.
func (Value) String() string { return redacted }

// Format implements fmt.Formatter: every verb shows the same.
func (Value) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue implements slog.LogValuer.
func (Value) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON always fails.
func (Value) MarshalJSON() ([]byte, error) { return nil, errUnmarshalable }

// MarshalText always fails.
func (Value) MarshalText() ([]byte, error) { return nil, errUnmarshalable }

// Exposed is a Value on the wire between services. Only the encoder of rpc shows its text: to encoding/json, and so to
// a logger, it is as closed as any Value.
type Exposed struct{ Value }

// MarshalJSONTo gives the text as a JSON string.
func (e Exposed) MarshalJSONTo(out *jsontext.Encoder) error {
	return out.WriteToken(jsontext.String(e.Reveal()))
}

// UnmarshalJSONFrom reads a JSON string.
func (e *Exposed) UnmarshalJSONFrom(in *jsontext.Decoder) error {
	var text string
	if err := json.UnmarshalDecode(in, &text); err != nil {
		return errors.New("read secret value: not a JSON string") // the cause might quote it
	}
	e.Value = NewValue(text)
	return nil
}

// Input is the value that an operator sends. It keeps a string out of sight from the first byte.
type Input struct {
	Exposed
	IsString bool // false where something else was sent, or nothing: then there is no text
}

// NewInput is the string text.
func NewInput(text string) Input { return Input{Exposed{NewValue(text)}, true} }

// UnmarshalJSONFrom accepts any JSON value: the service itself refuses what is no string, with the answer that clients know. An error
// is the decoder's, which says where a string is malformed.
func (v *Input) UnmarshalJSONFrom(in *jsontext.Decoder) error {
	if in.PeekKind() != '"' {
		return in.SkipValue()
	}
	var text string
	if err := json.UnmarshalDecode(in, &text); err != nil {
		return err
	}
	*v = NewInput(text)
	return nil
}
