package rpc_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/rumi-ai/rumi/libs/rpc"
)

// part is data that is fetched while it is written.
type part func() (string, error)

func (p part) MarshalJSONTo(enc *jsontext.Encoder) error {
	text, err := p()
	if err != nil {
		return err
	}
	return enc.WriteToken(jsontext.String(text))
}

const long = 100 << 10

func parts(n, size int) []part {
	all := make([]part, n)
	for i := range all {
		all[i] = func() (string, error) { return strings.Repeat(strconv.Itoa(i%10), size), nil }
	}
	return all
}

func TestStreamDataIsWriteData(t *testing.T) {
	for name, data := range map[string]any{"nothing": nil, "short": map[string]int{"b": 1, "a": 2}, "long": parts(20, long)} {
		want, got := httptest.NewRecorder(), httptest.NewRecorder()
		if err := errors.Join(rpc.WriteData(want, data), rpc.StreamData(got, data)); err != nil {
			t.Fatal(err)
		}
		if name == "long" {
			want.Header().Del("Content-Length") // nobody knows it when the answer begins
		}
		if got.Code != 200 || got.Body.String() != want.Body.String() || !jsonEqual(got.Header(), want.Header()) {
			t.Errorf("%s: answered %d, %v, %d bytes, want %v, %d bytes", name, got.Code, got.Header(), got.Body.Len(), want.Header(), want.Body.Len())
		}
	}
}

func jsonEqual(a, b http.Header) bool {
	x, err1 := json.Marshal(a, json.Deterministic(true))
	y, err2 := json.Marshal(b, json.Deterministic(true))
	return err1 == nil && err2 == nil && string(x) == string(y)
}

// What was fetched is on its way before much more is.
func TestStreamDataBuffersLittle(t *testing.T) {
	w := httptest.NewRecorder()
	all := parts(100, long)
	most := 0
	for i, fetch := range all {
		all[i] = func() (string, error) {
			most = max(most, i*long-w.Body.Len())
			return fetch()
		}
	}
	if err := rpc.StreamData(w, all); err != nil {
		t.Fatal(err)
	}
	if most > 10*long {
		t.Errorf("%d bytes were held, want at most %d", most, 10*long)
	}
}

func TestStreamDataThatFailsEarlyIsAnError(t *testing.T) {
	failing := append(parts(1, 10), func() (string, error) { return "", errors.New("no") })
	w := httptest.NewRecorder()
	rpc.Raw(func(w http.ResponseWriter, _ *http.Request) error { return rpc.StreamData(w, failing) }).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	if w.Code != 500 || !strings.Contains(w.Body.String(), `"error":"Internal server error"`) {
		t.Errorf("got %d %s, want 500 without the cause", w.Code, w.Body)
	}
	defer func() {
		if recover() != any(http.ErrAbortHandler) {
			t.Error("an answer that failed late was not cut")
		}
	}()
	failing = append(parts(5, long), failing...)
	rpc.Raw(func(w http.ResponseWriter, _ *http.Request) error { return rpc.StreamData(w, failing) }).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
}
