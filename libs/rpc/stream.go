package rpc

import (
	"net/http"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// streamFrom is how long an answer must be, in bytes, for StreamData to begin it before it is whole.
const streamFrom = 64 << 10

// StreamData is WriteData for data that may be too large to be held: what implements json.MarshalerTo may fetch its parts while
// it is written. It is for handlers of Raw, which cuts the connection where an error comes after the first byte.
func StreamData(w http.ResponseWriter, data any) error {
	s := &spilling{w: w}
	if err := json.MarshalWrite(s, envelope{Success: true, Data: data}, json.Deterministic(true), jsontext.AllowInvalidUTF8(true)); err != nil {
		return err
	}
	return s.end()
}

// spilling keeps an answer until it is whole, or too long to be kept.
type spilling struct {
	w     http.ResponseWriter
	kept  []byte
	begun bool
}

func (s *spilling) Write(p []byte) (int, error) {
	if s.begun {
		return s.w.Write(p)
	}
	s.kept = append(s.kept, p...)
	if len(s.kept) < streamFrom {
		return len(p), nil
	}
	s.begun = true
	head(s.w, http.StatusOK)
	if _, err := s.w.Write(s.kept); err != nil {
		return 0, err
	}
	s.kept = nil
	return len(p), nil
}

func (s *spilling) end() error {
	if s.begun {
		return nil
	}
	return send(s.w, http.StatusOK, s.kept)
}
