package rpc

import (
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

// Bounds of what is read after an answer.
const (
	lingerBytes = 512 << 20
	lingerTime  = 30 * time.Second // in all
	lingerIdle  = 5 * time.Second  // for the next piece
	maxLingers  = 64               // at a time; further clients are cut off
)

var lingers atomic.Int32

// Body is a request's body that knows whether it was read to its end. Only the request's own goroutine may call TrackBody. Unread may
// be called while another goroutine reads.
type Body struct {
	io.ReadCloser
	ended  atomic.Bool
	failed atomic.Bool // an error other than the end: most often the deadline, so the client had its time
}

// TrackBody replaces r.Body by a Body and returns that. It returns nil if r has no body.
func TrackBody(r *http.Request) *Body {
	if r.Body == nil || r.Body == http.NoBody {
		return nil
	}
	b := &Body{ReadCloser: r.Body}
	r.Body = b
	return b
}

// Read implements io.Reader.
func (b *Body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	switch err {
	case nil:
	case io.EOF:
		b.ended.Store(true)
	default:
		b.failed.Store(true)
	}
	return n, err
}

// Unread says whether something of the body may still come. That of nil never does.
func (b *Body) Unread() bool { return b != nil && !b.ended.Load() }

// Linger reads on, for nothing, what a client sends that has been answered before it had sent its whole body. Most clients read no
// answer before they have sent everything, and would find a broken connection instead. The answer's Connection header must be
// "close". The bounds keep a client that sends for ever, slowly or nothing from more than a connection for lingerTime.
func (b *Body) Linger(w http.ResponseWriter) {
	if !b.Unread() || b.failed.Load() {
		return
	}
	defer lingers.Add(-1)
	if lingers.Add(1) > maxLingers {
		return
	}
	connection := http.NewResponseController(w)
	if connection.Flush() != nil {
		return
	}
	end := time.Now().Add(lingerTime)
	dropped := make([]byte, 32<<10)
	for left := lingerBytes; left > 0; {
		until := time.Now().Add(lingerIdle)
		if until.After(end) {
			until = end
		}
		if connection.SetReadDeadline(until) != nil {
			return
		}
		n, err := b.Read(dropped)
		if left -= n; err != nil {
			return
		}
	}
}
