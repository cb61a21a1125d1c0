package rpc_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/rpc/internal/rpctest"
	"github.com/rumi-ai/rumi/libs/rpc/server"
)

type grant struct {
	PackID string `json:"-" path:"pack_id"`
	Status string `json:"-" query:"status"`
	Tail   int    `json:"-" query:"tail"`
	Name   string `json:"name"`
	Ports  []int  `json:"ports"`
	On     *bool  `json:"on"`
	Nested struct {
		Level int `json:"level"`
	} `json:"nested"`
}

func TestRequestsAreDecodedStrictly(t *testing.T) {
	w := rpctest.New(t)
	address := w.Serve(func(m *server.Mux) {
		m.Route("POST /packs/{pack_id}", rpc.Handle(func(_ context.Context, g grant) (map[string]any, error) {
			return map[string]any{"id": g.PackID, "status": g.Status, "tail": g.Tail, "name": g.Name, "ports": g.Ports}, nil
		}), "gateway")
	})
	client := &http.Client{Transport: w.Peer("gateway", address)}
	long := strings.Repeat("x", rpc.MaxBody)
	for _, c := range []struct {
		name, path, body string
		status           int
		want             string // in the answer
	}{
		{"a whole request", "/packs/a%3Ab%2Fc?status=x&tail=3", `{"name":"n","ports":[1,2]}`, 200, `{"success":true,"data":{"id":"a:b/c","name":"n","ports":[1,2],"status":"x","tail":3},"error":null}`},
		{"no body", "/packs/a", ``, 200, `"id":"a"`},
		{"white space", "/packs/a", " \r\n\t", 200, `"id":"a"`},
		{"empty lists are lists", "/packs/a", `{}`, 200, `"ports":[]`},
		{"unknown field", "/packs/a", `{"nmae":1}`, 400, `"error":"Unknown field 'nmae' (known: name, ports, on, nested)","error_code":"unknown_field"`},
		{"long unknown field", "/packs/a", `{"` + strings.Repeat("é", 80) + `":1}`, 400, "'" + strings.Repeat("é", 50) + "…'"},
		{"the same, off by one", "/packs/a", `{"x` + strings.Repeat("é", 80) + `":1}`, 400, "'x" + strings.Repeat("é", 49) + "…'"},
		{"other case", "/packs/a", `{"Name":"x"}`, 400, `Unknown field 'Name'`},
		{"path field in the body", "/packs/a", `{"pack_id":"b"}`, 400, `Unknown field 'pack_id'`},
		{"string for a number", "/packs/a", `{"ports":["443"]}`, 400, `Invalid value for field 'ports[0]': want a whole number in range`},
		{"number for a string", "/packs/a", `{"name":7}`, 400, `Invalid value for field 'name': want a string`},
		{"fraction for a whole number", "/packs/a", `{"nested":{"level":1.5}}`, 400, `Invalid value for field 'nested.level'`},
		{"number out of range", "/packs/a", `{"ports":[99999999999999999999]}`, 400, `'ports[0]'`},
		{"object for a list", "/packs/a", `{"ports":{}}`, 400, `Invalid value for field 'ports': want an array such as [1, 2]`},
		{"unknown field of an object", "/packs/a", `{"nested":{"levle":1}}`, 400, `"error":"Unknown field 'nested.levle' (known: level)"`},
		{"duplicate key", "/packs/a", `{"name":"a","name":"b"}`, 400, `Invalid JSON in request body: line 1, column 13: a name stands twice in one object`},
		{"single quotes", "/packs/a", `{'name':"a"}`, 400, `"error":"Invalid JSON in request body: line 1, column 2: a name must be in double quotes","error_code":"invalid_json"`},
		{"trailing comma", "/packs/a", "\n{\"name\":\"a\",}", 400, `Invalid JSON in request body: line 2, column 12: a comma before }`},
		{"no JSON at all", "/packs/a", `name=a`, 400, `Invalid JSON in request body: line 1, column`},
		{"invalid UTF-8", "/packs/a", "{\"name\":\"\xff\"}", 400, `Invalid JSON in request body`},
		{"an array", "/packs/a", `[]`, 400, `Invalid JSON in request body: want an object, such as`},
		{"null", "/packs/a", `null`, 400, `Invalid JSON in request body`},
		{"half of it", "/packs/a", `{"name":`, 400, `Invalid JSON in request body`},
		{"something after it", "/packs/a", `{} {}`, 400, `Invalid JSON in request body`},
		{"NaN", "/packs/a", `{"nested":{"level":NaN}}`, 400, `Invalid JSON in request body`},
		{"bad query", "/packs/a?tail=x", ``, 400, `"error":"Invalid value for field 'tail': want a whole number","error_code":"invalid_field"`},
		{"misspelt query", "/packs/a?sttus=x&tail=1", ``, 400, `"error":"Unknown parameter 'sttus' (known: status, tail)","error_code":"unknown_parameter"`},
		{"a path value as query", "/packs/a?pack_id=b", ``, 400, `Unknown parameter 'pack_id'`},
		{"query twice", "/packs/a?tail=1&tail=2", ``, 400, `Field 'tail' stands twice in the query`},
		{"bad escape", "/packs/a?status=%zz", ``, 400, `"error":"Invalid query: a percent sign is no escape; write it as %25","error_code":"invalid_query"`},
		{"semicolon", "/packs/a?status=pending;x=1", ``, 400, `Invalid query: a semicolon`},
		{"semicolon behind another", "/packs/a?tail=1;status=x", ``, 400, `Invalid query: a semicolon`},
		{"over the limit", "/packs/a", `{"name":"` + long + `"}`, 413, `Request body too large`},
		{"unknown path", "/pack", ``, 404, `"data":null,"error":"Not found","error_code":"not_found"`},
		{"path that needs cleaning", "/packs//a", ``, 404, `Not found`},
		{"one that does once it is unescaped", "/packs/%2e%2e", ``, 404, `Not found`},
	} {
		t.Run(c.name, func(t *testing.T) {
			response, err := client.Post("https://approval"+c.path, "application/json", strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			body, _ := io.ReadAll(response.Body)
			if response.StatusCode != c.status || !strings.Contains(string(body), c.want) {
				t.Fatalf("got %d %s, want %d with %s", response.StatusCode, body, c.status, c.want)
			}
			if got := response.Header.Get("Content-Type"); got != "application/json; charset=utf-8" {
				t.Errorf("the Content-Type is %q, want JSON", got)
			}
			if response.Header.Get("X-Request-Id") == "" {
				t.Error("no X-Request-Id")
			}
		})
	}
	t.Run("another method", func(t *testing.T) {
		response, err := client.Get("https://approval/packs/a")
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if response.StatusCode != 405 {
			t.Fatalf("got the status %d, want 405", response.StatusCode)
		}
	})
}

func TestAStreamThatFailsIsCutNotEnded(t *testing.T) {
	w := rpctest.New(t)
	address := w.Serve(func(m *server.Mux) {
		m.Route("GET /stream/{when}", rpc.Raw(func(rw http.ResponseWriter, r *http.Request) error {
			if r.PathValue("when") == "late" {
				rw.Write([]byte("half of"))
			}
			return fault.NotFound("No such tree")
		}), "gateway")
	})
	peer := w.Peer("gateway", address)
	if _, err := peer.Stream(t.Context(), "GET", "/stream/early", nil); !fault.Is(err, fault.KindNotFound) {
		t.Errorf("a stream that fails early: got %v, want not found", err)
	}
	response, err := peer.Stream(t.Context(), "GET", "/stream/late", nil)
	if err == nil {
		defer response.Body.Close()
		_, err = io.ReadAll(response.Body)
	}
	if err == nil {
		t.Error("late: the reader took a part for the whole")
	}
}

func FuzzDecode(f *testing.F) {
	for _, seed := range []string{`{}`, `{"name":"x","ports":[1]}`, `{"nested":{"level":1e3}}`, `[`, "\xff", `{"a":{"b":{}}}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		r := httptest.NewRequest("POST", "/", strings.NewReader(body))
		got, err := rpc.Decode[grant](r)
		if err != nil {
			if kind := fault.Of(err).Kind; kind != fault.KindInvalid {
				t.Fatalf("%v is no invalid request", err)
			}
			return
		}
		if _, err := json.Marshal(got); err != nil {
			t.Fatal(err)
		}
	})
}
