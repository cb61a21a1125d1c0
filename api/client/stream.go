package client

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"mime/multipart"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/rumi-ai/rumi/libs/route"
)

// maxEvent bounds a line of a stream, in bytes.
const maxEvent = 16 << 20

// Follow sends a request to an endpoint that can be followed, and yields what the server sends until the stream ends, ctx ends or the loop is left.
// req must ask for it (Follow: true) where the endpoint has that parameter. An error is the last that is yielded: an *Error where the call was refused. The end of the stream is no error.
func Follow[Event, Req, Resp any](ctx context.Context, c *Client, e route.Endpoint[Req, Resp], req Req) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		var none Event
		call, err := newCall(c, e, req)
		if err != nil {
			yield(none, err)
			return
		}
		call.accept = "text/event-stream, application/json"
		response, err := call.send(ctx)
		if err != nil {
			yield(none, err)
			return
		}
		defer response.Body.Close()
		if kind := response.Header.Get("Content-Type"); !strings.HasPrefix(kind, "text/event-stream") {
			yield(none, fmt.Errorf("follow %s: the answer is %q, no stream of events: does the request ask to follow?", call.name, kind))
			return
		}
		if err := events(response.Body, yield); err != nil {
			yield(none, fmt.Errorf("follow %s: %w", call.name, err))
		}
	}
}

// Labelled is implemented by types of events that keep an event's id and name (the fields "id" and "event" of a server-sent event) beside its data.
type Labelled interface{ Label(id, name string) }

// events yields the data of server-sent events. It returns nil at the end of the stream, and where yield wants no more.
func events[Event any](stream io.Reader, yield func(Event, error) bool) error {
	lines := bufio.NewScanner(stream)
	lines.Buffer(nil, maxEvent)
	var data []byte
	var id, name string
	for lines.Scan() {
		line := lines.Bytes()
		if field, ok := bytes.CutPrefix(line, []byte("id:")); ok {
			id = string(bytes.TrimPrefix(field, []byte(" ")))
		}
		if field, ok := bytes.CutPrefix(line, []byte("event:")); ok {
			name = string(bytes.TrimPrefix(field, []byte(" ")))
		}
		if field, ok := bytes.CutPrefix(line, []byte("data:")); ok {
			if data != nil {
				data = append(data, '\n')
			}
			data = append(data, bytes.TrimPrefix(field, []byte(" "))...)
			continue
		}
		if len(line) > 0 || data == nil {
			continue // a comment, another field, or an event without data
		}
		var event Event
		if err := json.Unmarshal(data, &event); err != nil {
			return fmt.Errorf("read an event: %w", err)
		}
		if labelled, ok := any(&event).(Labelled); ok {
			labelled.Label(id, name)
		}
		if data, name = nil, ""; !yield(event, nil) {
			return nil
		}
	}
	return lines.Err()
}

// upload is a form on its way.
type upload struct {
	io.Reader
	contentType string
}

// Upload sends a form to an endpoint that takes one: file under the name of its field, and texts. The file is streamed: it may be larger than the memory.
// It is sent once only, since a reader can't be read again.
func Upload[Req, Resp any](ctx context.Context, c *Client, e route.Endpoint[Req, Resp], field, name string, file io.Reader, texts map[string]string) (Resp, error) {
	var none Resp
	var req Req
	call, err := newCall(c, e, req)
	if err != nil {
		return none, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the writer below where the answer comes first
	call.body, call.stream = nil, func() (*upload, error) { return form(ctx, field, name, file, texts), nil }
	return receive[Resp](ctx, call)
}

// form writes a form while it is read.
func form(ctx context.Context, field, name string, file io.Reader, texts map[string]string) *upload {
	out, in := io.Pipe()
	context.AfterFunc(ctx, func() { out.CloseWithError(context.Cause(ctx)) })
	writer := multipart.NewWriter(in)
	go func() { in.CloseWithError(write(writer, field, name, file, texts)) }()
	return &upload{out, writer.FormDataContentType()}
}

func write(form *multipart.Writer, field, name string, file io.Reader, texts map[string]string) error {
	for key, value := range texts {
		if value == "" {
			continue
		}
		if err := form.WriteField(key, value); err != nil {
			return err
		}
	}
	part, err := form.CreateFormFile(field, name)
	if err != nil {
		return err
	}
	if _, err := io.Copy(part, file); err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return form.Close()
}
