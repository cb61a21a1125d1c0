// Package api is a client of Rumi's public API, as an operator's script would use it. It shares no code with the services' own clients.
package api

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// maxAnswer is the largest answer that is read, in bytes.
const maxAnswer = 64 << 20

// Client is an operator with a token. Base and Token are required.
type Client struct {
	Base  string // http://host:port
	Host  string // the Host header; "" for Base's
	Token string
	Trace string // the traceparent of requests; "" for none

	HTTP    http.Client
	Waiting func(time.Duration) // called before a wait for the rate limit; may be nil
}

// Answer is an answer of the API: its envelope and headers.
type Answer struct {
	Status    int
	RequestID string // the X-Request-Id of the request, which its audit entries have, too
	Header    http.Header

	Success bool
	Data    jsontext.Value
	Error   string
	Code    string // error_code
}

// Into decodes the data into v.
func (a Answer) Into(v any) error {
	if err := json.Unmarshal(a.Data, v); err != nil {
		return fmt.Errorf("decode %s: %w", a.Data, err)
	}
	return nil
}

// String is the answer on one line.
func (a Answer) String() string {
	if a.Success {
		return fmt.Sprintf("%d %s", a.Status, a.Data)
	}
	return fmt.Sprintf("%d %s", a.Status, a.Error)
}

// Get sends GET path.
func (c *Client) Get(ctx context.Context, path string) (Answer, error) {
	return c.call(ctx, http.MethodGet, path, "", nil)
}

// Delete sends DELETE path.
func (c *Client) Delete(ctx context.Context, path string) (Answer, error) {
	return c.call(ctx, http.MethodDelete, path, "", nil)
}

// Post sends POST path with body as JSON, or without a body if it is nil.
func (c *Client) Post(ctx context.Context, path string, body any) (Answer, error) {
	if body == nil {
		return c.call(ctx, http.MethodPost, path, "", nil)
	}
	data, err := json.Marshal(body)
	if err != nil {
		return Answer{}, fmt.Errorf("encode request: %w", err)
	}
	return c.call(ctx, http.MethodPost, path, "application/json", data)
}

// Upload imports an archive by upload, under a file name.
func (c *Client) Upload(ctx context.Context, name string, archive []byte) (Answer, error) {
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	part, err := form.CreateFormFile("file", name)
	if err == nil {
		_, err = part.Write(archive)
	}
	if err == nil {
		err = form.Close()
	}
	if err != nil {
		return Answer{}, fmt.Errorf("encode upload: %w", err)
	}
	return c.call(ctx, http.MethodPost, "/api/packs/import", form.FormDataContentType(), body.Bytes())
}

// Stream sends GET path and returns the answer without reading its body, for server-sent events. The caller closes the body.
func (c *Client) Stream(ctx context.Context, path string) (*http.Response, error) {
	request, err := c.request(ctx, http.MethodGet, path, "", nil)
	if err != nil {
		return nil, err
	}
	response, err := c.HTTP.Do(request)
	if err != nil {
		return nil, fmt.Errorf("call %s: %w", path, err)
	}
	if response.StatusCode != http.StatusOK {
		defer response.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(response.Body, 4096))
		return nil, fmt.Errorf("call %s: answered %d %s", path, response.StatusCode, text)
	}
	return response, nil
}

// call sends a request. If the answer is 429, it waits for the time in Retry-After and sends the request again.
func (c *Client) call(ctx context.Context, method, path, contentType string, body []byte) (Answer, error) {
	for {
		answer, err := c.once(ctx, method, path, contentType, body)
		if err != nil || answer.Status != http.StatusTooManyRequests {
			return answer, err
		}
		seconds, err := strconv.Atoi(answer.Header.Get("Retry-After"))
		if err != nil {
			return answer, fmt.Errorf("call %s: answered 429 without a Retry-After in seconds", path)
		}
		wait := time.Duration(seconds) * time.Second
		if c.Waiting != nil {
			c.Waiting(wait)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return answer, ctx.Err()
		}
	}
}

// once sends a request once. It checks the answer's form: content type, envelope, and the request's own X-Request-Id.
func (c *Client) once(ctx context.Context, method, path, contentType string, body []byte) (Answer, error) {
	request, err := c.request(ctx, method, path, contentType, body)
	if err != nil {
		return Answer{}, err
	}
	response, err := c.HTTP.Do(request)
	if err != nil {
		return Answer{}, fmt.Errorf("call %s %s: %w", method, path, err)
	}
	defer response.Body.Close()
	answer := Answer{Status: response.StatusCode, RequestID: request.Header.Get("X-Request-Id"), Header: response.Header}
	data, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return answer, fmt.Errorf("call %s %s: read answer: %w", method, path, err)
	}
	if got := response.Header.Get("Content-Type"); got != "application/json; charset=utf-8" {
		return answer, fmt.Errorf("call %s %s: answered %d as %q: %.200s", method, path, response.StatusCode, got, data)
	}
	var envelope struct {
		Success bool           `json:"success"`
		Data    jsontext.Value `json:"data"`
		Error   *string        `json:"error"`
		Code    string         `json:"error_code"`
	}
	if err := json.Unmarshal(data, &envelope); err != nil {
		return answer, fmt.Errorf("call %s %s: answered %d %.200s: %w", method, path, response.StatusCode, data, err)
	}
	if id := response.Header.Get("X-Request-Id"); id != answer.RequestID {
		return answer, fmt.Errorf("call %s %s: answered with X-Request-Id %q, want the caller's own %q", method, path, id, answer.RequestID)
	}
	answer.Success, answer.Data, answer.Code = envelope.Success, envelope.Data, envelope.Code
	if envelope.Error != nil {
		answer.Error = *envelope.Error
	}
	return answer, nil
}

func (c *Client) request(ctx context.Context, method, path, contentType string, body []byte) (*http.Request, error) {
	request, err := http.NewRequestWithContext(ctx, method, c.Base+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("call %s: %w", path, err)
	}
	if c.Host != "" {
		request.Host = c.Host
	}
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	request.Header.Set("Authorization", "Bearer "+c.Token)
	request.Header.Set("X-Request-Id", "e2e-"+rand.Text())
	if c.Trace != "" {
		request.Header.Set("Traceparent", c.Trace)
	}
	return request, nil
}
