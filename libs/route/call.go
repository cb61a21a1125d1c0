package route

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"sync"

	"github.com/rumi-ai/rumi/libs/rpc/client"
)

// Call asks the service behind peer and returns the answer's data. It is the inverse of rpc.Decode: fields tagged path and query go
// into the address, the others into the body. Errors, and the time that a call without a deadline may take, are those of client.Call.
func Call[Req, Resp any](ctx context.Context, peer *client.Peer, e Endpoint[Req, Resp], req Req) (Resp, error) {
	return CallAs[Resp](ctx, peer, e, req)
}

// CallAs is Call for a caller that reads the data as a type of its own: it passes parts of the answer on as they came, or reads few of
// its fields.
func CallAs[T, Req, Resp any](ctx context.Context, peer *client.Peer, e Endpoint[Req, Resp], req Req) (T, error) {
	path, body, err := address(&e.route, req)
	if err != nil {
		var none T
		return none, err
	}
	return client.Call[T](ctx, peer, e.route.Method, path, body)
}

// Open asks for an answer that is no envelope. The caller reads and closes the answer's body; a status other than 2xx is an error, as
// of client.Peer.Stream.
func Open[Req, Resp any](ctx context.Context, peer *client.Peer, e Endpoint[Req, Resp], req Req) (*http.Response, error) {
	path, body, err := address(&e.route, req)
	if err != nil {
		return nil, err
	}
	return peer.Stream(ctx, e.route.Method, path, body)
}

// Path is the path, with the query, that a request to e has. Values that a path can't hold are escaped.
func Path[Req, Resp any](e Endpoint[Req, Resp], req Req) (string, error) {
	path, _, err := address(&e.route, req)
	return path, err
}

// Parts are the path, with the query, and the body that a request to e has: nil where no field travels in the body. The body is encoded as JSON.
func Parts[Req, Resp any](e Endpoint[Req, Resp], req Req) (path string, body any, err error) {
	return address(&e.route, req)
}

// address splits a request into its path, with the query, and its body: nil where no field travels there.
func address(r *Route, req any) (path string, body any, err error) {
	value := reflect.ValueOf(req)
	path = r.Pattern
	query := url.Values{}
	for _, f := range fieldsOf(value.Type()) {
		if f.in == inBody {
			body = req
			continue
		}
		text, err := format(value.Field(f.index))
		if err != nil {
			return "", nil, fmt.Errorf("call %s: %s: %w", r.Name(), f.name, err)
		}
		switch {
		case f.in == inPath && text == "":
			return "", nil, fmt.Errorf("call %s: %s is empty", r.Name(), f.name)
		case f.in == inPath:
			path = strings.ReplaceAll(path, "{"+f.name+"}", url.PathEscape(text))
		case !value.Field(f.index).IsZero():
			query.Set(f.name, text)
		}
	}
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	return path, body, nil
}

func format(v reflect.Value) (string, error) {
	switch v.Kind() {
	case reflect.String:
		return v.String(), nil
	case reflect.Int, reflect.Int64:
		return strconv.FormatInt(v.Int(), 10), nil
	case reflect.Bool:
		return strconv.FormatBool(v.Bool()), nil
	default:
		return "", fmt.Errorf("a %s can't be in a path or a query", v.Type())
	}
}

// Where a field of a request travels.
const (
	inBody = iota
	inPath
	inQuery
)

type field struct {
	index int
	in    int
	name  string // in the path or the query
}

var known sync.Map // reflect.Type → []field

// fieldsOf are the fields of a request type that travel.
func fieldsOf(t reflect.Type) []field {
	if cached, ok := known.Load(t); ok {
		return cached.([]field)
	}
	var fields []field
	for i := range t.NumField() {
		f := t.Field(i)
		switch {
		case f.Tag.Get("path") != "":
			fields = append(fields, field{i, inPath, f.Tag.Get("path")})
		case f.Tag.Get("query") != "":
			fields = append(fields, field{i, inQuery, f.Tag.Get("query")})
		case f.Tag.Get("json") != "-" && (f.IsExported() || f.Anonymous):
			fields = append(fields, field{i, inBody, ""})
		}
	}
	known.Store(t, fields)
	return fields
}
